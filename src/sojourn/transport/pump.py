"""Carries one tunnel's end over one connection at a time, and its streams to and from pipes. Shared by both ends."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from sojourn.transport.address import hasten
from sojourn.transport.loop import READ, WRITE, Loop
from sojourn.tunnel.events import (
    Agreed,
    DataReceived,
    Event,
    RoomGrew,
    StreamEnded,
    StreamOpened,
    StreamReset,
    TunnelReset,
    Turned,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sojourn.tunnel.connection import TunnelEnd

_ROUNDS = 8
"""Buffers read before other connections get their turn."""


class Pipe:
    """The local side of one stream: what the pump tells it. By default nobody listens."""

    def __init__(self, pump: Pump, number: int) -> None:
        self.pump = pump
        self.number = number
        pump.pipes[number] = self

    def received(self, data: memoryview) -> None:
        """Take the data, now, and report it with `pump.end.passed_on` once it has left this process."""

    def ended(self) -> None:
        """The other end sends no more."""

    def reconsider(self) -> None:
        """`pump.end.room` may be more than it was, or the connection is gone."""

    def closed(self, reason: str) -> None:
        """The stream is gone, by the other end or with the tunnel: let go of everything."""

    @property
    def open(self) -> bool:
        return self.pump.pipes.get(self.number) is self

    def stream_reset(self, reason: str) -> None:
        """This stream alone is gone, by the other end."""
        self.closed(reason)

    def leave(self) -> None:
        """Hear no more of the pump."""
        if self.open:
            del self.pump.pipes[self.number]


class Pump:
    """`opened(number, target)`: the other end opened a stream. `agreed()`: streams flow. `reset(reason)`: all streams
    are gone. `lost(reason)`: the connection is, closed already; the tunnel waits for another one."""

    def __init__(
        self,
        loop: Loop,
        end: TunnelEnd,
        *,
        lost: Callable[[str], None],
        agreed: Callable[[], None] = lambda: None,
        reset: Callable[[str], None] = lambda reason: None,
        opened: Callable[[int, str], None] = lambda number, target: None,
    ) -> None:
        self.loop = loop
        self.end = end
        self.pipes: dict[int, Pipe] = {}
        self._lost, self._agreed, self._reset, self._opened = lost, agreed, reset, opened
        self._connection: socket.socket | None = None
        self._choked = False
        """The connection takes no more; the selector tells when it does."""

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def attach(self, connection: socket.socket, incarnation: int, epoch: int, early: bytes = b"") -> None:
        """Go on over this connection, which is the pump's from now on; `early`: what was read from it already.

        Raises TunnelFailed, with nothing changed, when a later incarnation is known.
        """
        events = self.end.connected(incarnation, epoch)
        self._close()
        connection.setblocking(False)
        hasten(connection)
        self._connection = connection
        self._watch()
        self._tell(events)
        if early and self._connection is connection:
            self.end.buffer()[: len(early)] = early
            self._tell(self.end.arrived(len(early)))
        self.flush()

    def detach(self) -> None:
        """Close the connection, flushing nothing; nobody is told."""
        self._close()
        self.end.disconnected()
        self._reconsider()

    def abandon(self, reason: str) -> None:
        """Let go of the connection and of every stream; nobody is told."""
        self.detach()
        self._close_pipes(reason)

    def begin_epoch(self, epoch: int) -> None:
        """The session was set back: a connection or a stream of an earlier epoch is worth nothing."""
        events = self.end.begin_epoch(epoch)
        if events or self.connected:
            self.detach()
            self._tell(events)

    def flush(self) -> None:
        """Send what can be sent now; the rest goes when the connection takes it."""
        while self._connection is not None and not self._choked:
            pieces = self.end.outgoing()
            if not pieces:
                return
            try:
                count = send_pieces(self._connection, pieces)
            except BlockingIOError:
                count = 0
            except OSError as failure:
                self._lose(str(failure))
                return
            self.end.sent(count)
            if count < sum(map(len, pieces)):
                self._choked = True
                self._watch()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        assert self._connection is not None
        self.loop.watch(self._connection, READ | WRITE if self._choked else READ, self._ready)

    def _ready(self, ready: int) -> None:
        if ready & WRITE:
            self._choked = False
            self.flush()
            if self._connection is None:
                return
            self._watch()
            self._reconsider()
        if ready & READ:
            self._read()

    def _read(self) -> None:
        connection = self._connection
        for _ in range(_ROUNDS):
            if connection is None or self._connection is not connection:
                return
            buffer = self.end.buffer()
            try:
                count = connection.recv_into(buffer)
            except BlockingIOError:
                return
            except OSError as failure:
                self._lose(str(failure))
                return
            if not count:
                self._lose("the connection was closed")
                return
            self._tell(self.end.arrived(count))
            self.flush()
            if count < len(buffer):
                return

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            _TELLERS[type(event)](self, event)

    def _data_received(self, event: DataReceived) -> None:
        if pipe := self.pipes.get(event.stream):
            pipe.received(event.data)

    def _room_grew(self, event: RoomGrew) -> None:
        if event.stream is None:
            self._reconsider()
        elif pipe := self.pipes.get(event.stream):
            pipe.reconsider()

    def _reconsider(self) -> None:
        for pipe in list(self.pipes.values()):
            pipe.reconsider()

    def _stream_opened(self, event: StreamOpened) -> None:
        self._opened(event.stream, event.target)

    def _stream_ended(self, event: StreamEnded) -> None:
        if pipe := self.pipes.get(event.stream):
            pipe.ended()

    def _stream_reset(self, event: StreamReset) -> None:
        if pipe := self.pipes.pop(event.stream, None):
            pipe.stream_reset(event.reason)

    def _tunnel_reset(self, event: TunnelReset) -> None:
        self._close_pipes(event.reason)
        self._reset(event.reason)

    def _close_pipes(self, reason: str) -> None:
        pipes, self.pipes = self.pipes, {}
        for pipe in pipes.values():
            pipe.closed(reason)

    def _on_agreed(self, _event: Agreed) -> None:
        self._agreed()
        self._reconsider()

    def _turned(self, event: Turned) -> None:
        self.flush()  # the other end hears why, if the connection takes it at once
        self._lose(event.reason)

    def _lose(self, reason: str) -> None:
        if self._connection is not None:
            self.detach()
            self._lost(reason)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._choked = False
        if connection is not None:
            self.loop.forget(connection)
            connection.close()


_TELLERS: dict[type[Event], Any] = {
    Agreed: Pump._on_agreed,
    DataReceived: Pump._data_received,
    RoomGrew: Pump._room_grew,
    StreamEnded: Pump._stream_ended,
    StreamOpened: Pump._stream_opened,
    StreamReset: Pump._stream_reset,
    TunnelReset: Pump._tunnel_reset,
    Turned: Pump._turned,
}


def send_pieces(connection: socket.socket, pieces: list[memoryview]) -> int:
    """As many of the bytes as the connection takes; raises BlockingIOError for none."""
    if hasattr(connection, "sendmsg"):
        return connection.sendmsg(pieces)
    return connection.send(pieces[0] if len(pieces) == 1 else b"".join(pieces))
