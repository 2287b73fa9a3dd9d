"""At an agent's start: what the one before it left is taken back, ended or cleaned up, before anybody hears of it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from sojourn.agent.arrivals import Arrivals
from sojourn.agent.attendance import Attendance
from sojourn.agent.departures import Departures
from sojourn.agent.journal import Half
from sojourn.agent.runner import Runner, as_error
from sojourn.errors import SandboxFailed, SojournError
from sojourn.sandbox.base import open_sandbox
from sojourn.sandbox.mounts import remove_tree
from sojourn.wire import SandboxStopped, SessionDied

log = logging.getLogger(__name__)


async def recover(runner: Runner, departures: Departures, arrivals: Arrivals) -> None:
    """Put all lives of the journal in order, each by itself: what one of them suffers from must not keep the rest."""
    halves = {(half.session, half.born): half for half in runner.journal.halves()}
    for life in runner.journal.lives():
        attendance = runner.add(life)
        try:
            await _recover_one(runner, departures, arrivals, attendance, halves.get((life.session, life.born)))
        except Exception as failed:
            error = as_error(failed, "be taken back", life)
            log.error("%s", error)
            await _bury(runner, attendance, error.message)
    await asyncio.to_thread(_remove_orphans, runner)


async def _recover_one(
    runner: Runner, departures: Departures, arrivals: Arrivals, attendance: Attendance, half: Half | None
) -> None:
    life = attendance.life
    alive = await asyncio.to_thread(attendance.sandbox.alive)
    log.info("found session %s, %s, its rider %s", life, life.state, "alive" if alive else "gone")
    if life.state == "stopping":
        await runner.end(attendance, SandboxStopped(session=life.session, incarnation=life.incarnation))
    elif half is not None and half.side == "source":
        await departures.recover(half, attendance)
    elif half is not None and life.state != "running":
        await arrivals.recover(half, attendance)
    elif life.state == "starting":
        # The rider's program may have begun, but nobody has met it yet: begin again, from nothing.
        await asyncio.to_thread(attendance.sandbox.remove)
        runner.add(life)
        runner.spawn(runner.start_again(runner.attended[life.session, life.born]))
    elif alive:
        if half is not None:
            # Every page was in; only the note of it was not put away.
            runner.journal.forget_half(half.move)
        await attendance.open()
    else:
        await _bury(runner, attendance, "it was gone when the agent came back (a reboot, or killed meanwhile).")


async def _bury(runner: Runner, attendance: Attendance, reason: str) -> None:
    life = attendance.life
    died = SessionDied(session=life.session, incarnation=life.incarnation, reason=reason)
    try:
        await runner.end(attendance, died)
    except Exception as stuck:
        # Kept in the journal: the next start tries again.
        log.error("could not clean up after session %s: %s", life, stuck)
        runner.attended.pop((life.session, life.born), None)


def _remove_orphans(runner: Runner) -> None:
    """Folders of sandboxes that are in no row of the journal."""
    known = {runner.node.folder(life.session, life.born) for life in runner.journal.lives()}
    for folder in runner.node.sandboxes.iterdir():
        if folder not in known:
            log.warning("removing %s, which no session owns", folder.name)
            _remove(folder)


def _remove(folder: Path) -> None:
    try:
        open_sandbox(folder).remove()
    except (OSError, SandboxFailed) as failed:
        log.info("%s", failed)
        try:
            remove_tree(folder)
        except (OSError, SojournError) as stuck:
            log.error("could not remove %s: %s", folder, stuck)
