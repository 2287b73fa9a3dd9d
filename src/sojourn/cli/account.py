"""Which controller is used, and who may use it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sojourn.cli.arguments import AsJson
from sojourn.cli.connection import connect
from sojourn.errors import Invalid, SojournError

tokens = typer.Typer(name="token", help="Tokens for people (api) and for agents (join).", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command()(login)
    app.command()(logout)
    app.add_typer(tokens)


def login(
    url: Annotated[str, typer.Argument(metavar="URL", help="The controller, as https://sojourn.example:8571.")],
    token: Annotated[
        str | None, typer.Option(help="An api token. Without it, it is asked for, or read from a pipe.")
    ] = None,
    moved: Annotated[
        bool, typer.Option("--moved", help="It is the controller used so far, at another address: its token stays.")
    ] = False,
) -> None:
    """Use a controller from now on.

    Tries the token, then writes both to config.toml, readable by you alone. By the fingerprint in the token the
    controller is known, now and from then on.
    """
    from sojourn.client import Client

    normal_url(url)  # what means nothing is refused before anything is asked
    secret = token or (_present_token() if moved else _ask())
    url = normal_url(url, secret)
    with Client(url, secret) as client:
        names = [node.name for node in client.nodes()]
    path = write_settings(url, secret)
    print(f"Logged in to {url} ({', '.join(names) or 'no nodes yet'}); written to {path}.")


def logout() -> None:
    """Forget the controller chosen by `sojourn login`."""
    from sojourn.settings import config_folder, file_settings

    if "controller" not in file_settings():
        raise SojournError("No controller has been chosen by `sojourn login`.")
    path = config_folder() / "config.toml"
    _replace(path, without_controller(path.read_text()))
    print(f"Removed from {path}.")


@tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what it is for.")],
    kind: Annotated[Literal["api", "join"], typer.Option(help="api: for a person. join: for agents.")] = "api",
) -> None:
    """Make a token and print it; it is shown this once."""
    with connect() as client:
        print(client.create_token(kind, name)["token"])


@tokens.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    from sojourn.cli.screen import age, print_json, print_table

    with connect() as client:
        found = client.tokens()
    if as_json:
        return print_json(found)
    rows = (
        (row["id"], row["kind"], row["name"], "yes" if row["admin"] else "", age(row["created_at"])) for row in found
    )
    return print_table(("ID", "KIND", "NAME", "ADMIN", "AGE"), rows, "No tokens.")


@tokens.command()
def revoke(identity: Annotated[str, typer.Argument(metavar="ID", help="As `sojourn token list` shows it.")]) -> None:
    """Make a token worthless."""
    with connect() as client:
        client.revoke_token(identity)
    print(f"Revoked {identity}.")


def normal_url(text: str, token: str = "") -> str:
    """A controller's address with its scheme (https, if the token names an authority) and without a path; raises
    Invalid."""
    from urllib.parse import urlsplit

    from sojourn.transport.routes import is_loopback, relay_of
    from sojourn.transport.tls import pin_of

    sealed = pin_of(token) and not is_loopback(relay_of(f"http://{text}"))
    parts = urlsplit(text if "://" in text else f"http{'s' if sealed else ''}://{text}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise Invalid(f"{text!r} is not the address of a controller.", "Write it as https://HOST:PORT.")
    return f"{parts.scheme}://{parts.netloc}"


def write_settings(url: str, token: str) -> Path:
    """Put the controller into config.toml, keeping everything else that stands there."""
    import json

    from sojourn.settings import config_folder, file_settings

    file_settings()  # refuses to touch a file it can't read
    path = config_folder() / "config.toml"
    others = without_controller(path.read_text()) if path.exists() else ""
    # JSON's strings are TOML's basic strings.
    section = f"[controller]\nurl = {json.dumps(url)}\ntoken = {json.dumps(token)}\n"
    _replace(path, f"{others.rstrip()}\n\n{section}".lstrip())
    return path


def without_controller(toml: str) -> str:
    """A settings file without its section [controller]; every other line, comments too, stays as it is."""
    kept, inside = [], False
    for line in toml.splitlines(keepends=True):
        if line.lstrip().startswith("["):
            inside = line.split("#")[0].strip() == "[controller]"
        if not inside:
            kept.append(line)
    return "".join(kept)


def _present_token() -> str:
    from sojourn.settings import configured_controller

    if present := configured_controller():
        return present.token
    raise Invalid("No controller has been used so far.", "Leave out --moved, and give a token.")


def _ask() -> str:
    """The token from the terminal, unseen, or the first line of a pipe."""
    secret = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not (secret := str(secret).strip()):
        raise Invalid("No token was given.", "`sojourn token create NAME`, run where the controller is, makes one.")
    return secret


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
