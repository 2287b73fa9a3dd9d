"""`sojourn move`: bring a session to another node, and say truly what that cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sojourn.cli.arguments import AsJson, PlaceName, SessionName
from sojourn.cli.connection import connect
from sojourn.cli.images import shipping
from sojourn.errors import MoveFailed, from_wire

if TYPE_CHECKING:
    from sojourn.client import Client
    from sojourn.model import Folder, LostName, MovePlan, MoveView

ENDED = ("done", "failed")
STEPS = {
    "preparing": "the target gets ready, the session runs",
    "departing": "frozen, on its way",
    "filling": "it runs there, its last pages arrive",
    "committing": "every page is in, the source is released",
    "rolling_back": "back to the source",
    "done": "done",
    "failed": "failed",
}
"""What each phase means for who waits."""


def add_to(app: typer.Typer) -> None:
    app.command()(move)


def move(
    session: SessionName,
    place: PlaceName,
    strategy: Annotated[
        Literal["auto", "lazy", "copy"],
        typer.Option(help="lazy: it runs again while its memory follows. copy: memory first. auto: the shorter pause."),
    ] = "auto",
    carrier: Annotated[
        Literal["auto", "criu", "objects"],
        typer.Option(
            "--with",
            help="criu: the very processes. objects: a new kernel with its Python names. auto: CRIU where that can.",
        ),
    ] = "auto",
    drop: Annotated[
        list[str] | None, typer.Option("--drop", metavar="NAME", help="Give up a name that can't travel as an object.")
    ] = None,
    drop_all: Annotated[bool, typer.Option("--drop-all", help="Give up all that can't travel as objects.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move a running session; its clients stay connected.

    Waits until every page of its memory has arrived, and says in one line what that cost.
    """
    from sojourn.cli.screen import print_json

    how: dict[str, Any] = {
        "strategy": strategy,
        "carrier": carrier,
        "may_lose": ("*",) if drop_all else tuple(drop or ()),
    }
    with connect() as client:
        with shipping(client, show=not as_json):
            answer = client.move(session, place, dry_run=dry_run, wait="accepted", **how)
        moved = follow(client, answer.move, show=not as_json) if answer.move else None
    if as_json:
        print_json({"move": moved, "plan": answer.plan})
    elif dry_run:
        print_plan(answer.plan)
    else:
        print(truth(moved) if moved else f"It is on {answer.session.node} already; nothing was done.")
        print_losses(moved.report.lost if moved else (), moved.report.notes if moved else ())
    if dry_run and not answer.plan.fits:
        raise typer.Exit(1)


def truth(move: MoveView) -> str:
    """The one line at the end: what the session felt, what travelled, and where its pages are."""
    from sojourn.cli.screen import amount, duration

    report = move.report
    travelled = f"{amount(report.page_bytes)} of pages and {amount(report.layer_bytes)} of files"
    ahead = "".join(f"; {amount(one.total_bytes)} of its {one.what} went ahead" for one in report.shipments)
    if move.strategy == "objects":
        travelled, pages = amount(report.page_bytes), "in a new kernel"
    elif move.strategy == "copy":
        pages = "every page came with it"
    elif move.phase in ("done", "committing"):
        pages = f"every page there {duration(report.filled_s)} later"
    else:
        pages = f"{amount(move.total_bytes - move.done_bytes)} of pages still filling"
    resets = f"; connections reset: {', '.join(report.connections_reset)}" if report.connections_reset else ""
    left = f"; left behind: {', '.join(report.left)}" if report.left else ""
    head = f"{move.source} → {move.target} ({move.strategy}{', relayed by the controller' if report.relayed else ''})"
    return f"{head}: frozen for {duration(report.frozen_s)}, {travelled}, {pages}{ahead}{resets}{left}"


def follow(client: Client, move: MoveView, show: bool) -> MoveView:
    """Watch a move to its end; Ctrl-C stops the watching, never the move. Raises what the move failed with."""
    last = move
    try:
        with _bar(show) as draw:
            for watched in client.watch(move.session):
                if watched.move and watched.move.id == move.id:
                    draw(last := watched.move)
                if last.phase in ENDED:
                    break
    except KeyboardInterrupt:
        print("No longer watching; the move goes on. `sojourn moves` shows it.", file=sys.stderr)
    if last.phase == "failed":
        raise from_wire(last.error) if last.error else MoveFailed("The move failed; the session is where it was.")
    return last


