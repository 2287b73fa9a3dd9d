"""Two connections made one: what comes on either goes out on the other, ends and resets too."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sojourn.transport.keepalive import notice_death
from sojourn.transport.loop import READ, WRITE, Loop

PIECE = 1 << 18
"""Bytes: what one connection may send before others get their turn, and all that waits here for one that does not
read."""
_AT_ONCE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""To linger for no time: a close is then a reset."""

_piece = memoryview(bytearray(PIECE))
"""All splices run in one thread, and none keeps what it has read here."""


class Splice:
    """`over(carried_bytes)` is called once, when both directions have ended or either connection has failed; both are
    closed then."""

    def __init__(self, loop: Loop, one: socket.socket, other: socket.socket, over: Callable[[int], None]) -> None:
        self._loop, self._over = loop, over
        self._there, self._back = Direction(one, other), Direction(other, one)
        for connection in (one, other):
            connection.setblocking(False)
            notice_death(connection)
        self._ends = [
            (one, partial(self._ready, self._there, self._back), self._there, self._back),
            (other, partial(self._ready, self._back, self._there), self._back, self._there),
        ]
        self._open = True
        self._watch()

    def close(self) -> None:
        """Now, whatever is under way."""
        if self._open:
            self._open = False
            for connection in (self._there.source, self._back.source):
                self._loop.forget(connection)
                connection.close()
            self._over(self._there.carried_bytes + self._back.carried_bytes)

    def _ready(self, outgoing: Direction, incoming: Direction, ready: int) -> None:
        """A connection is ready: `outgoing` comes from it, `incoming` goes to it."""
        try:
            if ready & WRITE:
                incoming.push()
            if ready & READ:
                outgoing.pull()
        except BlockingIOError:
            pass
        except OSError:
            self._reset()
            return
        if self._there.over and self._back.over:
            self.close()
        else:
            self._watch()

    def _watch(self) -> None:
        for connection, ready, outgoing, incoming in self._ends:
            mask = (READ if outgoing.hungry else 0) | (WRITE if incoming.waiting else 0)
            self._loop.watch(connection, mask, ready)

    def _reset(self) -> None:
        for connection in (self._there.source, self._back.source):
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.close()


class Direction:
    """One way of a splice."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.carried_bytes = 0
        self.waiting: bytes | memoryview = b""
        """Read, and not taken yet."""
        self._ended = False

    @property
    def hungry(self) -> bool:
        return not self.waiting and not self._ended

    @property
    def over(self) -> bool:
        return self._ended and not self.waiting

    def pull(self) -> None:
        """Read once, and pass it on; what is not taken waits. Raises OSError."""
        if not self.hungry:
            return
        count = self.source.recv_into(_piece)
        self.carried_bytes += count
        self._ended = not count
        if count:
            sent = self._send(_piece[:count])
            self.waiting = bytes(_piece[sent:count])
        else:
            self.sink.shutdown(socket.SHUT_WR)

    def push(self) -> None:
        """Pass on what waits. Raises OSError."""
        if self.waiting:
            self.waiting = memoryview(self.waiting)[self._send(self.waiting) :]

    def _send(self, data: bytes | memoryview) -> int:
        with suppress(BlockingIOError):
            return self.sink.send(data)
        return 0
