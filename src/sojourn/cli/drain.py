"""`sojourn drain`: empty a node, and `undrain`: open it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.arguments import AsJson
from sojourn.cli.connection import complete_nodes, connect
from sojourn.errors import Invalid

if TYPE_CHECKING:
    from sojourn.client import Decided

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="A node's name.", autocompletion=complete_nodes)]
UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def add_to(app: typer.Typer) -> None:
    app.command()(drain)
    app.command()(undrain)


def drain(
    node: NodeName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    deadline: Annotated[
        str | None, typer.Option("--deadline", metavar="TIME", help="When it ends, as 90s, 5min or 2h from now.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Shown to whoever asks why nothing starts there.")] = "",
    as_json: AsJson = False,
) -> None:
    """Bring nothing to a node any more, and its sessions away.

    To other nodes where there is room, else into the store.
    """
    from sojourn.cli.screen import print_json

    with connect() as client:
        decisions = client.drain(node, dry_run, seconds(deadline) if deadline else None, reason)
        names = {view.id: view.name or view.id[:8] for view in client.sessions()}
    if as_json:
        return print_json(decisions)
    print(f"{node} {'would be' if dry_run else 'is'} drained; sessions that leave it: {len(decisions)}.")
    for one in decisions:
        print(f"  {names.get(one.session, one.session[:8])}: {_deed(one)} ({one.why})")
    if decisions and not dry_run:
        print("`sojourn sessions` shows how far they are; `sojourn undrain` opens the node again.")
    return None


def undrain(node: NodeName) -> None:
    """Open a drained node again.

    What has left it does not come back by itself.
    """
    with connect() as client:
        client.undrain(node)
    print(f"{node} is open again.")


def seconds(text: str) -> float:
    """`90`, `90s`, `5min`, `2h` in seconds; raises Invalid."""
    number = text.rstrip("smhin ")
    unit = text[len(number) :].strip() or "s"
    try:
        return float(number) * UNITS[unit]
    except (ValueError, KeyError):
        raise Invalid(f"{text!r} is not a time.", "Write 90s, 5min or 2h.") from None


def _deed(one: Decided) -> str:
    return f"{one.kind} to {one.target}" if one.target else one.kind
