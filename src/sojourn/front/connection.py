"""A Jupyter connection: what a connection file says, and the sockets that follow from it."""

from __future__ import annotations

import random
import socket
import uuid
from collections import deque
from typing import Any, Literal

import zmq
from pydantic import ConfigDict, ValidationError

from sojourn.errors import Invalid, Refused
from sojourn.model.base import Word

Channel = Literal["shell", "iopub", "stdin", "control", "hb"]
PUBLISH_LIMIT = 10_000
"""Messages that ZeroMQ keeps for a client that does not read (`publication` keeps more). A kernel by itself keeps
1,000."""
INNER_PORTS = (10_000, 32_000)
"""Below what Linux, macOS and Windows use for outgoing connections by themselves."""
_given: deque[int] = deque(maxlen=1000)
"""Lately, to kernels that may not have bound them yet."""
CHANNELS: tuple[Channel, ...] = ("shell", "iopub", "stdin", "control", "hb")


class Connection(Word):
    """The connection info of jupyter_client; what else it says is kept for who reads the connection file."""

    model_config = ConfigDict(frozen=True, extra="allow")

    transport: Literal["tcp", "ipc"] = "tcp"
    ip: str = "127.0.0.1"
    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int
    key: str = ""
    signature_scheme: str = "hmac-sha256"
    curve_publickey: str | None = None
    curve_secretkey: str | None = None

    def port(self, channel: Channel) -> int:
        return int(getattr(self, f"{channel}_port"))

    def url(self, channel: Channel) -> str:
        glue = ":" if self.transport == "tcp" else "-"
        return f"{self.transport}://{self.ip}{glue}{self.port(channel)}"

    def for_file(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)

    def sockets(self) -> tuple[object, ...]:
        """What the sockets depend on: two connections with the same are the same to a client."""
        return (*(self.url(channel) for channel in CHANNELS), self.curve_publickey, self.curve_secretkey)

    def bind(self, zone: zmq.Context[zmq.Socket[bytes]], channel: Channel, kind: int) -> zmq.Socket[bytes]:
        """The kernel's end of a channel, with curve where the connection has its keys; raises Refused."""
        made = zone.socket(kind)
        made.linger = 200  # milliseconds: the last reply of a kernel that shuts down
        made.rcvhwm = 0
        made.sndhwm = PUBLISH_LIMIT if kind == zmq.XPUB else 0
        if kind == zmq.ROUTER:
            made.router_handover = True
        if kind == zmq.XPUB:
            made.xpub_verboser = True  # every subscription gets its welcome, and attached clients are counted
        if self.curve_publickey and self.curve_secretkey:
            made.curve_secretkey = self.curve_secretkey.encode()
            made.curve_publickey = self.curve_publickey.encode()
            made.curve_server = True
        try:
            made.bind(self.url(channel))
        except zmq.ZMQError as failure:
            made.close(0)
            raise Refused(
                f"The kernel's {channel} channel can't listen at {self.url(channel)}: {failure}.",
                "Choose other ports, or end the program that holds them.",
            ) from failure
        return made


def inner_connection(outer: Connection) -> Connection:
    """What the kernel itself binds, in its sandbox: the same key, five ports of its own, no curve.

    The ports are free here and now. In a sandbox with its own network that says nothing, and need not.
    """
    ports = dict(zip((f"{channel}_port" for channel in CHANNELS), _free_ports(len(CHANNELS)), strict=True))
    return Connection(key=outer.key, signature_scheme=outer.signature_scheme, **ports)


def outer_connection() -> Connection:
    """For the clients of a kernel that nobody has chosen ports for: five of this machine, and a new key."""
    return inner_connection(Connection(key=uuid.uuid4().hex, **{f"{channel}_port": 0 for channel in CHANNELS}))


def read_connection(text: str | None, session: str) -> Connection:
    """What a kernel was told to bind; raises Invalid for a session that was told nothing."""
    try:
        return Connection.model_validate_json(text or "")
    except ValidationError as none:
        raise Invalid(
            f"Session {session} holds no kernel that could be hosted.", "Only a kernel's session has clients to serve."
        ) from none


def _free_ports(count: int) -> list[int]:
    """Ports that no system gives to outgoing connections: one of those, or a rider's own try to reach the kernel, could
    sit on the port by the time the kernel wants it."""
    found: list[int] = []
    while len(found) < count:
        port = random.randint(*INNER_PORTS)
        if port not in _given and _is_free(port):
            _given.append(port)
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
