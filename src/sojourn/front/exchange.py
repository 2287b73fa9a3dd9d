"""Taking what has come from many ZeroMQ sockets, in turns, in a loop that knows descriptors alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import zmq

from sojourn.front.sides import Socket
from sojourn.transport.loop import READ, Loop

BATCH = 128
"""Messages taken from one socket before the others get their turn."""

Frames = list[Any]
Taker = Callable[[Frames], None]


class Exchange:
    """Belongs to the thread of `loop`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._takers: Mapping[Socket, Taker] = {}
        self._poller = zmq.Poller()

    def plug(self, takers: Mapping[Socket, Taker]) -> None:
        """Give what comes from each of these sockets to its taker; others are heard no more."""
        self.unplug()
        self._takers, self._poller = takers, zmq.Poller()
        for socket in takers:
            self._poller.register(socket, zmq.POLLIN)
            self._loop.watch(int(socket.getsockopt(zmq.FD)), READ, _ignore)

    def unplug(self) -> None:
        """To be done before any of the sockets is closed."""
        for socket in self._takers:
            self._loop.forget(int(socket.getsockopt(zmq.FD)))
        self._takers = {}

    def pump(self) -> bool:
        """Pass on what has come; True when nothing has. ZeroMQ's descriptors tell of changes only, and any use of
        a socket may swallow one, so all are looked at until all are quiet."""
        ready = self._poller.poll(0)
        for socket, _ in ready:
            if socket in self._takers:
                self._drain(socket, self._takers[socket])
        return not ready

    def _drain(self, socket: Socket, take: Taker) -> None:
        try:
            for _ in range(BATCH):
                take(socket.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.Again:
            pass


def _ignore(_ready: int) -> None:
    """ZeroMQ's descriptor only wakes the loop; `pump` looks at the sockets."""
