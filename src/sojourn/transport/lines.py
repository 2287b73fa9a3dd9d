"""JSON objects, one a line, over a socket or over a stream of a tunnel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sojourn.errors import Invalid
from sojourn.transport.loop import READ, WRITE, Loop
from sojourn.transport.pump import Pipe, Pump

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

LONGEST_LINE = 1 << 20


def encode_line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """Raises Invalid for anything but one JSON object."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as wrong:
        raise Invalid("A line is not JSON.", "Each line is one JSON object.") from wrong
    if not isinstance(message, dict):
        raise Invalid("A line is not a JSON object.", "Each line is one JSON object.")
    return message


class LineBuffer:
    """Puts lines together from what comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now. Raises Invalid when one grows beyond measure."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise Invalid(f"A line is longer than {LONGEST_LINE} bytes.", "Each line is one short JSON object.")
        return lines


class LineSocket:
    """A local connection that carries lines both ways.

    `heard(line)`; `ended(reason)`: the other side is gone, or spoke nonsense, and the socket is closed.
    """

    def __init__(
        self, loop: Loop, connection: socket.socket, heard: Callable[[bytes], None], ended: Callable[[str], None]
    ) -> None:
        connection.setblocking(False)
        self._loop, self._connection = loop, connection
        self._heard, self._ended = heard, ended
        self._lines = LineBuffer()
        self._unsent = bytearray()
        self._last_words = False
        self._open = True
        self._watch()

    def say(self, message: dict[str, Any]) -> None:
        """Now, or as soon as the other side reads."""
        if self._open and not self._last_words:
            self._unsent += encode_line(message)
            self._write()

    def say_last(self, message: dict[str, Any]) -> None:
        """Say it, and close once it is said."""
        self.say(message)
        self._last_words = True
        self._write()

    def pass_on(self, message: dict[str, Any], other: socket.socket) -> None:
        """Say it, with a descriptor of another socket; for Unix sockets. Raises OSError, when the other side is gone or
        does not read."""
        import array
        import socket

        if not self._open or self._unsent:
            raise ConnectionResetError("the other side does not read")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [other.fileno()]))]
        line = encode_line(message)
        if self._connection.sendmsg([line], rights) < len(line):
            raise ConnectionResetError("the other side does not read")

    def hear(self, data: bytes) -> None:
        """What was read from the socket by others."""
        try:
            for line in self._lines.feed(data):
                if self._open:
                    self._heard(line)
        except Invalid as nonsense:
            self._end(nonsense.message)

    def release(self) -> None:
        """The socket is somebody else's from now on."""
        self._open = False
        self._loop.forget(self._connection)

    def close(self) -> None:
        """Now; nobody is told."""
        if self._open:
            self.release()
            self._connection.close()

    def _ready(self, ready: int) -> None:
        if ready & WRITE:
            self._write()
        if ready & READ and self._open:
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return
        except OSError as failure:
            self._end(str(failure))
            return
        if not data:
            self._end("the connection was closed")
            return
        self.hear(data)

    def _write(self) -> None:
        if not self._open:
            return
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError as failure:
            self._end(str(failure))
            return
        if self._last_words and not self._unsent:
            self._end("all was said")
            return
        self._watch()

    def _watch(self) -> None:
        self._loop.watch(self._connection, READ | WRITE if self._unsent else READ, self._ready)

    def _end(self, reason: str) -> None:
        if self._open:
            self.close()
            self._ended(reason)


class LinePipe(Pipe):
    """A stream of a tunnel that carries lines both ways. It waits for no other stream."""

    def __init__(self, pump: Pump, number: int, heard: Callable[[bytes], None], gone: Callable[[str], None]) -> None:
        super().__init__(pump, number)
        self._heard, self._gone = heard, gone
        self._lines = LineBuffer()
        self._unsent = b""

    def say(self, message: dict[str, Any]) -> None:
        self._unsent += encode_line(message)
        self.reconsider()

    def received(self, data: memoryview) -> None:
        self.pump.end.passed_on(self.number, len(data))
        try:
            for line in self._lines.feed(bytes(data)):
                self._heard(line)
        except Invalid as nonsense:
            self.pump.end.reset(self.number, nonsense.message)
            self.leave()
            self._gone(nonsense.message)

    def ended(self) -> None:
        self.pump.end.end(self.number)
        self.leave()
        self._gone("the other end closed it")

    def closed(self, reason: str) -> None:
        self.leave()
        self._gone(reason)

    def reconsider(self) -> None:
        room = self.pump.end.room(self.number, urgent=True)
        if self._unsent and room:
            now, self._unsent = self._unsent[:room], self._unsent[room:]
            self.pump.end.send(self.number, now)
            self.pump.flush()
