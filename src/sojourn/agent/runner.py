"""Carries out what the controller asks, one thing at a time per session, and tells what came of it.

Every instruction may come twice: what is done already is told again, what speaks of an older incarnation is ignored.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sojourn import movers
from sojourn.agent import machine
from sojourn.agent.attendance import Attendance
from sojourn.agent.data_port import Claims
from sojourn.agent.journal import Journal, Life
from sojourn.agent.rider_line import with_rider
from sojourn.agent.vigil import last_words
from sojourn.errors import DoesNotFit, SandboxFailed, SojournError, Unknown
from sojourn.model import SandboxKind, SessionSpec, Sight
from sojourn.movers.objects.departure import look
from sojourn.sandbox import canary
from sojourn.sandbox.base import Sandbox, SandboxPlan, make_sandbox, open_sandbox
from sojourn.sandbox.kept_layers import KeptLayers
from sojourn.wire import (
    AnswerVerb,
    Event,
    FoldersSeen,
    Held,
    InspectSession,
    Instruction,
    LogSent,
    LookAtFolders,
    LookAtLuggage,
    LuggageSeen,
    SandboxFailedToStart,
    SandboxStarted,
    SandboxStopped,
    SendLog,
    SessionDied,
    SessionInspected,
    StartSandbox,
    StopSandbox,
)

log = logging.getLogger(__name__)

_RIDER_SECONDS = 20.0

Carrier = Callable[[Any], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Node:
    """What the runner must know of the node it works on."""

    name: str
    sandboxes: Path
    """The folder of the sandboxes' folders."""
    kinds: tuple[str, ...]
    """The kinds it may make."""
    rider: str
    """The rider's zipapp."""
    hidden: tuple[str, ...] = ()
    """Folders that sessions must not see."""

    def folder(self, session: str, born: int) -> Path:
        return self.sandboxes / f"{session}.{born}"

    def plan(self, life: Life) -> SandboxPlan:
        return SandboxPlan(
            kind=life.sandbox,
            node=self.name,
            session=life.session,
            incarnation=life.born,
            spec=life.spec,
            rider=self.rider,
            hidden=self.hidden,
            kept=str(self.kept_layers),
            prefixes=movers.taken_along(life.spec) if life.sandbox == "runc" else (),
            root=machine.root_id(),
            depot=str(self.depot),
        )

    @property
    def kept_layers(self) -> Path:
        """The folder for layers of sessions that have left."""
        return self.sandboxes.parent / "layers"

    @property
    def depot(self) -> Path:
        """The folder for the environments of sessions that were born on other nodes."""
        return self.sandboxes.parent / "environments"

    def sandbox(self, life: Life) -> Sandbox:
        """The one in the life's folder, if it has been begun, else one to be made."""
        folder = self.folder(life.session, life.born)
        try:
            return open_sandbox(folder)
        except SandboxFailed:
            return make_sandbox(folder, self.plan(life))

    def kind_for(self, spec: SessionSpec) -> SandboxKind:
        wanted: SandboxKind = spec.sandbox or ("runc" if "runc" in self.kinds else "process")
        if wanted not in self.kinds:
            raise DoesNotFit(
                f"Node {self.name} has no {wanted} sandboxes.", "`sojourn doctor` on that node says what is missing."
            )
        return wanted


