"""The near end of a tunnel: it holds the clients' connections and never moves."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sojourn.errors import SojournError, TunnelFailed
from sojourn.front.socket_folders import make_socket_folder
from sojourn.model.sessions import Place
from sojourn.transport import address
from sojourn.transport.dial import Dial
from sojourn.transport.lines import LinePipe, decode_line
from sojourn.transport.loop import READ, Loop, Timer
from sojourn.transport.pump import Pump
from sojourn.transport.routes import Routes
from sojourn.transport.socket_pipe import SocketPipe
from sojourn.tunnel.connection import AnchorEnd

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 2.0


class Anchor:
    """One session's anchor, driven by its caller's loop: all methods belong to that loop's thread, none blocks.

    `on_control(message)` gets what the rider says on the control stream (`status`, `started`, `exited`, `refused`;
    contract 1). `on_state(state, detail)`: "connected"; "away" (why, in words; said again when the reason changes);
    "reset" (why): every stream is gone, each local connection was closed, and what was said on the control stream may
    not have been heard. `on_cut(endpoint, reason)`: the far side reset one stream, whose local connection was closed,
    as when output had to be truncated. `relay()`: host:port by which nodes are reached that can't be dialled
    themselves; empty: there is none.
    """

    def __init__(
        self,
        loop: Loop,
        session: str,
        anchor: str,
        *,
        relay: Callable[[], str] = lambda: "",
        on_control: Callable[[dict[str, Any]], None] = lambda message: None,
        on_state: Callable[[str, str], None] = lambda state, detail: None,
        on_cut: Callable[[str, str], None] = lambda endpoint, reason: None,
    ) -> None:
        self.on_control = on_control
        self.on_state = on_state
        self.on_cut = on_cut
        self.loop = loop
        self.relay = relay
        self._end = AnchorEnd(session, anchor)
        self._pump = Pump(loop, self._end, lost=self._lost, agreed=self._agreed, reset=self._reset)
        self._present: Way | None = None
        self._expected: Way | None = None
        self._taken: Way | None = None
        """The way whose connection carries the tunnel, or did last."""
        self._control: LinePipe | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._folder: Path | None = None
        self._state = "away"
        self._detail = ""

    # ── where the session is ─────────────────────────────────────────────────────────────────────────────────

    def place(self, place: Place | None) -> None:
        """The session is there: dial it, unless that is done, and go on trying while away. May be repeated.

        None: it sleeps, and nobody is to be dialled.
        """
        if place is None:
            self._rest()
            return
        if self._present and self._present.leads_to(place):
            self._present.place = place  # the ticket may be a fresh one
            return
        self._close(self._present)
        self._present = self._known_way(place)
        if self._present is self._expected:
            self._expected = None
        if self._taken not in (None, self._present, self._expected):
            self._drop("the session is elsewhere")
        if self._present is not self._taken and not self._present.dialing:
            self._present.dial()

    def expect(self, place: Place | None) -> None:
        """The session will be there: dial and wait. The tunnel switches over at once when the rider speaks there.

        None: it will not go anywhere (any more). May be repeated.
        """
        if place and self._expected and self._expected.leads_to(place):
            self._expected.place = place
            return
        self._close(self._expected)
        self._expected = None
        if place and not (self._present and self._present.leads_to(place)):
            self._expected = Way(self, place)
            self._expected.dial()

    # ── the clients' side ────────────────────────────────────────────────────────────────────────────────────

    def listen(self, target: str) -> str:
        """A local ZeroMQ endpoint (`ipc://…`, `tcp://127.0.0.1:…` on Windows); each accepted connection is one
        stream to `target` (`tcp:127.0.0.1:PORT` inside the sandbox). Raises OSError."""
        endpoint = Endpoint(self.loop, self._pump, self._end, self._free_address(), target, self._was_cut)
        self._endpoints[endpoint.name] = endpoint
        return endpoint.name

    def retarget(self, endpoint: str, target: str) -> None:
        """Connections accepted at `endpoint` go to `target` from now on; those that are open are closed."""
        self._endpoints[endpoint].retarget(target)

    def join(self, target: str, pipe: Callable[[Pump, int], SocketPipe]) -> None:
        """For connections that are accepted elsewhere: one stream to `target`, and what `pipe(pump, number)` makes of
        it carries it."""
        pipe(self._pump, self._end.open(target))
        self._pump.flush()

    def control(self, message: dict[str, Any]) -> None:
        """Say something to the rider (`start`, `signal`, `kill`, `status`), now or as soon as it can be reached."""
        self._control_pipe().say(message)

    @property
    def state(self) -> str:
        """ "connected" or "away"."""
        return self._state

    def close(self) -> None:
        """Close every connection and endpoint; the rider keeps its end until another epoch."""
        self._close(self._present)
        self._close(self._expected)
        self._pump.detach()
        while self._endpoints:
            self._endpoints.popitem()[1].close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ── ways, as they call back ──────────────────────────────────────────────────────────────────────────────

    def spoke(self, way: Way, connection: socket.socket, early: bytes) -> None:
        """The rider speaks at the end of this way."""
        former, self._taken = self._taken, way
        try:
            self._pump.attach(connection, way.place.incarnation, way.place.epoch, early)
        except TunnelFailed as stale:
            self._taken = former
            connection.close()
            self.stumbled(way, stale)

    def stumbled(self, way: Way, error: SojournError) -> None:
        """This way leads nowhere for now."""
        if way is self._present and self._state == "away":
            self._tell("away", error.message)
        way.dial_later()

    # ── the pump, as it calls back ───────────────────────────────────────────────────────────────────────────

    def _agreed(self) -> None:
        assert self._taken is not None
        self._taken.failures = 0
        if self._taken is self._expected and self._present:
            self._present.close()  # it is not there any more, and will be told to be here
        self._control_pipe()
        self._tell("connected", self._taken.place.node)

    def _lost(self, reason: str) -> None:
        self._tell("away", reason)
        way = self._taken if self._taken in (self._present, self._expected) else self._present
        self._taken = None
        if way:
            way.dial_later()

    def _reset(self, reason: str) -> None:
        self.on_state("reset", reason)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _rest(self) -> None:
        self._close(self._present)
        self._present = None
        if self._taken not in (None, self._expected):
            self._drop("the session sleeps")

    def _known_way(self, place: Place) -> Way:
        for way in (self._taken, self._expected):
            if way and way.leads_to(place):
                way.place = place
                return way
        return Way(self, place)

    def _drop(self, reason: str) -> None:
        self._pump.detach()
        self._taken = None
        self._tell("away", reason)

    def _close(self, way: Way | None) -> None:
        if way:
            way.close()

    def _tell(self, state: str, detail: str) -> None:
        if (state, detail) != (self._state, self._detail):
            self._state, self._detail = state, detail
            self.on_state(state, detail)

    def _control_pipe(self) -> LinePipe:
        if self._control is None:
            number = self._end.open("control")
            self._control = LinePipe(self._pump, number, self._heard, self._control_gone)
            self._pump.flush()
        return self._control

    def _was_cut(self, endpoint: Endpoint, reason: str) -> None:
        self.on_cut(endpoint.name, reason)

    def _heard(self, line: bytes) -> None:
        self.on_control(decode_line(line))

    def _control_gone(self, _reason: str) -> None:
        self._control = None

    def _free_address(self) -> str:
        if not hasattr(socket, "AF_UNIX"):
            return "127.0.0.1:0"
        self._folder = self._folder or make_socket_folder()
        return str(self._folder / str(len(self._endpoints)))


class Way:
    """One place, and the trying to get there."""

    def __init__(self, anchor: Anchor, place: Place) -> None:
        self.place = place
        self.failures = 0
        self._anchor = anchor
        self._routes = Routes(place.node, place.address, anchor.relay(), place.authority)
        self._dial: Dial | None = None
        self._timer: Timer | None = None

    def leads_to(self, place: Place) -> bool:
        """Whether a connection made this way serves that place: all but the ticket is the same."""
        return self.place.model_copy(update={"ticket": place.ticket}) == place

    @property
    def dialing(self) -> bool:
        """Under way; it may be before the rider by now, so to begin anew would only cost time."""
        return self._dial is not None

    def dial(self) -> None:
        self.close()
        self._routes.relay = self._anchor.relay()
        self._dial = Dial(
            self._anchor.loop,
            self._routes,
            self.place.ticket,
            spoke=self._spoke,
            failed=lambda error: self._anchor.stumbled(self, error),
        )

    def dial_later(self) -> None:
        """At once after a connection that served, and then ever more slowly."""
        self.close()
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** (self.failures - 1), _LONGEST_PAUSE_SECONDS) if self.failures else 0.0
        self.failures += 1
        self._timer = self._anchor.loop.later(pause, self.dial)

    def close(self) -> None:
        """Stop trying; a connection that was made already is not touched."""
        if self._dial:
            self._dial.close()
        if self._timer:
            self._timer.cancel()
        self._dial = self._timer = None

    def _spoke(self, connection: socket.socket, early: bytes) -> None:
        self._dial = None
        self._anchor.spoke(self, connection, early)


class ClientPipe(SocketPipe):
    """One client's connection; `cut(reason)` when its stream alone is reset by the far side."""

    def __init__(self, pump: Pump, number: int, connection: socket.socket, cut: Callable[[str], None]) -> None:
        super().__init__(pump, number, connection)
        self._was_cut = cut

    def stream_reset(self, reason: str) -> None:
        super().stream_reset(reason)
        self._was_cut(reason)


