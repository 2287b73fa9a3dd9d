"""The target's halves of moves, and wakes: a session comes to this node, from another one or from the store."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sojourn import movers
from sojourn.agent.attendance import Attendance
from sojourn.agent.data_port import Claims
from sojourn.agent.departures import in_own_thread, interrupted, merged
from sojourn.agent.journal import Half, Life
from sojourn.agent.links import AnsweredLink
from sojourn.agent.runner import Runner, as_error
from sojourn.errors import SojournError, Unknown
from sojourn.model import SessionSpec
from sojourn.movers.base import Arrival
from sojourn.movers.objects.arrival import ObjectsArrival
from sojourn.wire import (
    AbandonArrival,
    ArrivalAbandoned,
    ArrivalPrepared,
    FillProgressed,
    MoveStumbled,
    PrepareArrival,
    SessionFilled,
    SessionThawed,
    WakeSession,
)

log = logging.getLogger(__name__)


@dataclass
class Coming:
    """A session that is on its way here."""

    half: Half
    attendance: Attendance
    mover: Arrival
    link: AnsweredLink | None = None
    prepared: bool = False
    receiving: asyncio.Task[None] | None = None
    stumbled: bool = False


class Arrivals:
    def __init__(self, runner: Runner) -> None:
        self._runner, self._journal = runner, runner.journal
        self._coming: dict[str, Coming] = {}
        self._loop = asyncio.get_running_loop()
        runner.carry(PrepareArrival, self._prepare)
        runner.carry(WakeSession, self._wake)
        runner.carry(AbandonArrival, self._abandon)
        runner.enders.append(self._end)

    # ── instructions ─────────────────────────────────────────────────────────────────────────────────────────

    async def _prepare(self, asked: PrepareArrival) -> None:
        half = Half(
            move=asked.move,
            side="target",
            session=asked.session,
            born=asked.incarnation,
            strategy=asked.strategy,
            incarnation=asked.incarnation,
        )
        spec = _begun_anew(asked.spec) if asked.strategy == "objects" else asked.spec
        await self._begin(half, asked.epoch, spec)

    async def _wake(self, asked: WakeSession) -> None:
        half = Half(
            move=asked.wake,
            kind="wake",
            side="target",
            session=asked.session,
            born=asked.incarnation,
            incarnation=asked.incarnation,
            store=asked.store,
            checkpoint=asked.checkpoint,
        )
        await self._begin(half, asked.epoch, asked.spec)

    async def _begin(self, half: Half, epoch: int, spec: SessionSpec) -> None:
        async with self._runner.turns[half.session]:
            if coming := self._coming.get(half.move):
                if coming.prepared and half.kind == "move":
                    self._journal.write_event(_prepared(half.move, half.session))
                return
            if self._journal.is_end_unheard(half.move):
                return
            if any(life.incarnation >= half.incarnation for life in self._runner.lives(half.session)):
                return
            try:
                coming = self._expect(half, epoch, spec)
            except SojournError as refused:
                self._journal.write_event(_stumbled(half.move, half.session, refused))
                return
            await self._make_ready(coming)

    async def _abandon(self, asked: AbandonArrival) -> None:
        async with self._runner.turns[asked.session]:
            abandoned = ArrivalAbandoned(move=asked.move, session=asked.session)
            for attendance in self._runner.attendances(asked.session):
                if attendance.life.arrived_by == asked.move:
                    await self._runner.end(attendance, abandoned)
                    return
            self._journal.write_event(abandoned)

    async def admit_link(self, connection: socket.socket, claims: Claims) -> None:
        """A peer with the ticket of a move is at the data port."""
        coming = self._coming.get(claims["move"])
        if coming is None or not coming.prepared:
            raise Unknown(f"Nobody waits here for move {claims['move']}.", "The move has ended; start another one.")
        if coming.link is not None:
            coming.link.offer(connection)
            return
        link = coming.link = AnsweredLink(connection, claims["relayed"])
        coming.receiving = self._runner.spawn(self._receive(coming, lambda: coming.mover.receive(link)))

    async def recover(self, half: Half, attendance: Attendance) -> None:
        """An agent before this one left the move or wake half done."""
        mover = self._recovered(half, attendance)
        coming = self._coming[half.move] = Coming(half, attendance, mover)
        if mover.thawed:
            attendance.write(state="filling")
            await attendance.open()
            coming.receiving = self._runner.spawn(self._receive(coming, mover.go_on))
            return
        error = interrupted(half, self._runner.node.name)
        await self._runner.end(attendance, _stumbled(half.move, half.session, error))

    # ── the work ─────────────────────────────────────────────────────────────────────────────────────────────

    def _expect(self, half: Half, epoch: int, spec: SessionSpec) -> Coming:
        life = Life(
            session=half.session,
            born=half.born,
            incarnation=half.incarnation,
            epoch=epoch,
            state="arriving",
            sandbox=self._runner.node.kind_for(spec if half.strategy == "objects" else _alive(spec)),
            spec=spec,
            move=half.move,
            arrived_by=half.move,
        )
        attendance = self._runner.add(life)
        with self._journal.transaction():
            attendance.write()
            self._journal.write_half(half)
        coming = self._coming[half.move] = Coming(half, attendance, self._mover(half, attendance))
        return coming

    async def _make_ready(self, coming: Coming) -> None:
        half = coming.half
        try:
            await in_own_thread(f"prepare {half.move[:8]}", coming.mover.prepare)
        except Exception as failed:
            error = as_error(failed, "be prepared for here", coming.attendance.life)
            await self._runner.end(coming.attendance, _stumbled(half.move, half.session, error))
            return
        coming.prepared = True
        if half.kind == "wake":
            coming.receiving = self._runner.spawn(self._receive(coming, lambda: coming.mover.receive(None)))
        else:
            self._journal.write_event(_prepared(half.move, half.session))

    async def _receive(self, coming: Coming, work: Callable[[], None]) -> None:
        half = coming.half
        try:
            await in_own_thread(f"{half.kind} {half.move[:8]}", lambda: _or_halt(coming, work))
        except Exception as failed:
            error = as_error(failed, "arrive", coming.attendance.life)
            log.warning("%s %s stumbled at the target: %s", half.kind, half.move, error)
            if not coming.stumbled:
                self._journal.write_event(_stumbled(half.move, half.session, error))
            return
        finally:
            if coming.link:
                coming.link.close()
        self._coming.pop(half.move, None)
        self._journal.forget_half(half.move)

    async def _end(self, attendance: Attendance) -> None:
        """The life that came, or was to come, is over: kill first, then let go of its pages."""
        for coming in [coming for coming in self._coming.values() if coming.attendance is attendance]:
            if coming.link:
                coming.link.close()
            await asyncio.to_thread(coming.mover.abandon)
            if coming.receiving:
                await asyncio.gather(coming.receiving, return_exceptions=True)
            self._coming.pop(coming.half.move, None)

    def _mover(self, half: Half, attendance: Attendance) -> Arrival:
        if half.strategy == "objects":
            return self._mover_of_objects(half, attendance)
        sandbox, callables = attendance.sandbox, self._callables(half)
        if half.kind == "move":
            return movers.arrival(sandbox, half.move, half.strategy, **callables)
        assert half.store
        return movers.wake(sandbox, half.move, half.checkpoint, half.store, **callables)

    def _mover_of_objects(self, half: Half, attendance: Attendance) -> ObjectsArrival:
        callables = self._callables(half)
        return ObjectsArrival(attendance.sandbox, half.move, porter=attendance.find_porter, **callables)

    def _recovered(self, half: Half, attendance: Attendance) -> Arrival:
        sandbox, callables, facts = attendance.sandbox, self._callables(half), merged(self._journal.notes(half.move))
        if half.strategy == "objects":
            mover = self._mover_of_objects(half, attendance)
            mover.remember(facts)
            return mover
        if half.kind == "move":
            return movers.recover_arrival(sandbox, half.move, half.strategy, facts, **callables)
        assert half.store
        return movers.recover_wake(sandbox, half.move, half.checkpoint, half.store, facts, **callables)

    # ── what the mover tells, in its thread ──────────────────────────────────────────────────────────────────

    def _callables(self, half: Half) -> dict[str, Any]:
        return {
            "tell": lambda event: self._told(half.move, event),
            "note": lambda facts: self._journal.note(half.move, facts),
        }

    def _told(self, move: str, event: Any) -> None:
        coming = self._coming[move]
        attendance = coming.attendance
        if isinstance(event, SessionThawed | SessionFilled) and coming.link and coming.link.relayed:
            event = event.model_copy(update={"report": event.report.model_copy(update={"relayed": True})})
        if isinstance(event, SessionThawed):
            # The clients first, the journal after: the mover has noted the thaw already.
            attendance.door.open(attendance.life)
            attendance.write(event, state="filling")
            log.info("session %s has thawed: %s", attendance.life, event.report.timeline)
            self._loop.call_soon_threadsafe(lambda: self._runner.spawn(attendance.attend()))
        elif isinstance(event, SessionFilled):
            # In one step: a save or a move that begins now must be the only half of this life.
            with self._journal.transaction():
                self._journal.forget_half(move)
                attendance.write(event, state="running", move=None)
        elif isinstance(event, FillProgressed):
            self._runner.tell(event)
        else:
            coming.stumbled |= isinstance(event, MoveStumbled)
            self._journal.write_event(event)


def _or_halt(coming: Coming, work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        try:
            coming.mover.halt()
        except (OSError, SojournError) as stuck:
            log.error("session %s could not be stopped: %s", coming.attendance.life, stuck)
        raise


def _begun_anew(spec: SessionSpec) -> SessionSpec:
    """Of a program that starts where its session was not asked for: the source says itself what it sees of its folders,
    and the root is this node's own."""
    mounts = tuple(mount.model_copy(update={"seen": None}) for mount in spec.mounts)
    return spec.model_copy(update={"mounts": mounts, "ground": None})


def _alive(spec: SessionSpec) -> SessionSpec:
    """Of a session that comes with its processes: nothing but runc can hold it."""
    return spec.model_copy(update={"sandbox": "runc"})


def _prepared(move: str, session: str) -> ArrivalPrepared:
    return ArrivalPrepared(move=move, session=session)


def _stumbled(move: str, session: str, error: SojournError) -> MoveStumbled:
    return MoveStumbled(move=move, session=session, side="target", resumed=False, error=error.to_wire())
