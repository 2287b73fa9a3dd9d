"""Local ports that lead to ports inside a session, wherever it is: what `sojourn forward` runs.

An anchor of its own, driven by the caller's thread; what the controller says and is asked goes through a second thread
(`correspondent.py`). So a forward comes and goes without the front, and without the kernel's clients.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from sojourn.client import Watched
from sojourn.errors import Refused, SojournError
from sojourn.front.anchor import Anchor
from sojourn.lifecycle import ENDED
from sojourn.model import SessionStatus, SessionView
from sojourn.transport import address
from sojourn.transport.loop import READ, Loop
from sojourn.transport.pump import Pump
from sojourn.transport.socket_pipe import SocketPipe

AWAY_SECONDS = 5.0
"""How long the session may be out of reach, without a reason that was told already, before it is said."""
_NOWHERE = (SessionStatus.SUSPENDED, SessionStatus.WAKING)
_ASLEEP = (SessionStatus.SUSPENDING, *_NOWHERE)
_RESET_AT_ONCE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


@dataclass(frozen=True)
class Passage:
    """From a port of this machine to one inside the session."""

    local: int
    """0: any free one."""
    inside: int


class Forwarding:
    """The passages of one session. `hear`, `lost`, `wake_ended` and `stop` may be called from any thread, the rest
    belongs to the one that calls `run`.

    `wake()` asks for the session to be woken, and is answered by `wake_ended`; None: a sleeping one is left alone, and
    connections to it are refused. `relay` is the anchor's. `say(sentence)` gets what a person should know.
    """

    def __init__(
        self,
        session: SessionView,
        anchor: str,
        *,
        relay: Callable[[], str] = lambda: "",
        wake: Callable[[], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self.name = session.name or session.id[:8]
        self.loop = Loop()
        self._session = session
        self._wake, self._say = wake, say
        self._anchor = Anchor(self.loop, session.id, anchor, relay=relay, on_state=self._tunnel_changed)
        self._anchor.on_control = self._rider_spoke
        self._entrances: list[Entrance] = []
        self._wanted = False
        """A client has said something that the session may not have heard."""
        self._waking = False
        self._detail = ""
        self._over = ""

    def open(self, host: str, passage: Passage) -> str:
        """Listen at a port of `host`; returns the address as `host:port`. Raises Refused when that can't be done."""
        wanted = f"[{host}]:{passage.local}" if ":" in host else f"{host}:{passage.local}"
        try:
            listener = address.listen(wanted)
        except OSError as failure:
            raise Refused(
                f"Nothing can listen at {wanted}: {failure.strerror or failure}.",
                f"`:{passage.inside}` takes any free port, `LOCAL:{passage.inside}` another one.",
            ) from failure
        self._entrances.append(Entrance(self, listener, passage.inside))
        return address.address_of(listener)

    def run(self) -> str:
        """Until `stop`, or until the session has ended: then why, and "" otherwise."""
        self.loop.later(AWAY_SECONDS, self._say_if_away)
        self.loop.run()
        return self._over

    def stop(self) -> None:
        """Also from a signal handler."""
        self.loop.stop()

    def close(self) -> None:
        """Close every connection, at both ends where the session can be reached."""
        for entrance in self._entrances:
            entrance.close()
        self._anchor.close()
        self.loop.close()

    # ── from the controller ──

    def hear(self, news: Watched) -> None:
        self.loop.soon(lambda: self._take_news(news))

    def lost(self, reason: str) -> None:
        """There is no such session any more."""
        self.loop.soon(lambda: self._end(reason))

    def wake_ended(self, error: SojournError | None = None) -> None:
        self.loop.soon(lambda: self._wake_ended(error))

    # ── from the entrances ──

    @property
    def reachable(self) -> bool:
        return self._anchor.state == "connected"

    @property
    def refusing(self) -> bool:
        return self._wake is None and self._session.status in _NOWHERE

    def join(self, target: str, pipe: Callable[[Pump, int], SocketPipe]) -> None:
        self._anchor.join(target, pipe)

    def stirred(self) -> None:
        """A client came, or said something."""
        asleep = self._session.status in _ASLEEP
        if asleep or not self.reachable:
            self._wanted = True
        if asleep:
            self._rouse()

    def cut(self, port: int, reason: str) -> None:
        """The session's end of one connection was reset."""
        self._say(f"A connection to {self.name}:{port} was reset: {reason}.")

    # ── inside ──

    def _take_news(self, news: Watched) -> None:
        before, self._session = self._session, news.session
        status = news.session.status
        if sentence := tidings(before, news, self._wake is not None):
            self._say(f"{self.name} {sentence}")
        if news.place or status in _NOWHERE:
            self._anchor.place(news.place)
        self._anchor.expect(news.next_place)
        if status in ENDED:
            self._end(news.session.reason or f"it is {status}")
        elif status in _NOWHERE:
            self._fall_asleep()

    def _fall_asleep(self) -> None:
        if self.refusing:
            self._turn_away("it sleeps", all_of_them=False)
        elif self._wanted:
            self._rouse()

    def _rouse(self) -> None:
        if self._wake and not self._waking:
            self._waking = True
            self._say(f"{self.name} is being woken for a connection.")
            self._wake()

    def _wake_ended(self, error: SojournError | None) -> None:
        self._waking = False
        if error:
            self._wanted = False
            self._say(f"{self.name} could not be woken: {error}")
            self._turn_away("the session could not be woken", all_of_them=True)

    def _turn_away(self, reason: str, all_of_them: bool) -> None:
        for entrance in self._entrances:
            entrance.turn_away(reason, all_of_them)

    def _tunnel_changed(self, state: str, detail: str) -> None:
        if state == "connected":
            self._wanted = self._wanted and self._session.status in _ASLEEP
            for entrance in self._entrances:
                entrance.let_in()
        elif state == "away":
            self._detail = detail
            self.loop.later(AWAY_SECONDS, self._say_if_away)
        else:
            self._say(f"The connections to {self.name} were reset: {detail}")

    def _rider_spoke(self, message: dict[str, Any]) -> None:
        """Another program may come in the place of this one. That resets what is forwarded, whatever is said here."""
        if message.get("event") == "yield":
            self._anchor.control({"do": "yielded"})

    def _say_if_away(self) -> None:
        if not self.reachable and self._session.status in (SessionStatus.RUNNING, SessionStatus.FILLING):
            self._say(f"{self.name} can't be reached; it is tried again by itself. {self._detail}".rstrip())

    def _end(self, reason: str) -> None:
        self._over = reason
        self.loop.stop()