class Endpoint:
    """A local address; each connection to it becomes a stream to `target`."""

    def __init__(
        self,
        loop: Loop,
        pump: Pump,
        end: AnchorEnd,
        where: str,
        target: str,
        cut: Callable[[Endpoint, str], None],
    ) -> None:
        self._loop, self._pump, self._end, self._cut = loop, pump, end, cut
        self._target = target
        self._pipes: list[SocketPipe] = []
        self._listener = address.listen(where)
        loop.watch(self._listener, READ, self._accept)

    @property
    def name(self) -> str:
        """As ZeroMQ writes it."""
        where = address.address_of(self._listener)
        return f"ipc://{where}" if address.is_unix(where) else f"tcp://{where}"

    def retarget(self, target: str) -> None:
        self._target = target
        self._close_pipes("its target has changed")

    def close(self) -> None:
        self._loop.forget(self._listener)
        self._listener.close()
        self._close_pipes("the anchor was closed")

    def _close_pipes(self, reason: str) -> None:
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            if pipe.open:
                pipe.fail(reason)

    def _accept(self, _ready: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again before it was accepted
        self._pipes = [pipe for pipe in self._pipes if pipe.open]
        number = self._end.open(self._target)
        self._pipes.append(ClientPipe(self._pump, number, connection, lambda reason: self._cut(self, reason)))
        self._pump.flush()
