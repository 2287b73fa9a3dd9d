"""The front itself: hosts the switchboards and anchors of a user's kernels, and outlives the clients.

Everything here runs in one asyncio loop; each switchboard has its own thread and is talked to by calls that don't
block. Ending the front does not end the kernels: the next one takes them up from the journal.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from sojourn.client import Moved, Watched
from sojourn.errors import Invalid, MoveFailed, Refused, SessionLost, SojournError, Unknown
from sojourn.front.activity import Activity
from sojourn.front.anchor import Anchor
from sojourn.front.connection import Connection, inner_connection, outer_connection, read_connection
from sojourn.front.errand import MoveErrand, WakeErrand
from sojourn.front.journal import Journal, Record
from sojourn.front.parties import ControlHandler, Line, NearEnd, StateHandler
from sojourn.front.switchboard import Switchboard
from sojourn.front.watcher import Watcher
from sojourn.front.words import AdoptRequest, ControllerAddress, KernelView, OpenRequest, StartRequest
from sojourn.lifecycle import ENDED
from sojourn.model import Program, SessionSpec, SessionStatus, WakeView
from sojourn.transport.loop import Loop
from sojourn.transport.routes import relay_of

log = logging.getLogger(__name__)

CONNECTION_FILE = "{connection_file}"
INNER_FILE = "/run/sojourn/connection.json"
"""The kernel's own connection file, in its sandbox."""
IDLE_SECONDS = 60.0
"""How long a front stays that hosts nothing."""
STANDSTILL_SECONDS = 10.0
"""After so long without a look at its leases, a front has stood still itself."""
ADOPTED_SECONDS = 7 * 24 * 3600.0
"""How long an adopted kernel waits for somebody to attach: no client of its own renews its lease."""
_ASLEEP = (SessionStatus.SUSPENDING, SessionStatus.SUSPENDED, SessionStatus.WAKING)


@dataclass
class Hosted:
    """One kernel."""

    record: Record
    switchboard: Switchboard
    lease_until: float
    activity: Activity
    telling: asyncio.Task[None]
    """Of its activity."""
    news: Watched | None = None
    errand: MoveErrand | None = None
    rouser: WakeErrand | None = None
    discarded: bool = False
    """It was shut down in its sleep, and its session is still to be ended."""

    @property
    def over(self) -> bool:
        """The session will never run again."""
        return self.news is not None and self.news.session.status in ENDED

    @property
    def asleep(self) -> bool:
        return self.news is not None and self.news.session.status in _ASLEEP

    def hear(self, news: Watched) -> None:
        self.news = news
        for errand in (self.errand, self.rouser):
            if errand:
                errand.hear(news)
        self.switchboard.watched(news)

    def view(self) -> KernelView:
        session = self.news.session if self.news else None
        exit_code = self.switchboard.exit_code
        return KernelView(
            session=self.record.session,
            connection=self.record.outer.for_file(),
            running=exit_code is None,
            exit_code=exit_code,
            status=session.status if session else None,
            node=session.node if session else None,
            move=session.move if session else None,
            reason=(session.reason if session else "") or ("" if exit_code is None else self.switchboard.last_words),
            attached=self.switchboard.attached,
        )


