"""`sojourn checkpoints`, and what is done with them; `sojourn gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sojourn.cli.arguments import AsJson, CheckpointName
from sojourn.cli.connection import complete_checkpoints, complete_sessions, connect

if TYPE_CHECKING:
    from sojourn.model import CheckpointView


class ListUnlessTold(TyperGroup):
    """`checkpoints` and `checkpoints SESSION` list; `checkpoints rm ID` is a command."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        if arguments and arguments[0] in self.commands:
            arguments = ["", *arguments]
        else:
            context.allow_interspersed_args = True
        return super().parse_args(context, arguments)


checkpoints = typer.Typer(name="checkpoints", cls=ListUnlessTold, invoke_without_command=True, no_args_is_help=False)


def add_to(app: typer.Typer) -> None:
    app.add_typer(checkpoints)
    app.command()(gc)


@checkpoints.callback()
def list_checkpoints(
    context: typer.Context,
    session: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="Only those of one session.", autocompletion=complete_sessions),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints, newest first; verify or delete one."""
    from sojourn.cli.screen import print_json, print_table

    if context.invoked_subcommand:
        return None
    with connect() as client:
        found = client.checkpoints(session or None)
    if as_json:
        return print_json(found)
    columns = ("CHECKPOINT", "NAME", "SESSION", "KIND", "NODE", "MEMORY", "STORED", "FROZEN", "AGE", "STATE")
    return print_table(columns, map(_row, found), "No checkpoints. `sojourn checkpoint SESSION` makes one.")


@checkpoints.command()
def verify(
    checkpoint: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Its id or name; without it, all.", autocompletion=complete_checkpoints),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only look whether every chunk is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every chunk of a checkpoint and check its seal.

    Exits with 1 if something is missing or damaged. A damaged checkpoint is not woken from any more.
    """
    from sojourn.cli.following import waiting
    from sojourn.cli.screen import print_json

    with connect() as client:
        views = [client.checkpoint_view(checkpoint)] if checkpoint else client.checkpoints()
        found = []
        for number, view in enumerate(views, 1):
            with waiting(f"checkpoint {view.name or view.id[:8]} ({number} of {len(views)})", show=not as_json):
                found.append(client.verify(view.id, deep=not quick))
            if not as_json:
                _say(view, found[-1].problems)
    if as_json:
        print_json(found)
    elif not found:
        print("No checkpoints.")
    if any(one.problems for one in found):
        raise typer.Exit(1)


@checkpoints.command("rm")
def remove(checkpoint: CheckpointName) -> None:
    """Delete a checkpoint; refused while a session sleeps in it."""
    with connect() as client:
        view = client.checkpoint_view(checkpoint)
        client.drop_checkpoint(view.id)
    print(f"Deleted {view.name or view.id[:8]}; `sojourn gc` frees its room now, else it is done within the hour.")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove from the store what no checkpoint uses.

    Done every hour by itself; safe while checkpoints are written.
    """
    from sojourn.cli.following import waiting
    from sojourn.cli.screen import amount, print_json

    with connect() as client, waiting("the store is being looked through", show=not as_json):
        swept = client.gc(dry_run)
    if as_json:
        return print_json(swept)
    would = "Would remove" if dry_run else "Removed"
    dropped = f" {len(swept.dropped)} checkpoints and" if swept.dropped else ""
    slack = f" {amount(swept.slack_bytes)} stay with it." if swept.slack_bytes else ""
    print(f"{would}{dropped} {amount(swept.bytes)}; {amount(swept.used_bytes)} are in use.{slack}")
    if swept.busy:
        print("A checkpoint is being written: what else is its owner's waits for the next time.")
    return None


def _say(view: CheckpointView, problems: tuple[str, ...]) -> None:
    name = f"{view.name or view.id[:8]} of {view.session_name or view.session[:8]}"
    print(f"{name}: {'whole' if not problems else 'damaged'}")
    for problem in problems:
        print(f"  {problem}")


def _row(view: CheckpointView) -> tuple[str, ...]:
    from sojourn.cli.screen import age, amount, duration

    return (
        view.id[:8],
        view.name or "–",
        view.session_name or view.session[:8],
        view.kind,
        view.node,
        amount(view.report.memory_bytes),
        amount(view.report.stored_bytes),
        duration(view.report.frozen_s),
        age(view.created_at),
        "damaged" if view.problem else "whole",
    )
