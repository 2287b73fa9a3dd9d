"""The switchboard: a ZeroMQ proxy between a kernel's clients and its tunnel.

Clients see five ports that never change and a heart that always beats. Each session's switchboard is one thread with
one loop, shared with its anchor. Most messages pass through untouched; shell requests and replies, and what ends or
interrupts the kernel, go by the law in `switchboard_law`; while the session is not awake, everything does.

The kernel sees one client, us; the real client's identity travels inside the envelope (the kernel's ROUTER keeps
every frame before the delimiter and puts it before its reply), so a reply finds its way even through a new
front that knows nothing of the request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

from sojourn import switchboard_law as law
from sojourn.client import Watched
from sojourn.errors import MoveFailed, SessionLost, SojournError
from sojourn.front.activity import Pulse
from sojourn.front.connection import Channel, Connection
from sojourn.front.echoes import FACT, Echoes
from sojourn.front.exchange import Exchange, Frames, Taker
from sojourn.front.heart import Heart
from sojourn.front.ledger import Ledger
from sojourn.front.messages import Message, Signer, Voice, is_welcome, read_control, read_request
from sojourn.front.parties import ControlHandler, Errands, Line, NearEnd, StateHandler
from sojourn.front.recollection import Recollection
from sojourn.front.recovery import Recovery
from sojourn.front.sides import Clients, Kernel, Socket, Zone
from sojourn.front.sounding import Sounding
from sojourn.front.swap import Swap
from sojourn.front.tidings import LeftBehind, rewound
from sojourn.front.understudy import Understudy
from sojourn.front.unfinished import Unfinished
from sojourn.lifecycle import ENDED
from sojourn.model import SessionStatus, SessionView
from sojourn.transport.loop import Loop, Timer

log = logging.getLogger(__name__)

RETURN_SECONDS = 3.0
"""How long a new front waits for clients of the last one, before it hears what the kernel says meanwhile."""
_DEAF_SECONDS = 2.0  # a kernel that does not greet its listeners, or does not run
_SETTLE_SECONDS = 0.3  # a client's channels come back one by one
_SECOND_LOOK_SECONDS = 5.0  # after a wake: it may have fallen asleep again before anything was let go to it
_PROBE = b"sojourn-probe"
_NOT_STARTED = 127  # as a shell has it

_NOWHERE = (SessionStatus.SUSPENDED, SessionStatus.WAKING)
_ASLEEP = (SessionStatus.SUSPENDING, *_NOWHERE)


class Switchboard:
    """One kernel's switchboard. Public methods may be called from any thread, but for those that say otherwise."""

    def __init__(
        self,
        line: Line,
        zone: Zone,
        anchor: Callable[[Loop, ControlHandler, StateHandler], NearEnd],
        errands: Errands,
        ledger: Ledger,
        recollection: Recollection,
        successor: bool = False,
    ) -> None:
        """Binds the clients' ports; raises Refused when one is taken. Nothing happens before `start`. `successor`: an
        earlier front hosted the kernel, and its clients will come back."""
        self.line = line
        self.exit_code: int | None = None
        """Of the kernel's program, as subprocess gives it; None while it runs or is about to."""
        self.last_words = ""
        """The end of what the program printed, or why it could not be started."""
        self.attached = 0
        """Who listens to iopub."""
        self.in_transit = False
        self.saved_at: float | None = None
        """When the state was saved that it wakes from, seconds since the epoch; set before it wakes, if it is known."""
        self._errands = errands
        self._ledger = ledger
        self._recollection = recollection
        self._zone = zone
        self._signer = Signer.of(line.outer)
        self._voice = Voice(self._signer, line.session)
        self._understudy = Understudy(
            self._voice,
            recollection,
            lambda channel, frames: self._clients.send(channel, frames),
            lambda request: ledger.settle(request.id),
        )
        self._law = law.SwitchboardLaw()
        self._obey = {**self._orders(), **self._understudy.orders}
        self._recovery = Recovery(
            ledger.take_up(),
            successor,
            lambda message: read_request(message, line.language, self._signer),
            self._handle,
            lambda subshell: self._ask("shell", subshell),
            self._obey[law.Fail],
        )
        self._echoes = Echoes(self._ask, lambda: self._handle(law.KernelHeard()))
        self._swap = Swap(self._ask, self._voice, recollection, lambda frames: self._clients.send("iopub", frames))
        self._swapping = False
        """The streams were reset while clients yielded, and the kernel has not been heard since."""
        self._news: Watched | None = None
        self._returning = False
        self._left_behind = LeftBehind()
        """The session slept, and has not been reached since."""
        self._pulse = Pulse(lambda executing, at: errands.activity(line.session, executing, at))
        self._unheard: dict[str, Any] | None = None
        """What was said to the rider about the program's life and has shown no effect yet."""
        self._timer: Timer | None = None
        self._stopping = False
        self._clients = self._bind(line.outer)
        self._heart = self._make_heart(line.outer, self._clients)
        self._loop = Loop()
        self._exchange = Exchange(self._loop)
        self._unfinished = Unfinished(self._loop, self._understudy)
        self._sounding = Sounding(self._loop, lambda: self._ask("control"), self._kernel_heard)
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

    def wake_ended(self, error: SojournError | None = None) -> None:
        self._loop.soon(lambda: self._wake_ended(error))

    def lost(self, reason: str) -> None:
        """There is no such session any more."""
        self._loop.soon(lambda: self._lose(reason, -SIGKILL))

    def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group. SIGINT also cancels what is held; a kernel that can't be
        reached counts as dead from the moment it is sent SIGKILL, for its owner must not wait. A sleeping one is not
        woken by a signal, and counts as dead from a SIGTERM as well."""
        unreachable = self.in_transit or self._anchor.state != "connected"
        if (signum == SIGKILL and unreachable) or (signum == SIGTERM and self._law.asleep):
            self.exit_code = -signum
        self._loop.soon(lambda: self._signal(signum))

    def restart(self, program: dict[str, Any] | None) -> None:
        """Start the program, as it was configured or as told; one that runs is killed first."""
        self.exit_code = None
        self._loop.soon(lambda: self._restart(program))

    def relisten(self, outer: Connection) -> None:
        """Let the clients come to other ports. Raises Refused when one is taken; then all is as it was."""
        clients = self._bind(outer)
        heart = self._make_heart(outer, clients)
        self._loop.soon(lambda: self._change_clients(outer, clients, heart))

    # ── the thread ──

    def _run(self) -> None:
        self._anchor.control({"do": "status"})
        if self._recovery.awaits_clients:
            self._loop.later(RETURN_SECONDS, self._recover)
        while not self._stopping:
            try:
                self._heart.beat(self.exit_code is None)
                quiet = self._exchange.pump()
                self._loop.run_once(None if quiet else 0)
            except Exception:
                log.exception("switchboard of %s stumbled", self.line.session)
        self._anchor.close()
        self._exchange.unplug()
        self._kernel.close()
        self._heart.close()
        self._clients.close()
        self._ledger.close()
        self._loop.close()

    def _make_heart(self, outer: Connection, clients: Clients) -> Heart:
        try:
            return Heart(self._zone, outer)
        except SojournError:
            clients.close()
            raise

    def _bind(self, outer: Connection) -> Clients:
        return Clients.bind(self._zone, outer, self._signer if self._rekeys else None)

    def _dial(self) -> Kernel:
        signer = Signer.of(self.line.inner) if self._rekeys else None
        return Kernel.dial(self._zone, self._endpoints, self.line.identity.encode(), signer)

    @property
    def _rekeys(self) -> bool:
        """A forked kernel has the key of the one it was forked from, and its clients another."""
        return self.line.outer.key != self.line.inner.key

    def _plug(self) -> None:
        """Join the clients' sockets and the kernel's."""
        clients, kernel = self._clients, self._kernel
        clients.publication.begin(self._loop, self._unfinished.lagged)
        takers: dict[Socket, Taker] = {
            clients.control: self._control_asked,
            kernel.control: self._control_answered,
            kernel.stdin: lambda frames: clients.send("stdin", frames),
            clients.stdin: self._input_given,
            clients.shell: self._shell_asked,
            kernel.shell: self._shell_answered,
            clients.iopub: self._subscribed,
            kernel.iopub: self._published,
        }
        if self._recovery.awaits_clients:
            for socket in (kernel.shell, kernel.iopub):
                del takers[socket]
        self._exchange.plug(takers)

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
        elif request.kind is not law.Kind.QUESTION:
            self._recollection.passed(message)
        if request.rouses:
            self._pulse.attended(time.time())
        self._handle(law.RequestCame(request))

    def _control_asked(self, frames: Frames) -> None:
        message = self._read(frames)
        if message is None:
            return
        kind = message.header.get("msg_type")
        if kind == "interrupt_request":
            self._handle(law.InterruptCame(message))
        elif kind == "shutdown_request":
            self._handle(law.ShutdownCame(message))
        elif self._law.asleep or self._law.yielding:
            self._handle(law.RequestCame(read_control(message)))
        else:
            self._kernel.send("control", frames)

    def _input_given(self, frames: Frames) -> None:
        if self._read(frames):
            self._kernel.send("stdin", frames)
            self._pulse.attended(time.time())
            self._handle(law.InputCame())

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
            self._understudy.greet(event[1:])
        if joins and self._recovery.awaits_clients:
            self._loop.later(_SETTLE_SECONDS, self._recover)

    # ── what comes from the kernel ──

    def _shell_answered(self, frames: Frames) -> None:
        message = Message.read(frames)
        if message is None:
            return
        asked = str(message.parent.get("msg_id"))
        if self._recovery.replied(asked) or self._swap.replied(asked, message) or self._echoes.replied(message):
            return
        failed = False
        if b"execute_reply" in message.raw_header:
            content = message.content
            failed = content.get("status") == "error"
            self._recollection.executions = content.get("execution_count") or self._recollection.executions
        else:
            self._recollection.replied(message)
        self._handle(law.ReplyCame(asked, failed, message))
        self._unfinished.replied(asked)
        self._ledger.settle(asked)

    def _published(self, frames: Frames) -> None:
        self._sounding.spoke()
        if is_welcome(frames):
            self._understudy.welcomed()
            return
        message = Message.read(frames)
        if message and self._swap.hides(message):
            return
        self._clients.send("iopub", frames)
        if message:
            self._echoes.heard(message)
            self._unfinished.heard(message)
            header = message.raw_header
            if b'"execute_input"' in header:
                self._handle(law.CellBegan(str(message.parent.get("msg_id"))))
            else:
                self._recollection.passed(message)

    def _control_answered(self, frames: Frames) -> None:
        self._clients.send("control", frames)
        if message := Message.read(frames):
            self._recollection.replied(message)
            self._echoes.replied(message)

    def _rider_spoke(self, message: dict[str, Any]) -> None:
        match message:
            case {"event": "started"}:
                self._unheard = None
                self.exit_code = None
                self._swap.began()
                if self._returning:
                    self._reconnect()  # what goes to the kernel that was killed never reaches this one
                    self._look_whether_back()
            case {"event": "status", "running": True}:
                if self._unheard is None:
                    self.exit_code = None
            case {"event": "exited", "code": code} | {"event": "status", "exit_code": int(code)}:
                self._ended(code, str(message.get("tail", "")))
            case {"event": "status"}:
                self._ended(_NOT_STARTED, str(message.get("tail", "")))
            case {"event": "yield"}:
                self._yield()
            case {"event": "go_on"} if not self._swapping:
                self._go_on()
            case {"event": "refused", "do": "start", "error": error}:
                self._unheard = None
                self._ended(_NOT_STARTED, str(error.get("message")))
            case {"event": "refused"}:
                log.error("session %s: the rider refused: %s", self.line.session, message)

    def _ended(self, code: int, last_words: str) -> None:
        if self._unheard and self._unheard["do"] == "start":
            return  # the one before the one that was asked for
        self._unheard, self.last_words = None, last_words
        if self.exit_code is None:
            self.exit_code = code
        self._forget_program()

    def _forget_program(self) -> None:
        self._sounding.reset()
        self._understudy.unwelcomed()
        self._unfinished.forget()
        self._recovery.forget()
        self._echoes.forget()
        self._recollection.forget_program()
        self._handle(law.ProgramExited())
        self._ledger.clear()

    def _tunnel_changed(self, state: str, detail: str) -> None:
        if state == "reset":
            self._was_reset(detail)
        elif state == "connected":
            self._look_whether_back()

    def _was_reset(self, detail: str) -> None:
        self._reconnect()
        self._handle(
            law.AnswersLost(
                MoveFailed(
                    f"The session was reset, or went on from an earlier moment: {detail}",
                    "What it did or said since may be lost. Look at the state of the kernel, then run the cell again.",
                )
            )
        )
        self._recovery.forget()
        self._anchor.control(self._unheard or {"do": "status"})
        self._swap.came()
        if self._law.yielding:
            self._swapping = True
            self._sounding.begin()

    def _stream_cut(self, endpoint: str, reason: str) -> None:
        if endpoint == self._endpoints["iopub"]:
            self._unfinished.cut(reason)

    def _change_clients(self, outer: Connection, clients: Clients, heart: Heart) -> None:
        self._exchange.unplug()
        self._heart.close()
        self._heart = heart
        self._clients.close()
        self.line, self._clients = replace(self.line, outer=outer), clients
        self.attached = 0
        self._plug()

    def _reconnect(self) -> None:
        """New sockets: what waited in the old ones belongs to requests that are answered now."""
        self._unfinished.forget()
        self._exchange.unplug()
        self._kernel.close()
        self._sounding.reset()
        self._echoes.forget()
        self._understudy.unwelcomed()
        self._kernel = self._dial()
        self._plug()

    # ── after a crash of the front ──

    def _recover(self) -> None:
        if self._recovery.awaits_clients:
            self._recovery.begin(self._plug)
            self._sounding.begin()
            self._loop.later(_DEAF_SECONDS, self._let_go)

    def _let_go(self) -> None:
        for order in self._recovery.heard():
            self._forward(order)

    # ── another kernel behind the same clients ──

    def _yield(self) -> None:
        self._swapping = False
        self._handle(law.YieldAsked())

    def _kernel_heard(self) -> None:
        """For the first time, at its iopub: what clients have held may go there, and nothing it prints is missed."""
        self._let_go()
        if self._swapping:
            self._go_on()
        self._look_whether_back()

    def _go_on(self) -> None:
        self._swapping = False
        self._echoes.forget()
        self._handle(law.GoneOn())

    # ── what comes from the front ──

    def _take_news(self, news: Watched) -> None:
        session, self._news = news.session, news
        nowhere = session.status in _NOWHERE
        self._returning = self._returning or nowhere
        if news.place or nowhere:
            self._anchor.place(news.place)
        self._anchor.expect(news.next_place)
        self._look_whether_back()
        if session.status in ENDED:
            code = 1 if session.status is SessionStatus.FAILED else -SIGKILL
            self._lose(session.reason or f"it is {session.status}", code)

    def _look_whether_back(self) -> None:
        """A session that slept is awake again when it can be reached, and the program runs that is meant to."""
        if self._news is None:
            return
        session, move = self._news.session, self._news.move
        falling = session.status in _ASLEEP
        slept, self._returning = self._returning, self._returning and not self._is_back(session)
        asleep = falling or self._returning
        moving = session.status is SessionStatus.MOVING
        frozen = moving and move is not None and move.stands_still
        self.in_transit = frozen or asleep
        told = self._rewound(session, slept, asleep) or self._left_behind.tell(move)
        self._handle(law.SessionChanged(session.node, moving, frozen, asleep, told))
        if asleep:
            self._recollection.save()

    def _is_back(self, session: SessionView) -> bool:
        starts = self._unheard is not None and self._unheard["do"] == "start"
        if session.status in _ASLEEP or self._anchor.state != "connected" or starts:
            return False
        self._sounding.begin()
        return self._sounding.hears

    def _ask(self, channel: Channel, subshell: str | None = None, kind: str = FACT) -> str:
        """Ask the kernel something that changes nothing; the id of the question."""
        probe = self._voice.ask(kind, _PROBE, subshell)
        self._kernel.send(channel, probe.frames)
        return str(probe.header["msg_id"])

    def _rewound(self, session: SessionView, slept: bool, asleep: bool) -> str:
        """What to tell the next cell when this is the first news of an older state than clients have seen."""
        if asleep:
            return ""
        seen, self._recollection.epoch = self._recollection.epoch, session.epoch
        if not slept or seen is None or session.epoch <= seen:
            return ""
        return rewound(self.saved_at, session.reason)

    def _lose(self, reason: str, code: int) -> None:
        if self.exit_code is None:
            self.exit_code = code
            self._go_on()
            self._handle(law.AnswersLost(SessionLost(f"The session is gone: {reason}.", "Start a new kernel.")))

    def _signal(self, signum: int) -> None:
        if signum == SIGINT:
            self._handle(law.InterruptCame())
            return
        message = {"do": "signal", "signum": signum, "whole_group": True}
        if signum == SIGKILL or (signum == SIGTERM and self._law.asleep):
            self._handle(law.ShutdownCame())
            self._unheard = message
        self._anchor.control(message)

    def _restart(self, program: dict[str, Any] | None) -> None:
        self._forget_program()
        self._unheard = {"do": "start", "program": program}
        self._anchor.control(self._unheard)
        if self._law.asleep:
            self._errands.wake(self.line.session, None)

    def _wake_ended(self, error: SojournError | None) -> None:
        if error and self._law.asleep and self._unheard:
            self._unheard = None
            self._ended(_NOT_STARTED, f"The session could not be woken: {error}")
        self._handle(law.WakeEnded(error))
        if not error:
            self._loop.later(_SECOND_LOOK_SECONDS, self._look_whether_back)

    # ── the law ──

    def _handle(self, event: law.Event) -> None:
        for instruction in self._law.handle(event, time.monotonic()):
            self._obey[type(instruction)](instruction)
        deadline = self._law.next_deadline()
        if deadline is not None or self._timer:
            self._set_timer(deadline)
        self._pulse.executes(self._law.current is not None)

    def _set_timer(self, deadline: float | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if deadline is not None:
            self._timer = self._loop.later(deadline - time.monotonic(), lambda: self._handle(law.TimePassed()))

    def _orders(self) -> dict[type, Callable[[Any], None]]:
        """How the law's instructions are carried out that are not the understudy's."""
        session, errands = self.line.session, self._errands
        return {
            law.Forward: self._forward,
            law.Deliver: lambda order: self._clients.send("shell", order.message.frames),
            law.Move: lambda order: errands.move(session, order.place),
            law.CancelMove: lambda order: errands.cancel_move(session),
            law.Wake: lambda order: errands.wake(session, order.place),
            law.PassInterrupt: self._pass_interrupt,
            law.PassShutdown: lambda order: self._kernel.send("control", order.message.frames),
            law.Discard: self._discard,
            law.Probe: lambda order: self._echoes.begin(),
            law.SayYielded: lambda order: self._anchor.control({"do": "yielded"}),
        }

    def _forward(self, order: law.Forward) -> None:
        if self._recovery.hold(order):
            return
        self._ledger.forwarded(order.request.id)
        self._unfinished.forwarded(order.request)
        self._kernel.send(order.request.channel, order.request.message.frames)

    def _pass_interrupt(self, order: law.PassInterrupt) -> None:
        if order.message:
            self._kernel.send("control", order.message.frames)
        else:
            self._anchor.control({"do": "signal", "signum": int(SIGINT), "whole_group": True})

    def _discard(self, order: law.Discard) -> None:
        """What is to be restarted needs its session; its program ends when that wakes."""
        restart = order.message.content.get("restart") is True
        self._understudy.shut_down(order.message, restart)
        self.exit_code = 0
        if restart:
            self._signal(SIGKILL)
        else:
            self._errands.discard(self.line.session)