class Runner:
    """All methods run in the event loop; blocking work goes to threads."""

    def __init__(self, node: Node, journal: Journal, tell: Callable[[Event], None]) -> None:
        self.node, self.journal, self.tell = node, journal, tell
        self.attended: dict[tuple[str, int], Attendance] = {}
        self.turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self.enders: list[Callable[[Attendance], Awaitable[None]]] = []
        """Whatever else has to end with a life: the half of a move it is in."""
        self._carriers: dict[type, Carrier] = {
            StartSandbox: self._start,
            StopSandbox: self._stop,
            InspectSession: self._inspect,
            LookAtLuggage: self._look_at_luggage,
            LookAtFolders: self._look_at_folders,
            SendLog: self._send_log,
            AnswerVerb: self._answer_verb,
        }

    def carry(self, instruction: type, carrier: Carrier) -> None:
        """The halves of moves register what they carry out."""
        self._carriers[instruction] = carrier

    def instruct(self, instruction: Instruction) -> None:
        about = [str(getattr(instruction, name, "")) for name in ("move", "session", "request")]
        log.info("asked to %s %s", instruction.do, next(filter(None, about)))
        self.spawn(self._carriers[type(instruction)](instruction))

    def held(self) -> tuple[Held, ...]:
        return tuple(attendance.life.held() for attendance in self.attended.values())

    def here(self, session: str) -> Attendance:
        """The newest life of a session on this node; raises Unknown."""
        lives = [attendance for key, attendance in self.attended.items() if key[0] == session]
        if not lives:
            raise Unknown(f"Node {self.node.name} does not hold session {session}.", "Ask the controller where it is.")
        return max(lives, key=lambda attendance: attendance.life.incarnation)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except SojournError as refused:
                log.error("%s", refused)
            except Exception:
                log.exception("a defect in the agent")

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def leave(self) -> None:
        """The agent ends; what runs goes on running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for attendance in list(self.attended.values()):
            await attendance.leave()

    def add(self, life: Life) -> Attendance:
        """Attend to a life, whose row of the journal is for the caller to write."""
        attendance = Attendance(life, self.node.sandbox(life), self.journal, self.died)
        self.attended[life.session, life.born] = attendance
        return attendance

    async def admit(self, connection: socket.socket, claims: Claims) -> None:
        """A client with a tunnel's ticket is at the data port."""
        await self.here(claims["session"]).door.admit(connection, claims)

    # ── instructions ─────────────────────────────────────────────────────────────────────────────────────────

    async def _start(self, asked: StartSandbox) -> None:
        async with self.turns[asked.session]:
            if found := self.attended.get((asked.session, asked.incarnation)):
                if found.life.state == "running":
                    found.write(_started(found.life))
                return
            if any(life.incarnation > asked.incarnation for life in self.lives(asked.session)):
                return
            try:
                life = self._first_life(asked)
            except SojournError as refused:
                self.journal.write_event(_failed(asked, refused))
                return
            attendance = self.add(life)
            attendance.write()
            await self.start(attendance)

    async def start(self, attendance: Attendance) -> None:
        """Make and start a sandbox; whatever fails is removed again. The session's turn is the caller's."""
        try:
            if ground := attendance.life.spec.ground:
                await asyncio.to_thread(movers.begin_on, attendance.sandbox, ground)
            await asyncio.to_thread(attendance.sandbox.create)
            await asyncio.to_thread(attendance.sandbox.start)
            await attendance.attend()
            await attendance.line.attached(_RIDER_SECONDS)
        except Exception as failed:
            error = as_error(failed, "start", attendance.life)
            await self.end(attendance, _failed(attendance.life, error))
            return
        attendance.write(_started(attendance.life), state="running")
        await with_rider(attendance.door.open, attendance.life)

    async def start_again(self, attendance: Attendance) -> None:
        async with self.turns[attendance.life.session]:
            await self.start(attendance)

    async def _stop(self, asked: StopSandbox) -> None:
        async with self.turns[asked.session]:
            for attendance in self.attendances(asked.session):
                if attendance.life.incarnation <= asked.incarnation:
                    attendance.write(state="stopping")
                    await self.end(attendance)
            self.journal.write_event(SandboxStopped(session=asked.session, incarnation=asked.incarnation))

    async def _inspect(self, asked: InspectSession) -> None:
        inspection = error = None
        try:
            inspection = await asyncio.to_thread(movers.inspect, self.here(asked.session).sandbox)
        except SojournError as refused:
            error = refused.to_wire()
        self.tell(SessionInspected(request=asked.request, session=asked.session, inspection=inspection, error=error))

    async def _look_at_luggage(self, asked: LookAtLuggage) -> None:
        luggage = error = None
        try:
            attendance = self.here(asked.session)
            luggage = await with_rider(look, attendance.sandbox, attendance.find_porter)
        except (OSError, SojournError) as refused:
            error = as_error(refused, "be looked at", self.here(asked.session).life).to_wire()
        self.tell(LuggageSeen(request=asked.request, session=asked.session, luggage=luggage, error=error))

    async def _look_at_folders(self, asked: LookAtFolders) -> None:
        seen: dict[str, Sight] = {}
        error = None
        try:
            seen = await asyncio.to_thread(_sights, asked)
        except SojournError as refused:
            error = refused.to_wire()
        self.tell(FoldersSeen(request=asked.request, session=asked.session, seen=seen, error=error))

    async def _send_log(self, asked: SendLog) -> None:
        try:
            text = await asyncio.to_thread(self.here(asked.session).sandbox.log, asked.tail_bytes)
        except (SojournError, OSError) as absent:
            text = f"[no log: {absent}]"
        self.tell(LogSent(request=asked.request, session=asked.session, text=text))

    async def _answer_verb(self, asked: AnswerVerb) -> None:
        line = self.here(asked.session).line
        await line.attached(_RIDER_SECONDS)
        line.send({"do": "answer", "verb": asked.verb, "ok": asked.ok, "body": asked.body})

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def end(self, attendance: Attendance, *events: Event) -> None:
        """Kill, remove and forget; then tell. The session's turn is the caller's."""
        await attendance.dismiss()
        for ender in self.enders:
            await ender(attendance)
        await asyncio.to_thread(attendance.sandbox.remove)
        life = attendance.life
        with self.journal.transaction():
            for half in self.journal.halves():
                if (half.session, half.born) == (life.session, life.born):
                    self.journal.forget_half(half.move)
            attendance.forget(*events)
        self.attended.pop((life.session, life.born), None)

    async def sweep(self) -> None:
        """Try again to remove what could not be removed when it ended, and drop what was kept for long enough."""
        await asyncio.to_thread(KeptLayers(self.node.kept_layers).sweep, time.time())
        for key, attendance in list(self.attended.items()):
            async with self.turns[key[0]]:
                life = attendance.life
                if life.state != "stopping" or self.attended.get(key) is not attendance:
                    continue
                try:
                    await self.end(attendance, SandboxStopped(session=life.session, incarnation=life.incarnation))
                except (OSError, SojournError) as stuck:
                    log.error("still could not clean up after session %s: %s", life, stuck)

    def died(self, attendance: Attendance) -> None:
        self.spawn(self._bury(attendance))

    async def _bury(self, attendance: Attendance) -> None:
        async with self.turns[attendance.life.session]:
            key = (attendance.life.session, attendance.life.born)
            if self.attended.get(key) is not attendance or await asyncio.to_thread(attendance.sandbox.alive):
                return
            reason = await asyncio.to_thread(last_words, attendance.sandbox)
            life = attendance.life
            log.warning("session %s died: %s", life, reason)
            died = SessionDied(session=life.session, incarnation=life.incarnation, reason=reason)
            await self.bury(attendance, died)

    async def bury(self, attendance: Attendance, died: SessionDied) -> None:
        """Dead it is, and must be told, whatever is left of it; `sweep`, or the next agent, tries again."""
        try:
            await self.end(attendance, died)
        except (OSError, SojournError) as stuck:
            log.error("could not clean up after session %s: %s", attendance.life, stuck)
            attendance.write(died, state="stopping")

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _first_life(self, asked: StartSandbox) -> Life:
        return Life(
            session=asked.session,
            born=asked.incarnation,
            incarnation=asked.incarnation,
            epoch=asked.epoch,
            state="starting",
            sandbox=self.node.kind_for(asked.spec),
            spec=asked.spec,
        )

    def attendances(self, session: str) -> list[Attendance]:
        return [attendance for key, attendance in self.attended.items() if key[0] == session]

    def lives(self, session: str) -> list[Life]:
        return [attendance.life for attendance in self.attendances(session)]


def _sights(asked: LookAtFolders) -> dict[str, Sight]:
    user = canary.User(asked.uid, asked.gid)
    if asked.act == "forget":
        canary.forget(asked.folders, asked.of, user)
        return {}
    if asked.act == "put":
        canary.put(asked.folders, asked.of, user)
    return canary.look(asked.folders, user, asked.of)


def _started(life: Life) -> SandboxStarted:
    return SandboxStarted(session=life.session, incarnation=life.incarnation, sandbox=life.sandbox)


def _failed(what: StartSandbox | Life, error: SojournError) -> SandboxFailedToStart:
    return SandboxFailedToStart(session=what.session, incarnation=what.incarnation, error=error.to_wire())


def as_error(failed: BaseException, what: str, life: Life) -> SojournError:
    """An error that may cross the wire; a defect of ours is logged with its traceback."""
    defect = failed.__cause__ if isinstance(failed, SojournError) else failed
    if defect is not None and not isinstance(defect, (SojournError, OSError)):
        log.error("could not %s session %s", what, life, exc_info=failed)
    if isinstance(failed, SojournError):
        return failed
    return SandboxFailed(
        f"Session {life} could not {what}: {type(failed).__name__}: {failed}.", "The agent's log has the details."
    )
