"""The rider itself: anchors' tunnels, agents' control connections, and the program they are about."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

from sojourn.errors import Invalid, SandboxFailed, SojournError, TunnelFailed
from sojourn.rider.capture import Capture
from sojourn.rider.door import Attach, Door
from sojourn.rider.porters import Porters
from sojourn.rider.program import Spec, program_class
from sojourn.rider.reach import Reach
from sojourn.rider.spool import Spool
from sojourn.rider.verbs import Verbs
from sojourn.rider.yielding import Yielding
from sojourn.transport.lines import LinePipe, LineSocket, decode_line
from sojourn.transport.loop import Loop
from sojourn.transport.pump import Pump
from sojourn.tunnel.connection import RiderEnd

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Control = LineSocket | LinePipe

_DO_AGENTS_ONLY = ("hang_up", "answer", "yield", "go_on")


class Rider:
    """`config` as in the contracts, section 1. Raises Invalid or OSError when it can't begin."""

    def __init__(self, config: dict[str, Any], loop: Loop | None = None) -> None:
        self.loop = loop or Loop()
        self.incarnation = 0
        self.epoch = 0
        self._session: str = config["session"]
        self._ending = False
        self._paths: dict[str, str] = config.get("paths", {})
        self._ports: dict[str, int] = config.get("ports", {})
        """Where the program listens instead, in a sandbox that shares its ports with others."""
        self._held: dict[str, str] = config.get("held", {})
        self._configured = Spec(config["program"], self._paths, self._held)
        self._anchors: dict[str, Pump] = {}
        self._agents: list[LineSocket] = []
        self._fronts: list[LinePipe] = []
        self._parked: list[Reach] = []
        self._yielding = Yielding(self._fronts, self._tell_agents)
        spool = config["spool"]
        self._spool = Spool(spool["folder"], spool["memory_bytes"], spool["disk_bytes"])
        self.capture = Capture(config.get("log"))
        self.program = program_class()(self.loop, self.capture, self._started, self._exited, self._failed)
        self._porters = Porters(self.loop)
        self._verbs = Verbs(self.loop, config["socket"], self._tell_agents, self._porters.come)
        self._door = Door(self.loop, config["listen"], config.get("secret"), check=self._check, attach=self._attach)
        self._do: dict[str, Callable[[Control, dict[str, Any]], None]] = {
            "start": self._do_start,
            "signal": self._do_signal,
            "kill": lambda _control, _message: self.program.kill(),
            "hang_up": self._do_hang_up,
            "answer": self._do_answer,
            "yield": lambda _control, _message: self._yielding.begin(self._anchors.values()),
            "go_on": lambda _control, _message: self._yielding.end(),
            "yielded": lambda control, _message: self._yielding.answered(control),
            "status": lambda control, _message: control.say(self._status()),
        }

    @property
    def address(self) -> str:
        """Where it listens, in the form of the configuration's `listen`."""
        return self._door.address

    def start_program(self, spec: Spec | None = None) -> None:
        """None: the configured one."""
        spec = spec or self._configured
        spec.env["SOJOURN_SOCKET"] = self._verbs.address
        self.program.start(spec)

    def pass_signal(self, signum: int) -> None:
        """To the program's group. After SIGTERM the rider is `done` when the program is."""
        self._ending = self._ending or signum == signal.SIGTERM
        self.program.signal(signum, whole_group=True)

    @property
    def done(self) -> bool:
        return self._ending and not self.program.running

    # ── attaching ────────────────────────────────────────────────────────────────────────────────────────────

    def _check(self, attach: Attach) -> None:
        if attach.incarnation < self.incarnation or attach.epoch < self.epoch:
            raise TunnelFailed(
                f"{self._session} is in incarnation {self.incarnation}, epoch {self.epoch}; "
                f"an agent came for {attach.incarnation}, {attach.epoch}."
            )
        if attach.session not in (None, self._session) and attach.epoch == self.epoch:
            raise TunnelFailed(f"{self._session} lives here in epoch {self.epoch}; an agent came for {attach.session}.")
        if attach.what == "tunnel" and attach.epoch == self.epoch:
            self._yielding.may_attach(self._anchors.get(attach.anchor))

    def _attach(self, attach: Attach, connection: socket.socket, early: bytes) -> None:
        if attach.session is not None and attach.session != self._session:
            self._become(attach.session)
        self._live(attach.incarnation, attach.epoch)
        if attach.what == "control":
            self._take_agent(connection, early)
        elif attach.what == "porter":
            self._porters.bring(connection)
        else:
            self._pump_of(attach.anchor).attach(connection, self.incarnation, self.epoch, early)

    def _become(self, session: str) -> None:
        """What we remember of ourselves is the memory of the session that we were forked from: its clients are not
        ours."""
        self._session = session
        anchors, self._anchors = self._anchors, {}
        for pump in anchors.values():
            pump.abandon("the session was forked")

    def _live(self, incarnation: int, epoch: int) -> None:
        """A new life: connections of the one before lead nowhere, but whoever stands at the door may have come for the
        new one; a new epoch ends all streams."""
        if incarnation > self.incarnation:
            self.incarnation = incarnation
            self._close_attached()
        if epoch > self.epoch:
            self.epoch = epoch
            self._yielding.cease()
            for pump in self._anchors.values():
                pump.begin_epoch(epoch)

    def _take_agent(self, connection: socket.socket, early: bytes) -> None:
        def ended(_reason: str) -> None:
            self._agents.remove(agent)

        agent = LineSocket(self.loop, connection, lambda line: self._heard(agent, line), ended)
        self._agents.append(agent)
        agent.say(self._status())
        for event in self._verbs.pending():
            agent.say(event)
        self._yielding.tell(agent.say)
        agent.hear(early)

    def _pump_of(self, anchor: str) -> Pump:
        if anchor not in self._anchors:
            self._bury_forerunner(anchor)
            end = RiderEnd(self._session, anchor)
            pump = Pump(
                self.loop,
                end,
                lost=lambda _reason: None,
                agreed=lambda: self._yielding.connected(pump),
                opened=lambda *stream: self._opened(pump, *stream),
            )
            self._anchors[anchor] = pump
        return self._anchors[anchor]

    def _bury_forerunner(self, anchor: str) -> None:
        """The anchor of a front that was killed will never come back, and what is kept for it would fill the spool."""
        front, dot, _ = anchor.partition(".")
        for known in [known for known in self._anchors if dot and known.startswith(f"{front}.")]:
            self._anchors.pop(known).abandon("its front was started anew")

    def _close_attached(self, last: LineSocket | None = None) -> None:
        """`last`: whose end of file tells the agent that everything else is closed."""
        for pump in self._anchors.values():
            pump.detach()
        agents, self._agents = self._agents, []
        for agent in sorted(agents, key=lambda agent: agent is last):
            agent.close()

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self, pump: Pump, number: int, target: str) -> None:
        if target == "control":
            self._take_front(pump, number)
            return
        if not target.startswith("tcp:"):
            pump.end.reset(number, f"{target!r} is no target of a stream")
            return
        Reach(
            pump,
            number,
            self._address(target[len("tcp:") :]),
            self._spool.backlog(),
            running=lambda: self.program.running,
            park=self._park,
        )

    def _address(self, said: str) -> str:
        host, _, port = said.rpartition(":")
        return f"{host}:{self._ports.get(port, port)}"

    def _park(self, reach: Reach) -> None:
        """It goes on when a program starts."""
        self._parked = [parked for parked in self._parked if parked.open]
        self._parked.append(reach)

    def _take_front(self, pump: Pump, number: int) -> None:
        def gone(_reason: str) -> None:
            self._fronts.remove(front)
            self._yielding.left(front)

        front = LinePipe(pump, number, lambda line: self._heard(front, line), gone)
        self._fronts.append(front)
        front.say(self._status())
        self._yielding.came(front)

    # ── the program ──────────────────────────────────────────────────────────────────────────────────────────

    def _started(self, pid: int) -> None:
        self._tell_all({"event": "started", "pid": pid})
        parked, self._parked = self._parked, []
        for reach in parked:
            reach.go()

    def _exited(self, code: int) -> None:
        self._porters.hang_up()
        self._tell_all({"event": "exited", "code": code, "tail": self.capture.tail})

    def _failed(self, failure: SandboxFailed) -> None:
        self._porters.hang_up()
        self.capture.add(f"{failure.message}\n".encode())
        self._tell_all({"event": "refused", "do": "start", "error": failure.to_wire()})

    # ── control ──────────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, control: Control, line: bytes) -> None:
        what = None
        try:
            message = decode_line(line)
            what = message.get("do")
            if what not in self._do or (what in _DO_AGENTS_ONLY and control not in self._agents):
                raise Invalid(f"The rider does not do {what!r}.", "See the contracts, section 1.")
            self._do[what](control, message)
        except SojournError as refused:
            control.say({"event": "refused", "do": what, "error": refused.to_wire()})
        except (KeyError, TypeError, ValueError, OSError) as wrong:
            refusal = Invalid(f"The rider could not {what}: {wrong!r}.", "See the contracts, section 1.")
            control.say({"event": "refused", "do": what, "error": refusal.to_wire()})

    def _do_start(self, _control: Control, message: dict[str, Any]) -> None:
        body = message.get("program")
        self.start_program(Spec(body, self._paths, self._held) if body else None)

    def _do_signal(self, _control: Control, message: dict[str, Any]) -> None:
        self.program.signal(signal.Signals(message["signum"]), bool(message.get("whole_group", True)))

    def _do_hang_up(self, control: Control, _message: dict[str, Any]) -> None:
        assert isinstance(control, LineSocket)
        self._door.hang_up()
        self._porters.hang_up()
        self._close_attached(control)

    def _do_answer(self, _control: Control, message: dict[str, Any]) -> None:
        self._verbs.answer(message["verb"], bool(message["ok"]), message.get("body", {}))

    def _status(self) -> dict[str, Any]:
        return {
            "event": "status",
            "incarnation": self.incarnation,
            "running": self.program.running,
            "pid": self.program.pid,
            "exit_code": self.program.exit_code,
            "tail": self.capture.tail,
            "anchors": [anchor for anchor, pump in self._anchors.items() if pump.connected],
        }

    def _tell_agents(self, event: dict[str, Any]) -> None:
        for agent in list(self._agents):
            agent.say(event)

    def _tell_all(self, event: dict[str, Any]) -> None:
        self._tell_agents(event)
        for front in list(self._fronts):
            front.say(event)
