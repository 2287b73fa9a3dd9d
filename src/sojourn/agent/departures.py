"""The source's halves of moves, and saves: a session of this node leaves it, for another node or for the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

from sojourn import movers
from sojourn.agent.attendance import Attendance
from sojourn.agent.journal import Half, Life
from sojourn.agent.links import DialledLink
from sojourn.agent.load import Pace
from sojourn.agent.meters import memory_in_use
from sojourn.agent.runner import Runner, as_error
from sojourn.errors import Busy, Immovable, MoveFailed, SaveFailed, SojournError, WakeFailed
from sojourn.model import SaveReport
from sojourn.movers.base import Departure
from sojourn.movers.objects.departure import ObjectsDeparture
from sojourn.transport.routes import Routes
from sojourn.wire import (
    CommitMove,
    Depart,
    Event,
    FillProgressed,
    MoveCommitted,
    MoveRolledBack,
    MoveStumbled,
    RollBackMove,
    SaveSession,
    SessionDied,
    SessionFrozen,
    SessionSaved,
    SessionSent,
    ShipmentProgressed,
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
    frozen_at: float = 0.0
    """On the monotonic clock."""
    stumbled: MoveStumbled | None = None
    """What the mover said; passed on when the session's state here is settled."""
    decided: bool = False
    """The controller has spoken: how the mover's run ends is nobody's concern any more."""


