"""Watching a save or a wake to its end: a progress bar if somebody looks, and the truth about it afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from sojourn.errors import SojournError, from_wire

if TYPE_CHECKING:
    from sojourn.client import Client, Watched
    from sojourn.model import SaveReport, SaveView, WakeView

    Task = TypeVar("Task", SaveView, WakeView)

OVER = ("done", "failed")
STEPS = {
    "saving": "its state goes into the store",
    "releasing": "the checkpoint is whole, its node lets go of it",
    "rolling_back": "it goes on where it was",
    "waking": "its sandbox is being made",
    "filling": "it runs, its last pages arrive",
    "abandoning": "what had come is removed",
    "done": "done",
    "failed": "failed",
}
"""What each phase means for who waits."""


def follow_save(client: Client, session: str, save: str, show: bool) -> SaveView | None:
    """The save when it is over, or when Ctrl-C has ended the watching, never the save. None if it was never seen.
    Raises what it failed with."""
    return _follow(client, session, lambda watched: watched.save, save, show)


def follow_wake(client: Client, session: str, wake: str | None, show: bool) -> WakeView | None:
    """The same for a wake; None: for the one under way, if any is."""
    return _follow(client, session, lambda watched: watched.wake, wake, show)


def _follow(
    client: Client, session: str, task_of: Callable[[Watched], Task | None], identity: str | None, show: bool
) -> Task | None:
    last: Task | None = None
    try:
        with _bar(show) as draw:
            for watched in client.watch(session):
                task = task_of(watched)
                if task and identity in (None, task.id):
                    draw(last := task)
                if last is None or last.phase in OVER:
                    break
    except KeyboardInterrupt:
        print("No longer watching; it goes on. `sojourn sessions` shows it.", file=sys.stderr)
    if last and last.phase == "failed":
        raise from_wire(last.error) if last.error else SojournError("It failed, and nobody said why.")
    return last


@contextmanager
def _bar(show: bool) -> Iterator[Callable[[Task], None]]:
    """A progress bar on stderr: what the session is doing, and how many of its bytes are where they belong."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sojourn.cli.screen import console

    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not (show and screen.is_terminal)) as progress:
        line = progress.add_task("", total=None)

        def draw(task: Task) -> None:
            step = f"{task.node}: {STEPS[task.phase]}"
            progress.update(line, description=step, completed=task.done_bytes, total=task.total_bytes or None)

        yield draw


@contextmanager
def waiting(what: str, show: bool) -> Iterator[None]:
    """A spinner on stderr for what has no measure."""
    from sojourn.cli.screen import console

    screen = console(stderr=True)
    if not (show and screen.is_terminal):
        yield
        return
    with screen.status(what):
        yield


def cost_of_saving(report: SaveReport) -> str:
    """How long it stood still, what was saved, and what of it the store did not have yet."""
    from sojourn.cli.screen import amount, duration

    what = f"{amount(report.memory_bytes)} of memory and {amount(report.layer_bytes)} of files"
    stored = f"{amount(report.stored_bytes)} of it new in the store"
    return f"frozen for {duration(report.frozen_s)}, {what} saved in {duration(report.total_s)}, {stored}"


def cost_of_waking(wake: WakeView) -> str:
    """How soon it ran again, and where its pages are."""
    from sojourn.cli.screen import amount, duration

    if wake.thawed_at is None:
        return "it is waking"
    awake = f"runs again after {duration(max(0.0, wake.thawed_at - wake.started_at))}"
    if wake.ended_at is None:
        return f"{awake}, {amount(wake.total_bytes - wake.done_bytes)} of pages still to come"
    filled = duration(max(0.0, wake.ended_at - wake.thawed_at))
    return f"{awake}, every page ({amount(wake.total_bytes)}) there {filled} later"
