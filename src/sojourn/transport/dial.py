"""Dialing an agent's data port without ever waiting (contracts, 2)."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from sojourn.errors import Invalid, SojournError, Unreachable, from_wire
from sojourn.transport.address import connecting, hasten, parse_tcp
from sojourn.transport.lines import LONGEST_LINE, decode_line, encode_line
from sojourn.transport.loop import READ, WRITE, Loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CONNECT_SECONDS = 10.0
_DEAD_AFTER = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
NOTICE_DEATH = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, int(getattr(socket, name)), value)
        for name, value in _DEAD_AFTER.items()
        if hasattr(socket, name)
    ),
]
"""Socket options (level, name, value) by which the system finds out within half a minute that the other machine, or the
way there, is gone."""


class Dial:
    """Connects to `address`, says `first`, and waits, as long as it takes, for a yes and then for the far end's first
    bytes.

    `spoke(connection, early)`: the connection, no longer watched, and what was read of it. `failed(error)`: it has
    been closed. One of the two is called once, never from within the constructor; none after `close`.
    """

    def __init__(
        self,
        loop: Loop,
        address: str,
        first: dict[str, Any],
        *,
        spoke: Callable[[socket.socket, bytes], None],
        failed: Callable[[SojournError], None],
    ) -> None:
        self._loop, self._address, self._first = loop, address, encode_line(first)
        self._spoke, self._failed = spoke, failed
        self._connection: socket.socket | None = None
        self._read = b""
        self._admitted = False
        self._over = False
        self._patience = loop.later(_CONNECT_SECONDS, lambda: self._fail("no connection in time"))
        self._begin()

    def close(self) -> None:
        """Stop; nobody is told."""
        self._over = True
        self._patience.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._loop.forget(connection)
            connection.close()

    def _begin(self) -> None:
        try:
            host, port = parse_tcp(self._address)
            socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
        except Invalid as wrong:
            message = wrong.message
            self._loop.soon(lambda: self._fail(message))
        except OSError:
            threading.Thread(target=self._resolve, args=(host, port), daemon=True).start()
        else:
            self._loop.soon(lambda: self._connect(self._address))

    def _resolve(self, host: str, port: int) -> None:
        """In a thread of its own: the system's resolver waits."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
        except OSError as failure:
            reason = f"{host} is unknown: {failure}"
            self._loop.soon(lambda: self._fail(reason))
        else:
            self._loop.soon(lambda: self._connect(f"{found[0]}:{port}"))

    def _connect(self, address: str) -> None:
        if self._over:
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
            for option in NOTICE_DEATH:
                connection.setsockopt(*option)
            connection.send(self._first)  # a fresh connection takes a short line as a whole
        except OSError as failure:
            self._fail(failure.strerror or str(failure))
            return
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
                raise Invalid(f"What answers at {self._address} is no agent.")
            return False
        answer = decode_line(line)
        if not answer.get("ok"):
            error = answer.get("error")
            raise from_wire(error if isinstance(error, dict) else {"message": str(error)})
        self._read = rest
        return True

    def _hand_over(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self._loop.forget(connection)
        self.close()
        self._spoke(connection, self._read)

    def _fail(self, reason: str) -> None:
        self._end(Unreachable(f"{self._address} can't be reached: {reason}.", "It is tried again by itself."))

    def _end(self, error: SojournError) -> None:
        if not self._over:
            self.close()
            self._failed(error)
