"""The two sides of a switchboard: the sockets that clients come to, and those that go to the kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import zmq

from sojourn.errors import SojournError
from sojourn.front.connection import Channel, Connection
from sojourn.front.messages import Signer
from sojourn.front.publication import Publication

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
class Side:
    shell: Socket
    control: Socket
    stdin: Socket
    iopub: Socket
    signer: Signer | None = None
    """Signs anew what is sent to this side; None: the other side has the same key."""

    def send(self, channel: Channel, frames: Sequence[bytes | zmq.Frame]) -> None:
        """Never blocks. Without a high-water mark there is always room; a peer that has gone is no error."""
        if self.signer:
            frames = self.signer.sign_anew(frames)
        with contextlib.suppress(zmq.Again):
            getattr(self, channel).send_multipart(frames, zmq.NOBLOCK, copy=False)


@dataclass(frozen=True)
class Clients(Side):
    publication: Publication = field(kw_only=True)
    """By which goes what is said on iopub."""

    def send(self, channel: Channel, frames: Sequence[bytes | zmq.Frame]) -> None:
        if channel == "iopub":
            self.publication.send(self.signer.sign_anew(frames) if self.signer else frames)
        else:
            super().send(channel, frames)

    @classmethod
    def bind(cls, zone: Zone, outer: Connection, signer: Signer | None = None) -> Clients:
        """Raises Refused when a port is taken; then none is held."""
        made: list[Socket] = []
        try:
            for channel, kind in _CLIENT_SIDE:
                made.append(outer.bind(zone, channel, kind))
        except SojournError:
            for socket in made:
                socket.close(0)
            raise
        shell, control, stdin, iopub = made
        return cls(shell, control, stdin, iopub, signer, publication=Publication(iopub))

    def close(self) -> None:
        for socket in (self.shell, self.control, self.stdin, self.iopub):
            socket.close()


class Kernel(Side):
    @classmethod
    def dial(
        cls, zone: Zone, endpoints: Mapping[Channel, str], identity: bytes, signer: Signer | None = None
    ) -> Kernel:
        """All with the same identity: a kernel asks for input at stdin whom it knows from shell."""
        shell, control, stdin = (
            _dial(zone, endpoints[channel], zmq.DEALER, identity) for channel in ("shell", "control", "stdin")
        )
        return cls(shell, control, stdin, _dial(zone, endpoints["iopub"], zmq.SUB, identity), signer)

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
