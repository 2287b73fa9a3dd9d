"""The switchboard: a ZeroMQ proxy between a kernel's clients and its tunnel.

Clients see five ports that never change and a heart that always beats. Each session's switchboard is one thread with
one loop, shared with its anchor. Most messages pass through untouched; shell requests and replies, and what ends or
interrupts the kernel, go by the law in `switchboard_law`.

The kernel sees one client, us; the real client's identity travels inside the envelope (the kernel's ROUTER keeps
every frame before the delimiter and puts it before its reply), so a reply finds its way even through a new
front that knows nothing of the request.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from signal import SIGINT, SIGKILL
from typing import Any, Protocol

import zmq

from sojourn import switchboard_law as law
from sojourn.client import Watched
from sojourn.errors import MoveFailed, SessionLost, SojournError, Unreachable
from sojourn.front.connection import Channel, Connection
from sojourn.front.heart import Heart
from sojourn.front.ledger import Debt, Ledger
from sojourn.front.messages import Message, Signer, Voice, empty_answer, error_content, is_welcome, read_request
from sojourn.front.sides import Clients, Kernel, Socket, Zone
from sojourn.lifecycle import ENDED
from sojourn.model import MovePhase, Place, SessionStatus
from sojourn.transport.loop import READ, Loop, Timer
from sojourn.transport.socket_pipe import TRUNCATED

log = logging.getLogger(__name__)

BATCH = 128
"""Messages taken from one socket before the others get their turn."""
RETURN_SECONDS = 3.0
"""How long a new front waits for clients of the last one, before it hears what the kernel says meanwhile."""
_SETTLE_SECONDS = 0.3  # a client's channels come back one by one
_PROBE = b"sojourn-probe"
_NOT_STARTED = 127  # as a shell has it

_FROZEN = (MovePhase.DEPARTING, MovePhase.ROLLING_BACK)

Frames = list[Any]
Taker = Callable[[Frames], None]
ControlHandler = Callable[[dict[str, Any]], None]
StateHandler = Callable[[str, str], None]


class NearEnd(Protocol):
    """What the switchboard needs of its anchor (contract 3)."""

    on_cut: Callable[[str, str], None]
    """Called with the endpoint of a stream that the far side gave up, and why."""

    @property
    def state(self) -> str: ...
    def place(self, place: Place) -> None: ...
    def expect(self, place: Place | None) -> None: ...
    def listen(self, target: str) -> str: ...
    def control(self, message: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Errands(Protocol):
    """What the switchboard asks of its front, from its own thread; none may block."""

    def move(self, session: str, place: str) -> None:
        """Have the session moved and call `Switchboard.move_ended`."""

    def cancel_move(self, session: str) -> None: ...


@dataclass(frozen=True)
class Line:
    """What a switchboard joins: the clients' connection, the kernel's own, and how the kernel is spoken to."""

    session: str
    outer: Connection
    inner: Connection
    language: str
    identity: str
    """Ours towards the kernel. The same after a crash of the front, so that pending replies come through."""


@dataclass
class _Recovery:
    """What an earlier front owed. It waits until the clients are back, for a ROUTER drops what it can't deliver; then
    the kernel is asked something on each subshell: once it answers that, it answers nothing from before."""

    debts: list[Debt]
    probes: dict[str, tuple[law.Request, ...]] = field(default_factory=dict)


@dataclass
class _Greeting:
    """Who waits for an iopub_welcome. It is given once the kernel has given us ours, so that it tells the truth."""

    welcomed: bool = False
    waiting: list[bytes] = field(default_factory=list)


class Switchboard:
    """One kernel's switchboard. Public methods may be called from any thread, but for those that say otherwise."""

    def __init__(
        self,
        line: Line,
        zone: Zone,
        anchor: Callable[[Loop, ControlHandler, StateHandler], NearEnd],
        errands: Errands,
        ledger: Ledger,
    ) -> None:
        """Binds the clients' ports; raises Refused when one is taken. Nothing happens before `start`."""
        self.line = line
        self.exit_code: int | None = None
        """Of the kernel's program, as subprocess gives it; None while it runs or is about to."""
        self.last_words = ""
        """The end of what the program printed before it ended, or why it could not be started."""
        self.attached = 0
        """Clients that listen to iopub."""
        self.in_transit = False
        self._errands = errands
        self._ledger = ledger
        self._recovery = _Recovery(ledger.take_up())
        self._zone = zone
        self._signer = Signer(line.outer.key.encode(), line.outer.signature_scheme)
        self._voice = Voice(self._signer, line.session)
        self._law = law.SwitchboardLaw()
        self._greeting = _Greeting()
        self._executions = 0
        self._unheard: dict[str, Any] | None = None
        """What was said to the rider about the program's life and has shown no effect yet."""
        self._timer: Timer | None = None
        self._stopping = False
        self._clients = Clients.bind(zone, line.outer)
        self._heart = self._make_heart(line.outer, self._clients)
        self._loop = Loop()
        self._anchor = anchor(self._loop, self._rider_spoke, self._tunnel_changed)
        self._anchor.on_cut = self._stream_cut
        channels: tuple[Channel, ...] = ("shell", "control", "stdin", "iopub")
        self._endpoints = {
            channel: self._anchor.listen(f"tcp:127.0.0.1:{line.inner.port(channel)}") for channel in channels
        }
        self._kernel = self._dial()
        self._plug()
        self._thread = threading.Thread(target=self._run, name=f"switchboard-{line.session}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread and close every socket. The session is not touched."""
        self._stopping = True
        self._loop.wake()
        if self._thread.is_alive():
            self._thread.join()

    # ── from the front ──

    def watched(self, news: Watched) -> None:
        """The controller told of a change."""
        self._loop.soon(lambda: self._take_news(news))

    def move_ended(self, moved: bool, error: SojournError | None = None) -> None:
        self._loop.soon(lambda: self._handle(law.MoveEnded(moved, error)))

    def lost(self, reason: str) -> None:
        """There is no such session any more."""
        self._loop.soon(lambda: self._lose(reason, -SIGKILL))

    def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group. SIGINT also cancels what is held; a kernel that can't be
        reached counts as dead from the moment it is sent SIGKILL, for its owner must not wait."""
        if signum == SIGKILL and (self.in_transit or self._anchor.state != "connected"):
            self.exit_code = -SIGKILL
        self._loop.soon(lambda: self._signal(signum))

    def restart(self, program: dict[str, Any] | None) -> None:
        """Start the program, as it was configured or as told; one that runs is killed first."""
        self.exit_code = None
        self._loop.soon(lambda: self._restart(program))

    def relisten(self, outer: Connection) -> None:
        """Let the clients come to other ports. Raises Refused when one is taken; then all is as it was."""
        clients = Clients.bind(self._zone, outer)
        heart = self._make_heart(outer, clients)
        self._loop.soon(lambda: self._change_clients(outer, clients, heart))

    # ── the thread ──

    def _run(self) -> None:
        self._anchor.control({"do": "status"})
        if self._recovery.debts:
            self._loop.later(RETURN_SECONDS, self._recover)
        while not self._stopping:
            try:
                self._heart.beat(self.exit_code is None)
                quiet = self._pump()
                self._loop.run_once(None if quiet else 0)
            except Exception:
                log.exception("switchboard of %s stumbled", self.line.session)
        self._anchor.close()
        self._unplug()
        self._kernel.close()
        self._heart.close()
        self._clients.close()
        self._ledger.close()
        self._loop.close()

    def _pump(self) -> bool:
        """Pass on what has come; True when nothing has. ZeroMQ's descriptors tell of changes only, and any use of
        a socket may swallow one, so all are looked at until all are quiet."""
        ready = self._poller.poll(0)
        for socket, _ in ready:
            self._drain(socket, self._takers[socket])
        return not ready

    def _drain(self, socket: Socket, take: Taker) -> None:
        try:
            for _ in range(BATCH):
                take(socket.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.Again:
            pass

    def _make_heart(self, outer: Connection, clients: Clients) -> Heart:
        try:
            return Heart(self._zone, outer)
        except SojournError:
            clients.close()
            raise

    def _dial(self) -> Kernel:
        return Kernel.dial(self._zone, self._endpoints, self.line.identity.encode())

    def _plug(self) -> None:
        """Join the clients' sockets and the kernel's."""
        clients, kernel = self._clients, self._kernel
        self._takers: dict[Socket, Taker] = {
            clients.control: self._control_asked,
            kernel.control: lambda frames: _send(clients.control, frames),
            kernel.stdin: lambda frames: _send(clients.stdin, frames),
            clients.stdin: lambda frames: _send(kernel.stdin, frames),
            clients.shell: self._shell_asked,
            kernel.shell: self._shell_answered,
            clients.iopub: self._subscribed,
            kernel.iopub: self._published,
        }
        if self._recovery.debts:
            for socket in (kernel.shell, kernel.iopub):
                del self._takers[socket]
        self._poller = zmq.Poller()
        for socket in self._takers:
            self._poller.register(socket, zmq.POLLIN)
            self._loop.watch(int(socket.getsockopt(zmq.FD)), READ, _ignore)

    def _unplug(self) -> None:
        for socket in self._takers:
            self._loop.forget(int(socket.getsockopt(zmq.FD)))

    # ── what comes from clients ──

    def _shell_asked(self, frames: Frames) -> None:
        message = self._read(frames)
        if message is None:
            return
        try:
            request = read_request(message, self.line.language, self._signer)
        except ValueError:
            log.warning("session %s: a request on shell that is no JSON was dropped", self.line.session)
            return
        if request.kind is law.Kind.EXECUTE:
            self._ledger.owe(request.id, message)
        self._handle(law.RequestCame(request))

    def _control_asked(self, frames: Frames) -> None:
        message = self._read(frames)
        if message is None:
            return
        kind = message.header.get("msg_type")
        if kind == "interrupt_request":
            self._handle(law.InterruptCame(message))
            return
        if kind == "shutdown_request":
            self._handle(law.ShutdownCame())
        _send(self._kernel.control, frames)

    def _read(self, frames: Frames) -> Message | None:
        """The message, if its sender knows the key."""
        message = Message.read(frames)
        if message is None or not self._signer.accepts(message):
            log.warning("session %s: a message with a wrong signature was dropped", self.line.session)
            return None
        return message

    def _subscribed(self, frames: Frames) -> None:
        event = bytes(frames[0])
        joins = event[:1] == b"\x01"
        self.attached = max(0, self.attached + (1 if joins else -1))
        if joins:
            self._greeting.waiting.append(event[1:])
            self._greet()
        if joins and self._recovery.debts:
            self._loop.later(_SETTLE_SECONDS, self._recover)

    def _greet(self) -> None:
        if self._greeting.welcomed:
            waiting, self._greeting.waiting = self._greeting.waiting, []
            for topic in waiting:
                _send(self._clients.iopub, self._voice.welcome(topic))

    # ── what comes from the kernel ──

    def _shell_answered(self, frames: Frames) -> None:
        message = Message.read(frames)
        if message is None:
            return
        asked = str(message.parent.get("msg_id"))
        if asked in self._recovery.probes:
            self._handle(law.AnswersLost(_NO_REPLY, self._recovery.probes.pop(asked)))
            return
        failed = False
        if b"execute_reply" in message.raw_header:
            content = message.content
            failed = content.get("status") == "error"
            self._executions = content.get("execution_count") or self._executions
        self._handle(law.ReplyCame(asked, failed, message))
        self._ledger.settle(asked)

    def _published(self, frames: Frames) -> None:
        if is_welcome(frames):
            self._greeting.welcomed = True
            self._greet()
        else:
            _send(self._clients.iopub, frames)

    def _rider_spoke(self, message: dict[str, Any]) -> None:
        match message:
            case {"event": "started"}:
                self._unheard = None
                self.exit_code = None
            case {"event": "status", "running": True}:
                if self._unheard is None:
                    self.exit_code = None
            case {"event": "exited", "code": code} | {"event": "status", "exit_code": int(code)}:
                self._ended(code, str(message.get("tail", "")))
            case {"event": "status"}:
                self._ended(_NOT_STARTED, str(message.get("tail", "")))
            case {"event": "refused", "do": "start", "error": error}:
                self._unheard = None
                self._ended(_NOT_STARTED, str(error.get("message")))
            case {"event": "refused"}:
                log.error("session %s: the rider refused: %s", self.line.session, message)

    def _ended(self, code: int, last_words: str) -> None:
        if self._unheard and self._unheard["do"] == "start":
            return  # the one before the one that was asked for
        self._unheard = None
        self.last_words = last_words
        if self.exit_code is None:
            self.exit_code = code
        self._forget_program()

    def _forget_program(self) -> None:
        self._greeting.welcomed = False
        self._recovery.probes.clear()
        self._handle(law.ProgramExited())
        self._ledger.clear()

    def _tunnel_changed(self, state: str, detail: str) -> None:
        if state != "reset":
            return
        self._reconnect()
        self._handle(
            law.AnswersLost(
                MoveFailed(
                    f"The session was reset, or went on from an earlier moment: {detail}",
                    "What it did or said since may be lost. Look at the state of the kernel, then run the cell again.",
                )
            )
        )
        self._anchor.control(self._unheard or {"do": "status"})

    def _stream_cut(self, endpoint: str, reason: str) -> None:
        """What the kernel printed since is lost, and the clients must not think that there was nothing."""
        if reason == TRUNCATED and endpoint == self._endpoints["iopub"] and self._law.current:
            self._tell(law.Tell(self._law.current, _TRUNCATED))

    def _change_clients(self, outer: Connection, clients: Clients, heart: Heart) -> None:
        self._unplug()
        self._heart.close()
        self._heart = heart
        self._clients.close()
        self.line, self._clients = replace(self.line, outer=outer), clients
        self.attached = 0
        self._plug()

    def _reconnect(self) -> None:
        """New sockets: what waited in the old ones belongs to requests that are answered now."""
        self._unplug()
        self._kernel.close()
        self._greeting.welcomed = False
        self._kernel = self._dial()
        self._plug()

    # ── after a crash of the front ──

    def _recover(self) -> None:
        """The clients are back: hear the kernel again, and see to what was owed."""
        debts, self._recovery.debts = self._recovery.debts, []
        if not debts:
            return
        self._unplug()
        self._plug()
        owed = [read_request(debt.message, self.line.language, self._signer) for debt in debts if debt.forwarded]
        self._handle(law.DebtsFound(tuple(owed)))
        for subshell in {request.subshell for request in owed}:
            probe = self._voice.ask("kernel_info_request", _PROBE, subshell)
            self._recovery.probes[probe.header["msg_id"]] = tuple(one for one in owed if one.subshell == subshell)
            _send(self._kernel.shell, probe.frames)
        for debt in debts:
            if not debt.forwarded:
                request = read_request(debt.message, self.line.language, self._signer)
                self._fail(law.Fail(request, "Unreachable", "Sojourn's front was restarted.", "The cell did not run."))

    # ── what comes from the front ──

    def _take_news(self, news: Watched) -> None:
        session = news.session
        moving = session.status is SessionStatus.MOVING
        self.in_transit = moving and news.move is not None and news.move.phase in _FROZEN
        self._handle(law.SessionChanged(session.node, moving, self.in_transit))
        if news.place:
            self._anchor.place(news.place)
        self._anchor.expect(news.next_place)
        if session.status in ENDED:
            self._lose(
                session.reason or f"it is {session.status}", 1 if session.status is SessionStatus.FAILED else -SIGKILL
            )

    def _lose(self, reason: str, code: int) -> None:
        if self.exit_code is None:
            self.exit_code = code
            self._handle(law.AnswersLost(SessionLost(f"The session is gone: {reason}.", "Start a new kernel.")))

    def _signal(self, signum: int) -> None:
        if signum == SIGINT:
            self._handle(law.InterruptCame())
            return
        message = {"do": "signal", "signum": signum, "whole_group": True}
        if signum == SIGKILL:
            self._handle(law.ShutdownCame())
            self._unheard = message
        self._anchor.control(message)

    def _restart(self, program: dict[str, Any] | None) -> None:
        self._forget_program()
        self._unheard = {"do": "start", "program": program}
        self._anchor.control(self._unheard)

    # ── the law ──

    def _handle(self, event: law.Event) -> None:
        for instruction in self._law.handle(event, time.monotonic()):
            _OBEY[type(instruction)](self, instruction)
        deadline = self._law.next_deadline()
        if deadline is not None or self._timer:
            self._set_timer(deadline)

    def _set_timer(self, deadline: float | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if deadline is not None:
            self._timer = self._loop.later(deadline - time.monotonic(), lambda: self._handle(law.TimePassed()))

    def _forward(self, order: law.Forward) -> None:
        self._ledger.forwarded(order.request.id)
        _send(self._kernel.shell, order.request.message.frames)

    def _deliver(self, order: law.Deliver) -> None:
        _send(self._clients.shell, order.message.frames)

    def _abort(self, order: law.Abort) -> None:
        self._answer(order.request, {"status": "aborted"}, {"status": "aborted"})

    def _answer_empty(self, order: law.AnswerEmpty) -> None:
        self._answer(order.request, empty_answer(order.request.message))

    def _fail(self, order: law.Fail) -> None:
        error = error_content(order.name, order.message, order.hint)
        content = {**error, "status": "error", "execution_count": self._executions}
        if order.request.kind is law.Kind.EXECUTE:
            content |= {"user_expressions": {}, "payload": []}
        self._answer(order.request, content, error=None if order.request.silent else error)

    def _answer(
        self,
        request: law.Request,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        """As a kernel answers: busy, the error if there is one, the reply, idle."""
        message: Message = request.message
        self._publish(message, "status", {"execution_state": "busy"})
        if error and request.kind is law.Kind.EXECUTE:
            self._publish(message, "error", error)
        _send(self._clients.shell, self._voice.reply(message, content, metadata))
        self._publish(message, "status", {"execution_state": "idle"})
        self._ledger.settle(request.id)

    def _tell(self, order: law.Tell) -> None:
        self._publish(order.request.message, "stream", {"name": "stderr", "text": order.text})

    def _publish(self, parent: Message, kind: str, content: dict[str, Any]) -> None:
        _send(self._clients.iopub, self._voice.publish(kind, parent.raw_header, content))

    def _move(self, order: law.Move) -> None:
        self._errands.move(self.line.session, order.place)

    def _cancel_move(self, order: law.CancelMove) -> None:
        self._errands.cancel_move(self.line.session)

    def _pass_interrupt(self, order: law.PassInterrupt) -> None:
        if order.message:
            _send(self._kernel.control, order.message.frames)
        else:
            self._anchor.control({"do": "signal", "signum": int(SIGINT), "whole_group": True})

    def _confirm_interrupt(self, order: law.ConfirmInterrupt) -> None:
        if order.message:
            _send(self._clients.control, self._voice.reply(order.message, {"status": "ok"}))


_TRUNCATED = "[output truncated here: more was printed than could be kept while the clients were away]\n"

_NO_REPLY = Unreachable(
    "Sojourn's front was restarted while the cell ran; its reply, and output of that time, are lost.",
    "The kernel has run the cell and goes on: look at its state before you run the cell again.",
)

_OBEY: dict[type, Callable[[Switchboard, Any], None]] = {
    law.Forward: Switchboard._forward,
    law.Deliver: Switchboard._deliver,
    law.Abort: Switchboard._abort,
    law.Fail: Switchboard._fail,
    law.AnswerEmpty: Switchboard._answer_empty,
    law.Tell: Switchboard._tell,
    law.Move: Switchboard._move,
    law.CancelMove: Switchboard._cancel_move,
    law.PassInterrupt: Switchboard._pass_interrupt,
    law.ConfirmInterrupt: Switchboard._confirm_interrupt,
}


def _send(socket: Socket, frames: Frames) -> None:
    """Never blocks. Without a high-water mark there is always room; a peer that has gone is no error."""
    with contextlib.suppress(zmq.Again):
        socket.send_multipart(frames, zmq.NOBLOCK, copy=False)


def _ignore(_ready: int) -> None:
    """ZeroMQ's descriptor only wakes the loop; `_pump` looks at the sockets."""
