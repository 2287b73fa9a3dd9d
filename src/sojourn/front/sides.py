"""The two sides of a switchboard: the sockets that clients come to, and those that go to the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import zmq

from sojourn.errors import SojournError
from sojourn.front.connection import Channel, Connection

RETRY_MILLISECONDS = 20
"""A kernel that starts is tried for this often, so that it is ready when it listens."""

Socket = zmq.Socket[bytes]
Zone = zmq.Context[Socket]

_CLIENT_SIDE: tuple[tuple[Channel, int], ...] = (
    ("shell", zmq.ROUTER),
    ("control", zmq.ROUTER),
    ("stdin", zmq.ROUTER),
    ("iopub", zmq.XPUB),
)


@dataclass(frozen=True)
class Clients:
    shell: Socket
    control: Socket
    stdin: Socket
    iopub: Socket

    @classmethod
    def bind(cls, zone: Zone, outer: Connection) -> Clients:
        """Raises Refused when a port is taken; then none is held."""
        made: list[Socket] = []
        try:
            for channel, kind in _CLIENT_SIDE:
                made.append(outer.bind(zone, channel, kind))
        except SojournError:
            for socket in made:
                socket.close(0)
            raise
        return cls(*made)

    def close(self) -> None:
        for socket in (self.shell, self.control, self.stdin, self.iopub):
            socket.close()


@dataclass(frozen=True)
class Kernel:
    shell: Socket
    control: Socket
    stdin: Socket
    iopub: Socket

    @classmethod
    def dial(cls, zone: Zone, endpoints: Mapping[Channel, str], identity: bytes) -> Kernel:
        """All with the same identity: a kernel asks for input at stdin whom it knows from shell."""
        shell, control, stdin = (
            _dial(zone, endpoints[channel], zmq.DEALER, identity) for channel in ("shell", "control", "stdin")
        )
        return cls(shell, control, stdin, _dial(zone, endpoints["iopub"], zmq.SUB, identity))

    def close(self) -> None:
        for socket in (self.shell, self.control, self.stdin, self.iopub):
            socket.close(0)


def _dial(zone: Zone, endpoint: str, kind: int, identity: bytes) -> Socket:
    made = zone.socket(kind)
    made.linger = 0
    made.sndhwm = made.rcvhwm = 0
    made.reconnect_ivl = RETRY_MILLISECONDS
    if kind == zmq.SUB:
        made.subscribe(b"")
    else:
        made.routing_id = identity
    made.connect(endpoint)
    return made
