"""Links: authenticated connections between the two agents of a move (contracts, 2 and 5).

The source dials the target's data port with the move's ticket; the target's data port hands what comes to the link.
"""

from __future__ import annotations

import json
import logging
import queue
import socket
import time
from contextlib import suppress

from sojourn.errors import SojournError, Unreachable, from_wire
from sojourn.transport.address import hasten, parse_tcp
from sojourn.transport.answers import say
from sojourn.transport.keepalive import notice_death
from sojourn.transport.routes import Route, Routes, may_be_elsewhere
from sojourn.transport.sealed import HANDSHAKE_SECONDS, knock

log = logging.getLogger(__name__)

Connection = socket.socket

_ANSWER_SECONDS = HANDSHAKE_SECONDS + 1
"""Longer than a relay waits for the target's agent."""
_WAIT_SECONDS = 30.0
_LONGEST_ANSWER = 65536


class DialledLink:
    """The source's end. Dials when made; raises Unreachable, or what the target's agent answered."""

    def __init__(self, routes: Routes, ticket: str) -> None:
        self._routes, self._ticket = routes, ticket
        self.socket = self.open()

    def open(self) -> Connection:
        error: SojournError = Unreachable("The target of the move has no address.", "Start its agent with --listen.")
        for route in self._routes.ahead(time.monotonic()):
            try:
                connection = self._dial(route)
            except SojournError as failed:
                if not may_be_elsewhere(failed):
                    raise
                log.info("no link by this way: %s", failed.message)
                error = failed
            else:
                self._routes.led_there(route, time.monotonic())
                return connection
        raise error

    def close(self) -> None:
        hang_up(self.socket)

    def _dial(self, route: Route) -> Connection:
        try:
            connection = socket.create_connection(parse_tcp(route.address), route.patience_seconds)
        except OSError as absent:
            raise Unreachable(
                f"The target of the move does not answer at {route.address}: {absent}.",
                "Does its agent run, and the controller?",
            ) from absent
        try:
            hasten(connection)
            notice_death(connection)
            connection = knock(connection, route, self._ticket)
            self._await_yes(connection)
        except (OSError, ValueError) as broken:
            connection.close()
            raise Unreachable(f"{route.address} did not answer as an agent does: {broken}.") from broken
        except BaseException:
            connection.close()
            raise
        return connection

    def _await_yes(self, connection: Connection) -> None:
        connection.settimeout(_ANSWER_SECONDS)
        answer = json.loads(_line(connection))
        if not answer.get("ok"):
            raise from_wire(answer.get("error", {}))
        connection.settimeout(None)


class AnsweredLink:
    """The target's end: connections come from the data port, in the order in which they were accepted."""

    def __init__(self, first: Connection, relayed: bool = False) -> None:
        self.socket, self.relayed = _welcomed(first), relayed
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
