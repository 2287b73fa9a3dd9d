"""The source's halves of moves: a session of this node leaves it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from sojourn import movers
from sojourn.agent.attendance import Attendance
from sojourn.agent.journal import Half
from sojourn.agent.links import DialledLink
from sojourn.agent.runner import Runner, as_error
from sojourn.errors import Busy, Immovable, MoveFailed, SojournError
from sojourn.movers.base import Departure
from sojourn.wire import (
    CommitMove,
    Depart,
    Event,
    MoveCommitted,
    MoveRolledBack,
    MoveStumbled,
    RollBackMove,
    SessionDied,
    SessionSent,
)

log = logging.getLogger(__name__)

_HANG_UP_SECONDS = 10.0

Result = TypeVar("Result")


@dataclass
class Leaving:
    """A session that is on its way from here."""

    half: Half
    attendance: Attendance
    mover: Departure
    link: DialledLink | None = None
    running: asyncio.Task[None] | None = None
    stumbled: MoveStumbled | None = None
    """What the mover said; passed on when the session's state here is settled."""
    decided: bool = False
    """The controller has spoken: how the mover's run ends is nobody's concern any more."""


class Departures:
    def __init__(self, runner: Runner) -> None:
        self._runner, self._journal = runner, runner.journal
        self._leaving: dict[str, Leaving] = {}
        self._loop = asyncio.get_running_loop()
        runner.carry(Depart, self._depart)
        runner.carry(CommitMove, self._commit)
        runner.carry(RollBackMove, self._roll_back)
        runner.enders.append(self._end)

    # ── instructions ─────────────────────────────────────────────────────────────────────────────────────────

    async def _depart(self, asked: Depart) -> None:
        async with self._runner.turns[asked.session]:
            if asked.move in self._leaving:
                return
            try:
                attendance = self._ready(asked)
            except SojournError as refused:
                self._journal.write_event(_stumbled(asked.move, asked.session, refused, resumed=True))
                return
            half = Half(side="source", born=attendance.life.born, **asked.model_dump(exclude={"do"}))
            with self._journal.transaction():
                self._journal.write_half(half)
                attendance.write(state="departing", move=asked.move)
            leaving = Leaving(half, attendance, self._mover(half, attendance))
            self._leaving[asked.move] = leaving
            leaving.running = self._runner.spawn(self._run(leaving))

    async def _commit(self, asked: CommitMove) -> None:
        committed = MoveCommitted(move=asked.move, session=asked.session)
        async with self._runner.turns[asked.session]:
            if leaving := self._leaving.get(asked.move):
                await self._runner.end(leaving.attendance, committed)
            else:
                self._journal.write_event(committed)

    async def _roll_back(self, asked: RollBackMove) -> None:
        async with self._runner.turns[asked.session]:
            try:
                attendance = self._runner.here(asked.session)
            except SojournError as gone:
                self._journal.write_event(_dead(asked, gone))
                return
            if attendance.life.incarnation > asked.incarnation:
                return
            if leaving := self._leaving.get(asked.move):
                try:
                    await _stop(leaving)
                    await asyncio.to_thread(leaving.mover.roll_back)
                except Exception as failed:
                    await self._runner.end(attendance, _dead(asked, as_error(failed, "roll back", attendance.life)))
                    return
                if leaving.mover.scathed and asked.epoch <= attendance.life.epoch:
                    self._ask_for_reset(leaving, MoveFailed("CRIU was killed while it dumped the session."))
                    return
            rolled_back = MoveRolledBack(move=asked.move, session=asked.session, incarnation=asked.incarnation)
            attendance.door.close(Busy(f"Session {attendance.life} was rolled back.", "Ask for its new place."))
            await self._go_on(attendance, asked.move, rolled_back, incarnation=asked.incarnation, epoch=asked.epoch)

    async def recover(self, half: Half, attendance: Attendance) -> None:
        """An agent before this one left the move half done."""
        facts = merged(self._journal.notes(half.move))
        mover = movers.recover_departure(
            attendance.sandbox, half.move, half.strategy, facts, **self._callables(half, attendance)
        )
        leaving = self._leaving[half.move] = Leaving(half, attendance, mover)
        if not mover.resumed:
            attendance.write(state="departed")
            attendance.door.close(Busy(f"Session {attendance.life} has left."))
            attendance.watch()
            return
        await asyncio.to_thread(leaving.mover.roll_back)
        error = MoveFailed(
            f"The agent of node {self._runner.node.name} was restarted during the move.", "Move it again."
        )
        if mover.scathed:
            self._ask_for_reset(leaving, error)
            attendance.watch()
            return
        await self._go_on(attendance, half.move, _stumbled(half.move, half.session, error, resumed=True))

    # ── the work ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, leaving: Leaving) -> None:
        half = leaving.half

        def work() -> None:
            leaving.link = DialledLink(half.address, half.ticket)
            leaving.mover.run(leaving.link)

        try:
            await in_own_thread(f"depart {half.move[:8]}", work)
        except Exception as failed:
            # Not here: who has the session's turn may be waiting for this run to end.
            self._runner.spawn(self._come_back(leaving, failed))

    async def _come_back(self, leaving: Leaving, failed: Exception) -> None:
        """The mover's run has failed."""
        half = leaving.half
        async with self._runner.turns[half.session]:
            if leaving.decided:
                return
            error = as_error(failed, "depart", leaving.attendance.life)
            log.warning("move %s stumbled at the source: %s", half.move, error)
            event = leaving.stumbled or _stumbled(half.move, half.session, error, leaving.mover.resumed)
            if leaving.mover.scathed:
                self._ask_for_reset(leaving, error)
            elif leaving.mover.resumed:
                await self._go_on(leaving.attendance, half.move, event)
            else:
                self._journal.write_event(event)

    async def _go_on(self, attendance: Attendance, move: str, event: Event, **changes: Any) -> None:
        """The session runs here; its rider and its clients may know."""
        self._leaving.pop(move, None)
        with self._journal.transaction():
            self._journal.forget_half(move)
            attendance.write(event, state="running", move=None, **changes)
        await attendance.open()

    def _ask_for_reset(self, leaving: Leaving, error: SojournError) -> None:
        """The session runs here, but nobody may be let in before the controller has given it a new epoch."""
        leaving.attendance.door.close(
            Busy(f"Session {leaving.attendance.life} is being reset.", "Ask for its new place.")
        )
        event = _stumbled(leaving.half.move, leaving.half.session, error, resumed=False)
        self._journal.write_event(event.model_copy(update={"scathed": True}))

    async def _end(self, attendance: Attendance) -> None:
        """The life that leaves is over, committed or killed."""
        for leaving in [leaving for leaving in self._leaving.values() if leaving.attendance is attendance]:
            await _stop(leaving)
            await asyncio.to_thread(leaving.mover.commit)
            self._leaving.pop(leaving.half.move, None)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _ready(self, asked: Depart) -> Attendance:
        attendance = self._runner.here(asked.session)
        if attendance.life.state != "running":
            raise Busy(f"Session {attendance.life} is {attendance.life.state}.", "Move it when it runs.")
        if attendance.life.sandbox != "runc":
            raise Immovable(f"Session {attendance.life} is a plain process.", "Start it on nodes with runc and CRIU.")
        if attendance.life.incarnation >= asked.incarnation:
            raise MoveFailed(f"Move {asked.move} is over; session {attendance.life} lives under a newer incarnation.")
        return attendance

    def _mover(self, half: Half, attendance: Attendance) -> Departure:
        return movers.departure(attendance.sandbox, half.move, half.strategy, **self._callables(half, attendance))

    def _callables(self, half: Half, attendance: Attendance) -> dict[str, Any]:
        return {
            "tell": lambda event: self._told(half.move, event),
            "note": lambda facts: self._journal.note(half.move, facts),
            "hang_up": lambda: self._hang_up(attendance),
        }

    def _told(self, move: str, event: Any) -> None:
        """By the mover, in its thread."""
        leaving = self._leaving[move]
        if isinstance(event, MoveStumbled):
            leaving.stumbled = event
        elif isinstance(event, SessionSent):
            leaving.attendance.write(event, state="departed")
        else:
            self._journal.write_event(event)

    def _hang_up(self, attendance: Attendance) -> None:
        asyncio.run_coroutine_threadsafe(attendance.hang_up(), self._loop).result(_HANG_UP_SECONDS)


async def _stop(leaving: Leaving) -> None:
    """End the mover's run, whatever it is doing."""
    leaving.decided = True
    if leaving.link:
        leaving.link.close()
    if leaving.running:
        await asyncio.gather(leaving.running, return_exceptions=True)


def merged(notes: list[dict[str, Any]]) -> dict[str, Any]:
    """What a mover noted, the newest word on each thing."""
    return {name: value for note in notes for name, value in note.items()}


async def in_own_thread(name: str, work: Callable[[], Result]) -> Result:
    """Like asyncio.to_thread, for what lasts: it must not take a place among the workers."""
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()  # who stops waiting does not stop the work

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as failed:
            future.set_exception(failed)

    Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)


def _stumbled(move: str, session: str, error: SojournError, resumed: bool) -> MoveStumbled:
    return MoveStumbled(move=move, session=session, side="source", resumed=resumed, error=error.to_wire())


def _dead(asked: RollBackMove, error: SojournError) -> SessionDied:
    return SessionDied(session=asked.session, incarnation=asked.incarnation, reason=error.message)