@contextmanager
def _bar(show: bool) -> Iterator[Callable[[MoveView], None]]:
    """A progress bar on stderr, if somebody looks: what the session is doing, and how many of its pages are there."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sojourn.cli.screen import console

    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not (show and screen.is_terminal)) as progress:
        task = progress.add_task("", total=None)

        def draw(move: MoveView) -> None:
            step, done, total = _stage(move)
            description = f"{move.source} → {move.target}: {step}"
            progress.update(task, description=description, completed=done, total=total or None)

        yield draw


def _stage(move: MoveView) -> tuple[str, int, int]:
    """What goes on, and how many bytes of how many have come."""
    for one in move.report.shipments:
        if move.phase == "departing" and one.done_bytes < one.total_bytes:
            return f"it runs, its {one.what} goes ahead", one.done_bytes, one.total_bytes
    if move.strategy == "objects" and move.phase == "departing":
        return "it stands still, its objects go over", move.done_bytes, move.total_bytes
    if move.phase == "departing" and not move.report.froze:
        return "it runs, its files go ahead", move.done_bytes, move.total_bytes
    return STEPS[move.phase], move.done_bytes, move.total_bytes


def print_plan(plan: MovePlan) -> None:
    """What a move would do: whether it fits, how, how long, and what is reset."""
    from sojourn.cli.screen import amount

    if plan.source == plan.target:
        print(f"It is on {plan.source} already; nothing would be done.")
        return
    if not plan.fits:
        print(f"{plan.source} → {plan.target or 'anywhere'}: it can't move.")
        print(*(f"  because: {reason}" for reason in plan.refusals), sep="\n")
        print(*([f"  {plan.hint}"] if plan.hint else []), sep="\n", end="\n" if plan.hint else "")
        if plan.luggage:
            print_losses(plan.luggage.lost, ())
        return
    print(f"{plan.source} → {plan.target}: it fits.")
    print(f"  strategy:    {plan.strategy}{f' ({plan.why})' if plan.why else ''}")
    print(*(_of_objects if plan.strategy == "objects" else _of_processes)(plan), sep="\n")
    if plan.no_network:
        print(f"  network:     none there: {plan.no_network}")
    if plan.image:
        print(f"  goes ahead:  its image {plan.image}, {amount(plan.image_bytes)}")
    for layer in plan.environment:
        print(f"  goes ahead:  {layer.part}, of its environment, up to {amount(layer.size_bytes)}")
    for folder in plan.folders:
        print(f"  {f'{folder.mode}:':<13}{folder.path}{_fate(folder)}")
    if plan.luggage and plan.strategy == "objects":
        print_losses(plan.luggage.lost, plan.luggage.notes)


def _of_processes(plan: MovePlan) -> Iterator[str]:
    from sojourn.cli.screen import amount

    yield f"  travels:     {amount(plan.page_bytes)} of pages, {amount(plan.layer_bytes)} of files"
    yield f"  stands still {_expected(plan.frozen_s)}"
    yield f"  all there:   {'when it runs again' if plan.strategy == 'copy' else _expected(plan.filled_s, ' later')}"
    yield f"  reset:       {', '.join(plan.connections_reset) or 'no connection'}; the monotonic clock steps"


def _of_objects(plan: MovePlan) -> Iterator[str]:
    from sojourn.cli.screen import amount

    if plan.luggage:
        yield f"  travels:     {_names(plan.luggage.names)}, {amount(plan.luggage.size_bytes)}, into a new kernel there"
    yield f"  stands still {_expected(plan.frozen_s)}"
    yield "  reset:       every connection"


def _names(count: int) -> str:
    return "1 name" if count == 1 else f"{count} names"


def print_losses(lost: Sequence[LostName], notes: Sequence[str]) -> None:
    """What objects leave behind, as a table, and what arrives otherwise than it is."""
    from sojourn.cli.screen import print_table

    if lost:
        rows = [(one.name, one.path, one.why) for one in lost]
        print_table(("LOST", "BECAUSE OF", "WHY"), rows, "", prose=True)
    for note in notes:
        print(f"note: {note}")


def _fate(folder: Folder) -> str:
    from sojourn.cli.screen import amount

    if folder.mode == "carried":
        return f", {amount(folder.size_bytes)}"
    if folder.mode == "shared":
        return ": the very same one there"
    return ": stays behind; there it is that node's own folder of that path, or an empty one"


def _expected(seconds: float | None, then: str = "") -> str:
    from sojourn.cli.screen import duration

    return f"about {duration(seconds)}{then}" if seconds is not None else "after a time not yet known"
