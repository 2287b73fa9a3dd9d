"""Images: make a root for sessions, bring it to nodes, and see where it is."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.arguments import AsJson
from sojourn.cli.connection import chosen, complete_images, complete_nodes, connect
from sojourn.errors import Incompatible, Invalid, SojournError, Unknown

if TYPE_CHECKING:
    from rich.progress import Progress

    from sojourn.client import Client
    from sojourn.client.words import ImageView, Transfer
    from sojourn.model import Image

image = typer.Typer(name="image", help="The roots that sessions may start from.", no_args_is_help=True)

LOOK_SECONDS = 0.3
"""Between two looks at images that are on their way."""
RECIPES = ("Containerfile", "Dockerfile")
SHORT_ID = 12

Reference = Annotated[
    str, typer.Argument(metavar="REF", help="An image's name, as podman has it.", autocompletion=complete_images)
]


def add_to(app: typer.Typer) -> None:
    app.add_typer(image)


@image.command()
def build(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A Containerfile, or a folder with one; without it, Sojourn's own recipe.", exists=True),
    ] = None,
    tag: Annotated[str, typer.Option(help="What to call it; without it, like the folder, or `sojourn`.")] = "",
    packages: Annotated[
        str, typer.Option(metavar="A,B", help="Python packages to install, as pip names them (the recipe's PACKAGES).")
    ] = "",
    base: Annotated[str, typer.Option(metavar="REF", help="The image to begin with (the recipe's BASE).")] = "",
    python: Annotated[str, typer.Option(metavar="3.12", help="Which Python's slim image to begin with.")] = "",
    podman: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="For podman build itself, as --podman=--no-cache; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build an image with podman on this machine, and see that a kernel can live in it."""
    from sojourn.cli.screen import amount, print_json
    from sojourn.sandbox import images

    arguments = {"BASE": base, "PYTHON": python, "PACKAGES": " ".join(filter(None, packages.split(",")))}
    given = {name: value for name, value in arguments.items() if value}
    folder, containerfile = recipe_in(recipe)
    name = full_name(tag or default_tag(recipe))
    with _steps(f"Build {name}", show=not as_json) as say:
        built = _built(folder, containerfile, name, given, podman or (), say)
    with _steps("See whether a kernel can live in it", show=not as_json):
        lacking = images.lacking(built.id)
    if as_json:
        print_json({"image": built, "lacking": lacking})
    if lacking:
        raise Incompatible(f"{name} is built, but is no root for a kernel.", " ".join(lacking))
    if not as_json:
        print(f"{name}: {built.id[:SHORT_ID]}, {amount(built.size_bytes)}.")
        print(f"`sojourn image pull {name}` brings it to the nodes.")
        print(f"`sojourn kernelspec install --image {name}` lets Jupyter offer kernels from it.")


@image.command()
def recipe() -> None:
    """Print Sojourn's own recipe, to be changed and built."""
    from sojourn.sandbox.images import recipe

    print(recipe(), end="")


