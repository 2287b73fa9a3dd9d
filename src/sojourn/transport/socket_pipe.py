"""A pipe between one stream of a tunnel and one local socket."""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING

from sojourn.transport.address import hasten
from sojourn.transport.loop import READ, WRITE
from sojourn.transport.pump import Pipe, Pump, send_pieces
from sojourn.tunnel.connection import CARRYING
from sojourn.tunnel.frames import MAX_PAYLOAD

if TYPE_CHECKING:
    from typing import Protocol

    class Backlog(Protocol):
        """Where bytes wait that the tunnel can't take yet, in order."""

        @property
        def full(self) -> bool: ...
        def __len__(self) -> int: ...
        def add(self, data: bytes) -> None: ...
        def take(self, most: int) -> bytes: ...
        def clear(self) -> None: ...


_ROUNDS = 4
"""Reads before other sockets get their turn."""
_PIECES = 64

TRUNCATED = "output truncated: the clients were away for too long"
"""The reason with which a stream ends whose backlog is full; the other end can tell it from a refused connection."""


class SocketPipe(Pipe):
    """What is read from the socket goes to the stream and the other way round; each end's end is passed on.

    When the tunnel takes no more: without a backlog the socket is not read; its writer has to wait. With one, a reader
    at the other end that takes nothing makes the writer wait too, as it would without a tunnel between them. What is
    the tunnel's own fault is not the writer's business, which may be one that drops what it can't write: while the
    tunnel is slow or away bytes go to the backlog, and when that is full the socket is not read (slow), or cut off
    (away), for what is dropped in silence nobody can be told of.
    """

    def __init__(
        self, pump: Pump, number: int, connection: socket.socket | None = None, backlog: Backlog | None = None
    ) -> None:
        super().__init__(pump, number)
        self._connection: socket.socket | None = None
        self._backlog = backlog
        self._pending: deque[memoryview | bytes] = deque()
        """Received from the tunnel, not yet taken by the socket."""
        self._reading = True
        self._read_all = False
        self._ended = False
        self._cut = ""
        if connection is not None:
            self.plug(connection)

    def plug(self, connection: socket.socket) -> None:
        """The local socket, connected; it is the pipe's from now on."""
        connection.setblocking(False)
        hasten(connection)
        self._connection = connection
        self._write()
        self._watch()

    # ── from the tunnel ──────────────────────────────────────────────────────────────────────────────────────

    def received(self, data: memoryview) -> None:
        count = 0
        if self._connection is not None and not self._pending:
            try:
                count = self._connection.send(data)
            except BlockingIOError:
                pass
            except OSError as failure:
                self.fail(str(failure))
                return
            self.pump.end.passed_on(self.number, count)
        if count < len(data):
            self._pending.append(bytes(data[count:]))
            self._watch()

    def ended(self) -> None:
        self._ended = True
        self._write()

    def closed(self, reason: str) -> None:
        self.leave()
        self._close()
        if self._backlog is not None:
            self._backlog.clear()

    def reconsider(self) -> None:
        self._pour()
        if not self._reading and not self._read_all and self._may_read():
            self._reading = True
            self._watch()
        self.pump.flush()

    # ── from the socket ──────────────────────────────────────────────────────────────────────────────────────

    def fail(self, reason: str) -> None:
        """The local side is broken: end the stream, both ways."""
        self.pump.end.reset(self.number, reason)
        self.closed(reason)
        self.pump.flush()

    def _ready(self, ready: int) -> None:
        if ready & WRITE:
            self._write()
        if ready & READ and self._connection is not None:
            self._read()

    def _read(self) -> None:
        assert self._connection is not None
        for _ in range(_ROUNDS):
            room = 0 if self._backlog else self.pump.end.room(self.number)
            if not room and not self._may_read():
                self._reading = False
                self._watch()
                return
            most = min(room, MAX_PAYLOAD) or MAX_PAYLOAD
            try:
                data = self._connection.recv(most)
            except BlockingIOError:
                return
            except OSError as failure:
                self.fail(str(failure))
                return
            if not data:
                self._read_up()
                return
            self._forward(data, room)
            if len(data) < most or self._connection is None:
                return

    def _may_read(self) -> bool:
        end = self.pump.end
        if self._backlog is None:
            return end.room(self.number) > 0
        if end.state != CARRYING:
            return True
        return (end.stalled or end.room(self.number, urgent=True) > 0) and not self._backlog.full

    def _forward(self, data: bytes, room: int) -> None:
        if room:
            self.pump.end.send(self.number, data)
            self.pump.flush()
        elif self._backlog is not None and not self._backlog.full:
            self._backlog.add(data)
        else:
            self._cut = TRUNCATED
            self._read_up()

    def _read_up(self) -> None:
        """The socket gives no more: say so once all it gave is sent."""
        self._reading = False
        self._read_all = True
        if self._cut:
            self._close()
        else:
            self._watch()
        self._pour()
        self.pump.flush()

    def _pour(self) -> None:
        end = self.pump.end
        while self._backlog and (room := end.room(self.number)):
            end.send(self.number, self._backlog.take(min(room, MAX_PAYLOAD)))
        if self._read_all and not self._backlog:
            if self._cut:
                end.reset(self.number, self._cut)
                self.leave()
            else:
                end.end(self.number)
                self._close_if_over()

    # ── to the socket ────────────────────────────────────────────────────────────────────────────────────────

    def _write(self) -> None:
        if self._connection is None:
            return
        try:
            while self._pending:
                self._sent(send_pieces(self._connection, [memoryview(piece) for piece in self._first_pieces()]))
            if self._ended:
                self._shut()
        except BlockingIOError:
            pass
        except OSError as failure:
            self.fail(str(failure))
            return
        self._watch()
        self.pump.flush()

    def _first_pieces(self) -> list[memoryview | bytes]:
        return [self._pending[at] for at in range(min(len(self._pending), _PIECES))]

    def _sent(self, count: int) -> None:
        self.pump.end.passed_on(self.number, count)
        while count:
            first = self._pending.popleft()
            if count < len(first):
                self._pending.appendleft(memoryview(first)[count:])
                return
            count -= len(first)

    def _shut(self) -> None:
        if self._connection is not None and not self._read_all:
            self._connection.shutdown(socket.SHUT_WR)
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self._read_all and self._ended and not self._pending:
            self.leave()
            self._close()

    def _watch(self) -> None:
        if self._connection is not None:
            mask = (READ if self._reading else 0) | (WRITE if self._pending else 0)
            self.pump.loop.watch(self._connection, mask, self._ready)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._pending.clear()
        if connection is not None:
            self.pump.loop.forget(connection)
            connection.close()
