"""Where agents come in: the listening socket, who may pass, and the first line (contracts, 1)."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from sojourn.errors import Invalid, SojournError, Unauthorized
from sojourn.transport import address
from sojourn.transport.lines import decode_line, encode_line
from sojourn.transport.loop import READ, Loop

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_LINE_SECONDS = 10.0
_LONGEST_FIRST_LINE = 16384
_INT = struct.Struct("i")
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
"""Else the program would inherit the clients' sockets. (`socket.recv_fds` passes no flags on, whatever it is given.)"""


class Attach:
    """A checked first line; raises Invalid."""

    __slots__ = ("anchor", "epoch", "incarnation", "session", "what")

    def __init__(self, line: bytes, secret: str | None) -> None:
        body = decode_line(line)
        if secret is not None and not _same(str(body.get("secret")), secret):
            raise Unauthorized("The secret in the first line is not this rider's.", "Only its agent knows it.")
        try:
            self.what, self.anchor = str(body["attach"]), str(body.get("anchor", ""))
            self.incarnation, self.epoch = int(body["incarnation"]), int(body["epoch"])
            self.session = str(body["session"]) if body.get("session") else None
        except (KeyError, TypeError, ValueError) as wrong:
            raise Invalid("The first line lacks attach, incarnation or epoch.", "The last two are integers.") from wrong
        if self.what not in ("control", "porter") and not (self.what == "tunnel" and self.anchor):
            raise Invalid("The first line attaches nothing.", 'Say "control", "porter", or "tunnel" with an anchor.')


class Door:
    """Listens at `where`; `secret` None admits only peers of PID 0, which are outside this PID namespace.

    `check(attach)` raises SojournError to turn somebody away; `attach(attach, connection, early)` takes over what was
    admitted. `early` came after the first line.
    """

    def __init__(
        self,
        loop: Loop,
        where: str,
        secret: str | None,
        *,
        check: Callable[[Attach], None],
        attach: Callable[[Attach, socket.socket, bytes], None],
    ) -> None:
        if secret is None and not hasattr(socket, "SO_PEERCRED"):
            raise Invalid("Peers can't be recognised on this system.", "Give the rider a secret.")
        self._loop, self._secret, self._check, self._attach = loop, secret, check, attach
        self._waiting: set[Visitor] = set()
        self._listener = address.listen(where)
        loop.watch(self._listener, READ, self._accept)

    @property
    def address(self) -> str:
        return address.address_of(self._listener)

    def hang_up(self) -> None:
        """Close whatever has not said its first line; go on listening."""
        for visitor in list(self._waiting):
            visitor.close()

    def _accept(self, _ready: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again before it was accepted
        if self._secret is None and _peer_pid(connection) != 0:
            connection.close()
            return
        connection.setblocking(False)
        Visitor(self._loop, connection, self._waiting, self._admit)

    def _admit(self, visitor: Visitor, line: bytes, early: bytes) -> None:
        connection = visitor.release()
        passed, visitor.passed = visitor.passed, None
        try:
            attach = Attach(line, self._secret)
            self._check(attach)
        except SojournError as refused:
            _say_no(connection, refused)
            if passed is not None:
                passed.close()
            return
        with suppress(OSError):  # it is gone: the next read will tell
            connection.send(encode_line({"ok": True, "incarnation": attach.incarnation}))
        if passed is not None:
            connection.close()
        self._attach(attach, connection if passed is None else passed, early if passed is None else b"")


class Visitor:
    """A connection that has not said its first line yet."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        waiting: set[Visitor],
        admit: Callable[[Visitor, bytes, bytes], None],
    ) -> None:
        self.passed: socket.socket | None = None
        """A socket that came along with the line."""
        self._loop, self._connection, self._waiting, self._admit = loop, connection, waiting, admit
        self._said = b""
        self._patience = loop.later(_FIRST_LINE_SECONDS, self.close)
        waiting.add(self)
        loop.watch(connection, READ, self._read)

    def release(self) -> socket.socket:
        """The connection, no longer waited for."""
        self._patience.cancel()
        self._waiting.discard(self)
        self._loop.forget(self._connection)
        return self._connection

    def close(self) -> None:
        self.release().close()
        if self.passed is not None:
            self.passed.close()

    def _read(self, _ready: int) -> None:
        try:
            data, passed = _receive(self._connection)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._keep(passed)
        self._said += data
        line, newline, early = self._said.partition(b"\n")
        if newline:
            self._admit(self, line, early)
        elif not data or len(self._said) > _LONGEST_FIRST_LINE:
            self.close()

    def _keep(self, passed: list[socket.socket]) -> None:
        for surplus in passed[1:] if self.passed is None else passed:
            surplus.close()
        if passed and self.passed is None:
            self.passed = passed[0]


def _receive(connection: socket.socket) -> tuple[bytes, list[socket.socket]]:
    if not hasattr(socket, "SCM_RIGHTS") or connection.family != socket.AF_UNIX:
        return connection.recv(4096), []
    data, ancillary, _flags, _peer = connection.recvmsg(4096, socket.CMSG_SPACE(4 * _INT.size), _CLOSE_ON_EXEC)
    passed = []
    for level, kind, body in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = body[: len(body) - len(body) % _INT.size]
            passed += [socket.socket(fileno=descriptor) for (descriptor,) in _INT.iter_unpack(whole)]
    return data, passed


def _peer_pid(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    return pid


def _same(said: str, secret: str) -> bool:
    """In a time that does not tell how much of it was right."""
    differences = sum(one != other for one, other in zip(said, secret))  # noqa: B905 - not before Python 3.10
    return len(said) == len(secret) and differences == 0


def _say_no(connection: socket.socket, refused: SojournError) -> None:
    with connection, suppress(OSError):  # it may not wait for the answer
        connection.send(encode_line({"ok": False, "error": refused.message}))