class Entrance:
    """One local listener and its clients. While the session can't be reached, who comes has to wait at the door: a
    stream opened too early would be reset by a wake from an older state."""

    def __init__(self, forwarding: Forwarding, listener: socket.socket, port: int) -> None:
        self._forwarding, self._listener, self._port = forwarding, listener, port
        self._waiting: list[socket.socket] = []
        self._pipes: list[VisitorPipe] = []
        forwarding.loop.watch(listener, READ, self._accept)

    def let_in(self) -> None:
        self._pipes = [pipe for pipe in self._pipes if pipe.open]
        while self._waiting and self._forwarding.reachable:
            visitor = self._waiting.pop(0)
            self._forwarding.join(f"tcp:127.0.0.1:{self._port}", partial(self._pipe, visitor))

    def turn_away(self, reason: str, all_of_them: bool) -> None:
        """Who waits at the door; with `all_of_them`, also who was let in."""
        waiting, self._waiting = self._waiting, []
        for visitor in waiting:
            _reset(visitor)
        for pipe in self._pipes if all_of_them else ():
            if pipe.open:
                pipe.fail(reason)

    def close(self) -> None:
        self._forwarding.loop.forget(self._listener)
        self._listener.close()
        self.turn_away("the forwarding has ended", all_of_them=True)

    def _accept(self, _ready: int) -> None:
        try:
            visitor, _ = self._listener.accept()
        except OSError:
            return  # gone again before it was accepted
        if self._forwarding.refusing:
            _reset(visitor)
            return
        self._waiting.append(visitor)
        self._forwarding.stirred()
        self.let_in()

    def _pipe(self, visitor: socket.socket, pump: Pump, number: int) -> SocketPipe:
        self._pipes.append(pipe := VisitorPipe(pump, number, visitor, self._forwarding.stirred, self._cut))
        return pipe

    def _cut(self, reason: str) -> None:
        self._forwarding.cut(self._port, reason)


class VisitorPipe(SocketPipe):
    """`stirred()`: the client has said something. `cut(reason)`: the far side reset this stream. A stream that is reset
    is reset to the client too: an end of file could be taken for the end of what it reads."""

    def __init__(
        self,
        pump: Pump,
        number: int,
        visitor: socket.socket,
        stirred: Callable[[], None],
        cut: Callable[[str], None],
    ) -> None:
        self._stirred, self._cut_short = stirred, cut
        super().__init__(pump, number, visitor)

    def closed(self, reason: str) -> None:
        if self._connection is not None:
            _end_by_reset(self._connection)
        super().closed(reason)

    def stream_reset(self, reason: str) -> None:
        super().stream_reset(reason)
        self._cut_short(reason)

    def _forward(self, data: bytes, room: int) -> None:
        super()._forward(data, room)
        self._stirred()


def tidings(before: SessionView, news: Watched, wakes: bool) -> str:
    """What a change means for who forwards ports, to be read after the session's name; "" for nothing."""
    now = news.session
    if now.status is not before.status and now.status is SessionStatus.MOVING:
        return f"moves to {news.move.target}." if news.move else "moves."
    if now.status is not before.status and now.status is SessionStatus.SUSPENDED:
        return f"sleeps; {'the next connection wakes it' if wakes else 'connections are refused until it is woken'}."
    awake = now.status in (SessionStatus.RUNNING, SessionStatus.FILLING)
    if awake and before.status in _ASLEEP:
        return f"is awake on {now.node}."
    if awake and now.node != before.node:
        return f"is on {now.node} now."
    if awake and before.status is SessionStatus.MOVING:
        return f"stays on {now.node}."
    return ""


def _reset(connection: socket.socket) -> None:
    _end_by_reset(connection)
    connection.close()


def _end_by_reset(connection: socket.socket) -> None:
    """Have `close` send a reset. Some systems take no option for a connection that the other side has reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