@dataclass
class Front:
    """`begin` and `end` frame its life; the rest is the HTTP API's."""

    folder: Path
    idle_seconds: float = IDLE_SECONDS

    def __post_init__(self) -> None:
        self._journal = Journal(self.folder)
        self.anchor = f"{self._journal.front_id()}.{uuid.uuid4().hex}"
        """The id under which riders know us. What follows the dot is new in each life, so that no stream of the last
        one is taken up; by what stands before it they know whose place we take."""
        self._zone: zmq.Context[Any] = zmq.Context()
        self._zone.set(zmq.MAX_SOCKETS, self._zone.get(zmq.SOCKET_LIMIT))
        self._hosted: dict[str, Hosted] = {}
        self._watchers: dict[ControllerAddress, Watcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Take up what the last front left."""
        self._loop = asyncio.get_running_loop()
        self._looked_at = self._loop.time()
        self._busy_until = self._looked_at + self.idle_seconds
        for record in self._journal.read():
            try:
                await self._host(record, successor=True)
            except Refused as taken:
                log.error("session %s can't be hosted again: %s", record.session, taken)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watcher in self._watchers.values():
            await watcher.client.close()
        for hosted in self._hosted.values():
            hosted.switchboard.close()
        self._zone.term()

    # ── the API ──

    async def open(self, wish: OpenRequest) -> KernelView:
        """Start a session and host its kernel. Raises what the controller refuses with, and Refused for a port that
        is taken; then nothing is left."""
        inner = inner_connection(wish.connection)
        watcher = self._watcher(wish.controller)
        started = await watcher.client.start(
            told_where(wish.spec, {INNER_FILE: inner.model_dump_json(exclude_none=True)})
        )
        record = Record(
            session=started.id,
            controller=wish.controller,
            program=wish.spec.program,
            outer=wish.connection,
            inner=inner,
            language=wish.language,
            identity=f"sojourn-{uuid.uuid4().hex}",
            lease_seconds=wish.lease_seconds,
        )
        try:
            self._journal.write(record)
            return (await self._host(record)).view()
        except Exception:
            self._journal.forget(record.session)
            await watcher.client.stop(record.session)
            raise

    async def adopt(self, wish: AdoptRequest) -> KernelView:
        """Host the kernel of a session that was not started here, as of a fork, at ports and with a key of its own.
        Raises what the controller refuses with, and Invalid for a session that holds no kernel."""
        if wish.session in self._hosted:
            return self.kernel(wish.session)
        client = self._watcher(wish.controller).client
        spec, session = await client.spec(wish.session), await client.session(wish.session)
        if session.id in self._hosted:  # asked twice at once
            return self.kernel(session.id)
        inner = read_connection(spec.files.get(INNER_FILE), session.id)
        origin = self._hosted.get(session.origin or "")
        record = Record(
            session=session.id,
            controller=wish.controller,
            program=spec.program,
            outer=outer_connection(),
            inner=inner,
            language=wish.language or (origin.record.language if origin else "python"),
            identity=f"sojourn-{uuid.uuid4().hex}",
            lease_seconds=ADOPTED_SECONDS,
            adopted=True,
        )
        self._journal.write(record)
        if origin:
            self._journal.recollect(session.id, origin.record.session)
        try:
            return (await self._host(record)).view()
        except Refused:
            self._journal.forget(record.session)
            raise

    def kernels(self) -> list[KernelView]:
        return [hosted.view() for hosted in self._hosted.values()]

    def kernel(self, session: str) -> KernelView:
        return self._find(session).view()

    def signal(self, session: str, signum: int) -> None:
        self._find(session).switchboard.signal(signum)

    def lease(self, session: str, seconds: float) -> None:
        hosted = self._find(session)
        hosted.lease_until = self._loop.time() + seconds

    def start(self, session: str, wish: StartRequest) -> KernelView:
        """Start the kernel's program anew, in the same sandbox."""
        hosted = self._find(session)
        if hosted.over:
            raise SessionLost(f"Session {session} is gone.", "Open a new kernel.")
        program = wish.program or hosted.record.program
        changed = program != hosted.record.program
        self._change(hosted, program, wish.connection or hosted.record.outer)
        hosted.switchboard.restart(told_file(program).model_dump(mode="json") if changed else None)
        return hosted.view()

    async def close(self, session: str) -> None:
        """Stop the session and forget the kernel."""
        hosted = self._find(session)
        watcher = self._watcher(hosted.record.controller)
        try:
            if not hosted.over:
                await watcher.client.stop(session)
        except Unknown:
            pass  # that is what was wanted
        self._hosted.pop(session, None)
        self._journal.forget(session)
        await watcher.unwatch(session)
        await asyncio.to_thread(hosted.switchboard.close)
        hosted.telling.cancel()
        self._busy_until = self._loop.time() + self.idle_seconds

    async def look_after(self) -> bool:
        """End kernels whose clients have died; whether there is still something to be here for. To be called now and
        then."""
        now = self._loop.time()
        stood_still = self._stood_still(now)
        self._busy_until += stood_still
        for session, hosted in list(self._hosted.items()):
            hosted.lease_until += stood_still
            if hosted.asleep and not hosted.discarded:  # it costs nobody anything: its time stands still
                hosted.lease_until = max(hosted.lease_until, now + hosted.record.lease_seconds)
            elif now > hosted.lease_until and (hosted.discarded or not hosted.switchboard.attached):
                log.info("the lease of session %s has run out", session)
                await self._end_lease(session)
        return bool(self._hosted) or now < self._busy_until

    def _stood_still(self, now: float) -> float:
        """For how many seconds nobody could renew a lease, because this machine slept with all that runs on it. On most
        systems the clock stands still as well then; not on all, nor when programs are stopped."""
        since_last_look, self._looked_at = now - self._looked_at, now
        return since_last_look if since_last_look > STANDSTILL_SECONDS else 0.0

    # ── hosting ──

    async def _host(self, record: Record, successor: bool = False) -> Hosted:
        switchboard = self._switchboard(record, successor)
        activity = Activity(lambda executing, at: self._tell_activity(record.session, executing, at))
        lease_until = self._loop.time() + record.lease_seconds
        hosted = Hosted(record, switchboard, lease_until, activity, self._run(activity.run()))
        self._hosted[record.session] = hosted
        switchboard.start()
        await self._watcher(record.controller).watch(record.session)
        return hosted

    def _switchboard(self, record: Record, successor: bool) -> Switchboard:
        client = self._watcher(record.controller).client

        def relay() -> str:
            return relay_of(client.url)

        def anchor(loop: Loop, on_control: ControlHandler, on_state: StateHandler) -> NearEnd:
            return Anchor(loop, record.session, self.anchor, relay=relay, on_control=on_control, on_state=on_state)

        line = Line(record.session, record.outer, record.inner, record.language, record.identity)
        ledger, recollection = self._journal.ledger(record.session), self._journal.recollection(record)
        return Switchboard(line, self._zone, anchor, self, ledger, recollection, successor)

    def _change(self, hosted: Hosted, program: Program, outer: Connection) -> None:
        """Write down what a restart changes, and listen at other ports if the clients will look for it there."""
        old = hosted.record
        if outer.key != old.outer.key:
            raise Invalid("The key of a hosted kernel's connection can't be changed.", "Open a new kernel.")
        if outer.sockets() != old.outer.sockets():
            hosted.switchboard.relisten(outer)
        hosted.record = old.model_copy(update={"program": program, "outer": outer})
        self._journal.write(hosted.record)

    async def _end_lease(self, session: str) -> None:
        try:
            await self.close(session)
        except SojournError as failure:
            log.warning("session %s could not be stopped: %s", session, failure.message)
            self._hosted[session].lease_until = self._loop.time() + self.idle_seconds

    def _find(self, session: str) -> Hosted:
        try:
            return self._hosted[session]
        except KeyError:
            raise Unknown(f"The front hosts no kernel {session}.", "`sojourn sessions` lists what runs.") from None

    # ── the controllers ──

    def _watcher(self, controller: ControllerAddress) -> Watcher:
        if controller not in self._watchers:
            watcher = Watcher(controller, self.anchor, self._hear, self._miss)
            self._watchers[controller] = watcher
            self._run(watcher.run())
        return self._watchers[controller]

    def _hear(self, news: Watched) -> None:
        if hosted := self._hosted.get(news.session.id):
            before = hosted.news.wake if hosted.news else None
            if news.wake and not news.wake.exact and (before is None or before.id != news.wake.id):
                self._run(self._look_up(hosted, news.wake))
            hosted.hear(news)

    async def _look_up(self, hosted: Hosted, wake: WakeView) -> None:
        """Of when the state is that it wakes from; without that, its clients are told less."""
        hosted.switchboard.saved_at = None
        try:
            found = await self._watcher(hosted.record.controller).client.checkpoint_view(wake.checkpoint)
        except SojournError as unknown:
            log.info("when checkpoint %s was saved is not known: %s", wake.checkpoint, unknown.message)
        else:
            hosted.switchboard.saved_at = found.created_at

    def _miss(self, session: str) -> None:
        if hosted := self._hosted.get(session):
            hosted.switchboard.lost("its controller does not know it")

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ── errands: called by the switchboards' threads ──

    def move(self, session: str, place: str) -> None:
        self._loop.call_soon_threadsafe(lambda: self._run(self._move(session, place)))

    def cancel_move(self, session: str) -> None:
        self._loop.call_soon_threadsafe(partial(self._cancel, session))

    def wake(self, session: str, place: str | None) -> None:
        self._loop.call_soon_threadsafe(lambda: self._run(self._wake(session, place)))

    def discard(self, session: str) -> None:
        self._loop.call_soon_threadsafe(lambda: self._run(self._discard(session)))

    def activity(self, session: str, executing: bool, at: float) -> None:
        self._loop.call_soon_threadsafe(partial(self._note_activity, session, executing, at))

    async def _move(self, session: str, place: str) -> None:
        hosted = self._find(session)
        origin = hosted.news.session.node if hosted.news else None
        try:
            arrived = await self._run_errand(hosted, place)
        except SojournError as failure:
            hosted.switchboard.move_ended(False, failure)
        except Exception as surprise:
            log.exception("moving session %s", session)
            hosted.switchboard.move_ended(False, MoveFailed(f"The move to {place} failed: {surprise!r}"))
        else:
            hosted.switchboard.move_ended(arrived.session.node != origin)

    async def _run_errand(self, hosted: Hosted, place: str) -> Moved:
        client = self._watcher(hosted.record.controller).client
        hosted.errand = MoveErrand(client, hosted.record.session, place)
        if hosted.news:
            hosted.errand.hear(hosted.news)
        try:
            return await hosted.errand.run()
        finally:
            hosted.errand = None

    def _cancel(self, session: str) -> None:
        hosted = self._hosted.get(session)
        if hosted and hosted.errand:
            self._run(hosted.errand.cancel())

    async def _wake(self, session: str, place: str | None) -> None:
        hosted = self._find(session)
        if hosted.rouser:
            return
        hosted.rouser = WakeErrand(self._watcher(hosted.record.controller).client, session, place)
        if hosted.news:
            hosted.rouser.hear(hosted.news)
        try:
            failure = await hosted.rouser.failure()
        finally:
            hosted.rouser = None
        hosted.switchboard.wake_ended(failure)

    async def _discard(self, session: str) -> None:
        """`look_after` tries again what fails here."""
        hosted = self._find(session)
        hosted.discarded, hosted.lease_until = True, self._loop.time() + self.idle_seconds
        try:
            await self._watcher(hosted.record.controller).client.stop(session)
        except SojournError as failure:
            log.warning("session %s could not be ended: %s", session, failure.message)

    def _note_activity(self, session: str, executing: bool, at: float) -> None:
        if hosted := self._hosted.get(session):
            hosted.activity.note(executing, at)

    async def _tell_activity(self, session: str, executing: bool, at: float) -> None:
        hosted = self._hosted.get(session)
        if hosted and not hosted.asleep and not hosted.over:
            await self._watcher(hosted.record.controller).client.activity(session, executing, at)


def told_where(spec: SessionSpec, files: dict[str, str]) -> SessionSpec:
    """The spec with the kernel's own connection file in its sandbox and in its command."""
    return spec.model_copy(update={"program": told_file(spec.program), "files": {**spec.files, **files}})


def told_file(program: Program) -> Program:
    argv = tuple(argument.replace(CONNECTION_FILE, INNER_FILE) for argument in program.argv)
    return program.model_copy(update={"argv": argv})
