"""Links: authenticated connections between the two agents of a move (contracts, 2 and 5).

The source dials the target's data port with the move's ticket; the target's data port hands what comes to the link.
"""

from __future__ import annotations

import json
import queue
import socket
from contextlib import suppress

from sojourn.agent.data_port import say
from sojourn.errors import Unreachable, from_wire

Connection = socket.socket

_DIAL_SECONDS = 10.0
_WAIT_SECONDS = 30.0
_LONGEST_ANSWER = 65536


class DialledLink:
    """The source's end. Dials when made; raises Unreachable, or what the target's agent answered."""

    def __init__(self, address: str, ticket: str) -> None:
        self._address, self._ticket = address, ticket
        self.socket = self.open()

    def open(self) -> Connection:
        host, _, port = self._address.rpartition(":")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), _DIAL_SECONDS)
        except OSError as absent:
            raise Unreachable(
                f"The target of the move does not answer at {self._address}: {absent}.",
                "Are both nodes' data ports open to each other?",
            ) from absent
        try:
            self._knock(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        hang_up(self.socket)

    def _knock(self, connection: Connection) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(json.dumps({"sojourn": 1, "ticket": self._ticket}).encode() + b"\n")
            answer = json.loads(_line(connection))
        except (OSError, ValueError) as broken:
            raise Unreachable(f"{self._address} did not answer as an agent does: {broken}.") from broken
        if not answer.get("ok"):
            raise from_wire(answer.get("error", {}))
        connection.settimeout(None)


class AnsweredLink:
    """The target's end: connections come from the data port, in the order in which they were accepted."""

    def __init__(self, first: Connection) -> None:
        self.socket = _welcomed(first)
        self._offered: queue.Queue[Connection | None] = queue.Queue()
        self._closed = False

    def offer(self, connection: Connection) -> None:
        """The data port has one more connection of this move; raises Unreachable when the move has ended."""
        if self._closed:
            raise Unreachable("The move has ended.")
        self._offered.put(_welcomed(connection))

    def open(self) -> Connection:
        try:
            connection = self._offered.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            raise Unreachable(f"The source did not dial again for {_WAIT_SECONDS:g} s.") from None
        if connection is None:
            raise Unreachable("The move has ended.")
        return connection

    def close(self) -> None:
        self._closed = True
        self._offered.put(None)
        hang_up(self.socket)


def _welcomed(connection: Connection) -> Connection:
    connection.setblocking(True)
    say(connection, {"ok": True})
    return connection


def hang_up(connection: Connection) -> None:
    """Close a connection so that a thread that reads from it wakes up."""
    with connection, suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _line(connection: Connection) -> bytes:
    """One line and not a byte more; it is short, and comes once per connection."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_ANSWER:
        byte = connection.recv(1)
        if not byte:
            raise ConnectionResetError("hung up")
        line += byte
    return line
