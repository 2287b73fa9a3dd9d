"""Dialing an agent without ever waiting: at its data port, or by the relay (contracts, 2 and Relay)."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from sojourn.errors import Invalid, SojournError, Unreachable, from_wire
from sojourn.transport.address import connecting, hasten, parse_tcp
from sojourn.transport.keepalive import notice_death
from sojourn.transport.lines import LONGEST_LINE, decode_line
from sojourn.transport.loop import READ, WRITE, Loop
from sojourn.transport.routes import Route, may_be_elsewhere
from sojourn.transport.sealed import knock

if TYPE_CHECKING:
    from collections.abc import Callable

    from sojourn.transport.loop import Timer
    from sojourn.transport.routes import Routes


class Dial:
    """Connects by the first of `routes` that leads to the agent, shows the ticket, and waits, as long as it takes, for
    a yes and then for the far end's first bytes.

    `spoke(connection, early)`: the connection, no longer watched, and what was read of it. `failed(error)`: it has
    been closed. One of the two is called once, never from within the constructor; none after `close`.
    """

    def __init__(
        self,
        loop: Loop,
        routes: Routes,
        ticket: str,
        *,
        spoke: Callable[[socket.socket, bytes], None],
        failed: Callable[[SojournError], None],
    ) -> None:
        self._loop, self._routes, self._ticket = loop, routes, ticket
        self._spoke, self._failed = spoke, failed
        self._ahead = routes.ahead(time.monotonic())
        self._route = Route("The agent")
        self._connection: socket.socket | None = None
        self._patience: Timer | None = None
        self._read = b""
        self._admitted = False
        self._over = False
        loop.soon(self._begin)

    def close(self) -> None:
        """Stop; nobody is told."""
        self._over = True
        self._let_go()

    def _let_go(self) -> None:
        if self._patience:
            self._patience.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._loop.forget(connection)
            connection.close()

    def _begin(self) -> None:
        """With the next route."""
        if self._over:
            return
        if not self._ahead:
            self._fail("it has no address")
            return
        self._route, self._read, self._admitted = self._ahead.pop(0), b"", False
        route = self._route
        self._patience = self._loop.later(route.patience_seconds, lambda: self._fail("no connection in time"))
        try:
            host, port = parse_tcp(route.address)
            socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
        except Invalid as wrong:
            self._fail(wrong.message)
        except OSError:
            threading.Thread(target=self._resolve, args=(route, host, port), daemon=True).start()
        else:
            self._connect(route, route.address)

    def _resolve(self, route: Route, host: str, port: int) -> None:
        """In a thread of its own: the system's resolver waits."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
        except OSError as failure:
            reason = f"{host} is unknown: {failure}"
            self._loop.soon(lambda: self._unknown(route, reason))
        else:
            self._loop.soon(lambda: self._connect(route, f"{found[0]}:{port}"))

    def _unknown(self, route: Route, reason: str) -> None:
        if route is self._route:
            self._fail(reason)

    def _connect(self, route: Route, address: str) -> None:
        if self._over or route is not self._route:
            return
        try:
            self._connection = connecting(address)
        except OSError as failure:
            self._fail(failure.strerror or str(failure))
            return
        self._loop.watch(self._connection, WRITE, self._connected)

    def _connected(self, _ready: int) -> None:
        connection = self._connection
        assert connection is not None
        try:
            if failure := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(failure, "it does not answer")
            hasten(connection)
            notice_death(connection)
            # A fresh connection takes short lines as a whole.
            self._loop.forget(connection)
            connection = self._connection = knock(connection, self._route, self._ticket)
            connection.setblocking(False)
        except OSError as failure:
            self._fail(failure.strerror or str(failure))
            return
        except Invalid as wrong:
            self._end(wrong)
            return
        assert self._patience is not None
        self._patience.cancel()
        self._loop.watch(connection, READ, self._readable)

    def _readable(self, _ready: int) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return
        except OSError as failure:
            self._fail(failure.strerror or str(failure))
            return
        if not data:
            self._fail("it closed the connection")
            return
        self._read += data
        try:
            self._admitted = self._admitted or self._admit()
        except SojournError as refused:
            self._end(refused)
            return
        if self._admitted and self._read:
            self._hand_over()

    def _admit(self) -> bool:
        """Whether the answer is there and says yes; raises what it says otherwise."""
        line, newline, rest = self._read.partition(b"\n")
        if not newline:
            if len(line) > LONGEST_LINE:
                raise Invalid(f"What answers at {self._route.address} is no agent.")
            return False
        answer = decode_line(line)
        if not answer.get("ok"):
            error = answer.get("error")
            raise from_wire(error if isinstance(error, dict) else {"message": str(error)})
        self._read = rest
        self._routes.led_there(self._route, time.monotonic())
        return True

    def _hand_over(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self._loop.forget(connection)
        self.close()
        self._spoke(connection, self._read)

    def _fail(self, reason: str) -> None:
        self._end(Unreachable(f"{self._route} can't be reached: {reason}.", "It is tried again by itself."))

    def _end(self, error: SojournError) -> None:
        if self._over:
            return
        self._let_go()
        if self._ahead and may_be_elsewhere(error):
            self._begin()
        else:
            self._over = True
            self._failed(error)