@image.command()
def pull(
    reference: Reference,
    node: Annotated[
        list[str] | None,
        typer.Option(help="Only to this node; may be repeated.", autocompletion=complete_nodes),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring an image to the nodes: from its registry, from a node that has it, or from this machine.

    All nodes that can start sessions from images get the very same one.
    """
    from sojourn.cli.screen import print_json

    with connect() as client:
        ended = bring(client, reference, node, show=not as_json)
    if as_json:
        print_json(ended)
    else:
        print(*map(fate, ended), sep="\n")
    if any(one.error for one in ended):
        raise typer.Exit(1)


@image.command("list")
def list_images(as_json: AsJson = False) -> None:
    """List the images of the nodes, and the sessions that are from them."""
    from sojourn.cli.screen import print_json, print_table

    with connect() as client:
        found = client.images()
    if as_json:
        return print_json(found)
    columns = ("IMAGE", "ID", "SIZE", "NODES", "SESSIONS")
    return print_table(columns, map(_row, found), "No images. `sojourn image build` makes one.")


@image.command()
def remove(
    reference: Reference,
    node: Annotated[str | None, typer.Option(help="Only from this node.", autocompletion=complete_nodes)] = None,
    as_json: AsJson = False,
) -> None:
    """Remove an image from the nodes. One where a session runs from it keeps it."""
    from sojourn.cli.screen import print_json

    with connect() as client:
        answer = client.remove_image(reference, node).nodes
    if as_json:
        print_json(answer)
    else:
        for name, kept in answer.items():
            print(f"{name}: {' '.join((kept['message'], kept['hint'])) if kept else 'removed'}")
    if any(answer.values()):
        raise typer.Exit(1)


# ── building ─────────────────────────────────────────────────────────────────────────────────────────────────


def recipe_in(given: Path | None) -> tuple[Path | None, Path | None]:
    """(the folder that a recipe may copy from, the recipe); both None: Sojourn's own. Raises Invalid."""
    if given is None:
        return None, None
    if given.is_file():
        return given.parent, given
    for name in RECIPES:
        if (given / name).is_file():
            return given, given / name
    raise Invalid(
        f"There is no {' or '.join(RECIPES)} in {given}.", f"`sojourn image recipe > {given / RECIPES[0]}` makes one."
    )


def default_tag(given: Path | None) -> str:
    if given is None:
        return "sojourn"
    folder = given.resolve() if given.is_dir() else given.resolve().parent
    return "".join(letter if letter.isalnum() else "-" for letter in folder.name.lower()).strip("-") or "sojourn"


def full_name(tag: str) -> str:
    """As podman will have it: on this machine, unless a registry is named, and the latest unless a version is."""
    *host, name = tag.rsplit("/", 1)
    versioned = name if ":" in name else f"{name}:latest"
    return f"{host[0]}/{versioned}" if host else f"localhost/{versioned}"


def _built(
    folder: Path | None,
    containerfile: Path | None,
    name: str,
    arguments: dict[str, str],
    more: Sequence[str],
    say: Callable[[str], None],
) -> Image:
    from sojourn.sandbox import images

    with tempfile.TemporaryDirectory() as empty:
        if containerfile is None:
            containerfile = Path(empty) / RECIPES[0]
            containerfile.write_text(images.recipe())
        return images.build(folder or Path(empty), containerfile, name, arguments, more, say)


@contextmanager
def _steps(title: str, show: bool) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr with the last line that was said, if somebody looks."""
    from rich.text import Text

    from sojourn.cli.screen import console

    screen = console(stderr=True)
    if not (show and screen.is_terminal):
        yield lambda _: None
        return
    with screen.status(Text(f"{title} …")) as status:
        yield lambda line: status.update(Text.assemble(f"{title} … ", (line[: screen.width - len(title) - 8], "dim")))


# ── bringing ─────────────────────────────────────────────────────────────────────────────────────────────────


def bring(client: Client, reference: str, nodes: Sequence[str] | None, show: bool) -> list[Transfer]:
    """Bring an image to nodes, and follow it until it is there or can't be. What no registry and no node has, or is
    newer here, comes from this machine. Raises Unknown when nobody has it."""
    own = _own(reference)
    offered = own if own and any(name.startswith("localhost/") for name in (reference, *own.names)) else None
    ended = follow(client, client.pull_image(reference, nodes, offered), show)
    failed = [one.node for one in ended if one.error]
    if failed and own and not offered:
        again = follow(client, client.pull_image(reference, failed, own), show)
        ended = [*(one for one in ended if not one.error), *again]
    return ended


def follow(client: Client, transfers: Sequence[Transfer], show: bool) -> list[Transfer]:
    """Until each has ended. Those that are this machine's to bring are brought, one after the other."""
    now, carried = {one.id: one for one in transfers}, set[str]()
    with bars(show) as draw:
        while True:
            for one in now.values():
                if one.place and one.ended_at is None and one.place.ticket not in carried:
                    carried.add(one.place.ticket)
                    _carry(one, partial(_draw_sent, draw, one))
            now |= {one.id: one for one in client.transfers() if one.id in now}
            for one in now.values():
                draw(one)
            if all(one.ended_at is not None for one in now.values()):
                return list(now.values())
            time.sleep(LOOK_SECONDS)


def fate(transfer: Transfer) -> str:
    """What became of it, in a line."""
    from sojourn.cli.screen import amount, duration

    if transfer.error:
        return f"{transfer.node}: {transfer.error['message']} {transfer.error['hint']}".rstrip()
    if transfer.way == transfer.node:
        return f"{transfer.node}: has it already"
    seconds = (transfer.ended_at or transfer.began_at) - transfer.began_at
    source = {"registry": "its registry", "": "this machine"}.get(transfer.way, transfer.way)
    size = f", {amount(transfer.total_bytes)}" if transfer.total_bytes else ""
    return f"{transfer.node}: here from {source} in {duration(seconds)}{size}"


@contextmanager
def bars(show: bool) -> Iterator[Callable[[Transfer], None]]:
    """A progress bar for each node on stderr, if somebody looks."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sojourn.cli.screen import console

    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not (show and screen.is_terminal)) as progress:
        yield lambda transfer: _draw(progress, transfer)


@contextmanager
def shipping(client: Client, show: bool) -> Iterator[None]:
    """While something lasts that may bring an image along: how far that is, if somebody looks."""
    if not (show and sys.stderr.isatty()):
        yield
        return
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(client, over), daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _watch(client: Client, over: threading.Event) -> None:
    with suppress(SojournError), bars(show=True) as draw:
        before = {one.id for one in client.transfers() if one.ended_at is not None}
        while not over.wait(LOOK_SECONDS):
            for transfer in client.transfers():
                if transfer.id not in before:
                    draw(transfer)


def _draw(progress: Progress, transfer: Transfer) -> None:
    line = next((task.id for task in progress.tasks if task.fields["node"] == transfer.node), None)
    if line is None:
        line = progress.add_task("", total=None, node=transfer.node)
    total = transfer.total_bytes or None
    done = total if total and transfer.ended_at and not transfer.error else transfer.done_bytes
    step = transfer.step or ("done" if transfer.ended_at else "on its way")
    progress.update(line, description=f"{transfer.node}: {step}", completed=done or 0, total=total)


def _draw_sent(draw: Callable[[Transfer], None], transfer: Transfer, done_bytes: int) -> None:
    draw(transfer.model_copy(update={"done_bytes": done_bytes, "step": "from this machine"}))


def _carry(transfer: Transfer, sent: Callable[[int], None]) -> None:
    """Bring an image of this machine to its place. What goes wrong there is known to the controller as well."""
    from sojourn.agent.images import send
    from sojourn.transport.routes import Routes, relay_of

    assert transfer.place
    place = transfer.place
    routes = Routes(transfer.node, place.address, relay_of(chosen().url), place.authority)
    send(transfer.image, routes, place.ticket, sent)


def _own(reference: str) -> Image | None:
    """What this machine's podman has of that name."""
    from sojourn.sandbox import images

    try:
        return images.find(reference) if not images.missing() else None
    except (Unknown, SojournError):
        return None


def _row(view: ImageView) -> tuple[str, ...]:
    from sojourn.cli.screen import amount

    return (
        " ".join(view.image.names) or "–",
        view.image.id[:SHORT_ID],
        amount(view.image.size_bytes),
        " ".join(view.nodes),
        " ".join(view.sessions),
    )