class Departures:
    def __init__(
        self, runner: Runner, relay: Callable[[], str] = lambda: "", authority: Callable[[], str] = lambda: ""
    ) -> None:
        """`relay()`: host:port of the controller's, by which targets are reached that can't be dialled themselves.
        `authority()`: who vouches for targets; empty: nothing is sealed."""
        self._runner, self._journal, self._relay, self._authority = runner, runner.journal, relay, authority
        self._leaving: dict[str, Leaving] = {}
        self._loop = asyncio.get_running_loop()
        self.pace = Pace()
        """At which sessions have lately left."""
        runner.carry(Depart, self._depart)
        runner.carry(SaveSession, self._save)
        runner.carry(CommitMove, self._commit)
        runner.carry(RollBackMove, self._roll_back)
        runner.enders.append(self._end)

    # ── instructions ─────────────────────────────────────────────────────────────────────────────────────────

    async def _depart(self, asked: Depart) -> None:
        await self._begin(asked.session, asked.move, lambda: self._half_of_move(asked))

    async def _save(self, asked: SaveSession) -> None:
        await self._begin(asked.session, asked.save, lambda: self._half_of_save(asked))

    async def _begin(self, session: str, move: str, made: Callable[[], Half]) -> None:
        async with self._runner.turns[session]:
            if move in self._leaving or self._journal.is_end_unheard(move):
                return
            try:
                half = made()
                attendance = self._runner.here(session)
                mover = self._mover(half, attendance)
            except SojournError as refused:
                self._journal.write_event(_stumbled(move, session, refused, resumed=True))
                return
            with self._journal.transaction():
                self._journal.write_half(half)
                attendance.write(state="running" if half.keep else "departing", move=move)
            leaving = self._leaving[move] = Leaving(half, attendance, mover)
            leaving.running = self._runner.spawn(self._run(leaving))

    async def _commit(self, asked: CommitMove) -> None:
        committed = MoveCommitted(move=asked.move, session=asked.session)
        async with self._runner.turns[asked.session]:
            leaving = self._leaving.get(asked.move)
            if leaving is None:
                self._journal.write_event(committed)
                return
            if leaving.half.kind == "move":
                await asyncio.to_thread(self._measure_move, leaving)
            await self._runner.end(leaving.attendance, committed)

    async def _roll_back(self, asked: RollBackMove) -> None:
        async with self._runner.turns[asked.session]:
            leaving = self._leaving.get(asked.move)
            try:
                attendance = leaving.attendance if leaving else self._runner.here(asked.session)
            except SojournError as gone:
                self._journal.write_event(_dead(asked, gone))
                return
            if attendance.life.incarnation > asked.incarnation:
                return
            if leaving:
                try:
                    await _stop(leaving)
                    await asyncio.to_thread(leaving.mover.roll_back)
                except Exception as failed:
                    await self._runner.bury(attendance, _dead(asked, as_error(failed, "roll back", attendance.life)))
                    return
                if leaving.mover.scathed and asked.epoch <= attendance.life.epoch:
                    self._ask_for_reset(leaving, MoveFailed("CRIU was killed while it dumped the session."))
                    return
            rolled_back = MoveRolledBack(move=asked.move, session=asked.session, incarnation=asked.incarnation)
            attendance.door.close(Busy(f"Session {attendance.life} was rolled back.", "Ask for its new place."))
            await self._go_on(attendance, asked.move, rolled_back, incarnation=asked.incarnation, epoch=asked.epoch)

    async def recover(self, half: Half, attendance: Attendance) -> None:
        """An agent before this one left the move or save half done."""
        facts = merged(self._journal.notes(half.move))
        mover = self._recovered(half, attendance, facts)
        leaving = self._leaving[half.move] = Leaving(half, attendance, mover)
        if not mover.resumed:
            self._await_verdict(leaving, facts)
            return
        await asyncio.to_thread(mover.roll_back)
        error = interrupted(half, self._runner.node.name)
        if mover.scathed:
            self._ask_for_reset(leaving, error)
            attendance.watch()
            return
        await self._go_on(attendance, half.move, _stumbled(half.move, half.session, error, resumed=True))

    def _await_verdict(self, leaving: Leaving, facts: dict[str, Any]) -> None:
        """All was sent, or saved, before the agent was killed; of the save perhaps nobody has been told yet."""
        half, attendance = leaving.half, leaving.attendance
        untold = half.kind == "save" and attendance.life.state != "departed"
        attendance.write(*([_told_again(half, facts)] if untold else []), state="departed")
        attendance.door.close(Busy(f"Session {attendance.life} has left."))
        attendance.watch()

    # ── the work ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, leaving: Leaving) -> None:
        half = leaving.half

        def work() -> None:
            if half.kind == "move":
                routes = Routes(half.target, half.address, self._relay(), self._authority())
                leaving.link = DialledLink(routes, half.ticket)
            leaving.mover.run(leaving.link)

        try:
            await in_own_thread(f"{half.kind} {half.move[:8]}", work)
        except Exception as failed:
            # Not here: who has the session's turn may be waiting for this run to end.
            self._runner.spawn(self._come_back(leaving, failed))

    async def _come_back(self, leaving: Leaving, failed: Exception) -> None:
        """The mover's run has failed."""
        half = leaving.half
        async with self._runner.turns[half.session]:
            if leaving.decided:
                return
            error = as_error(failed, "depart" if half.kind == "move" else "be saved", leaving.attendance.life)
            log.warning("%s %s stumbled at the source: %s", half.kind, half.move, error)
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
        # A mover's thread takes its own out when a kept session's checkpoint is whole.
        for leaving in [leaving for leaving in list(self._leaving.values()) if leaving.attendance is attendance]:
            await _stop(leaving)
            await asyncio.to_thread(leaving.mover.commit)
            self._leaving.pop(leaving.half.move, None)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _half_of_move(self, asked: Depart) -> Half:
        life = self._ready(asked.session, alive=asked.strategy != "objects")
        if life.incarnation >= asked.incarnation:
            raise MoveFailed(f"Move {asked.move} is over; session {life} lives under a newer incarnation.")
        return Half(side="source", born=life.born, **asked.model_dump(exclude={"do"}))

    def _half_of_save(self, asked: SaveSession) -> Half:
        life = self._ready(asked.session)
        if life.incarnation != asked.incarnation:
            raise SaveFailed(f"Save {asked.save} is of incarnation {asked.incarnation}; session {life} is another.")
        said = asked.model_dump(exclude={"do", "save"})
        return Half(kind="save", side="source", born=life.born, move=asked.save, **said)

    def _ready(self, session: str, alive: bool = True) -> Life:
        """The session's life here, which may leave, `alive`: with its processes; raises Unknown, Busy, Immovable."""
        life = self._runner.here(session).life
        if life.state != "running":
            raise Busy(f"Session {life} is {life.state}.", "Try again when it runs.")
        if life.move is not None:
            raise Busy(f"Session {life} is being saved.", "Try again when its checkpoint is whole.")
        if alive and life.sandbox != "runc":
            raise Immovable(f"Session {life} is a plain process.", "Start it on nodes with runc and CRIU.")
        return life

    def _mover(self, half: Half, attendance: Attendance) -> Departure:
        if half.strategy == "objects":
            return self._mover_of_objects(half, attendance)
        sandbox, callables = attendance.sandbox, self._callables(half, attendance)
        if half.kind == "move":
            return movers.departure(sandbox, half.move, half.strategy, **callables)
        assert half.store
        return movers.save(sandbox, half.move, half.store, keep=half.keep, **callables)

    def _mover_of_objects(self, half: Half, attendance: Attendance) -> ObjectsDeparture:
        return ObjectsDeparture(
            attendance.sandbox,
            half.move,
            may_lose=half.may_lose,
            tell=lambda event: self._told(half.move, event),
            note=lambda facts: self._journal.note(half.move, facts),
            porter=attendance.find_porter,
            clients_yield=lambda: asyncio.run_coroutine_threadsafe(attendance.clients_yield(), self._loop).result(),
            clients_go_on=lambda: self._loop.call_soon_threadsafe(attendance.clients_go_on),
        )

    def _recovered(self, half: Half, attendance: Attendance, facts: dict[str, Any]) -> Departure:
        if half.strategy == "objects":
            mover = self._mover_of_objects(half, attendance)
            mover.remember(facts)
            return mover
        sandbox, callables = attendance.sandbox, self._callables(half, attendance)
        if half.kind == "move":
            return movers.recover_departure(sandbox, half.move, half.strategy, facts, **callables)
        assert half.store
        return movers.recover_save(sandbox, half.move, half.store, facts, keep=half.keep, **callables)

    def _measure_move(self, leaving: Leaving) -> None:
        """What it held is what was sent; the target has it all."""
        if leaving.frozen_at:
            self.pace.saw(memory_in_use(leaving.attendance.sandbox), time.monotonic() - leaving.frozen_at)

    # ── what the mover says, in its thread ───────────────────────────────────────────────────────────────────

    def _callables(self, half: Half, attendance: Attendance) -> dict[str, Any]:
        said: dict[str, Any] = {
            "tell": lambda event: self._told(half.move, event),
            "note": lambda facts: self._journal.note(half.move, facts),
            "hang_up": lambda: self._hang_up(half, attendance),
        }
        if half.kind == "save":
            said["go_on"] = lambda: self._loop.call_soon_threadsafe(
                lambda: self._runner.spawn(self._let_in(attendance))
            )
        return said

    def _told(self, move: str, event: Any) -> None:
        leaving = self._leaving[move]
        if isinstance(event, SessionFrozen):
            leaving.frozen_at = time.monotonic()
        if isinstance(event, MoveStumbled):
            leaving.stumbled = event
        elif isinstance(event, SessionSent):
            leaving.attendance.write(event, state="departed")
        elif isinstance(event, SessionSaved):
            self._saved(leaving, event)
        elif isinstance(event, FillProgressed | ShipmentProgressed):
            self._runner.tell(event)
        else:
            self._journal.write_event(event)

    def _saved(self, leaving: Leaving, event: SessionSaved) -> None:
        """The checkpoint is whole. What is kept runs on, and nothing is left to be decided."""
        # The mover knows only the incarnation that its sandbox was born as.
        event = event.model_copy(update={"incarnation": leaving.half.incarnation})
        report = event.report
        self.pace.saw(report.memory_bytes + report.image_bytes + report.layer_bytes, report.total_s)
        if not leaving.half.keep:
            leaving.attendance.write(event, state="departed")
            return
        leaving.decided = True
        with self._journal.transaction():
            self._journal.forget_half(leaving.half.move)
            leaving.attendance.write(event, state="running", move=None)
        self._leaving.pop(leaving.half.move, None)

    def _hang_up(self, half: Half, attendance: Attendance) -> None:
        if half.keep:
            attendance.write(state="departing")
        asyncio.run_coroutine_threadsafe(attendance.hang_up(), self._loop).result(_HANG_UP_SECONDS)

    async def _let_in(self, attendance: Attendance) -> None:
        """The session goes on while its chunks are being written: its rider and its clients may know."""
        life = attendance.life
        async with self._runner.turns[life.session]:
            is_here = self._runner.attended.get((life.session, life.born)) is attendance
            if is_here and attendance.life.state in ("departing", "running"):
                attendance.write(state="running")
                await attendance.open()


async def _stop(leaving: Leaving) -> None:
    """End the mover's run, whatever it is doing."""
    leaving.decided = True
    if leaving.link:
        leaving.link.close()
    await asyncio.to_thread(leaving.mover.stop)
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


def _told_again(half: Half, facts: dict[str, Any]) -> SessionSaved:
    """What the mover noted with its published checkpoint."""
    report = SaveReport.model_validate(facts.get("report", {}))
    return SessionSaved(save=half.move, session=half.session, incarnation=half.incarnation, report=report)


def interrupted(half: Half, node: str) -> SojournError:
    """What becomes of a half that can't go on after a restart of the agent."""
    kind = {"move": MoveFailed, "save": SaveFailed, "wake": WakeFailed}[half.kind]
    return kind(f"The agent of node {node} was restarted during the {half.kind}.", f"{half.kind.title()} it again.")


def _stumbled(move: str, session: str, error: SojournError, resumed: bool) -> MoveStumbled:
    return MoveStumbled(move=move, session=session, side="source", resumed=resumed, error=error.to_wire())


def _dead(asked: RollBackMove, error: SojournError) -> SessionDied:
    return SessionDied(session=asked.session, incarnation=asked.incarnation, reason=error.message)
