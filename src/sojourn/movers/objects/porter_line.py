"""An agent's line to the porter inside a kernel: JSON lines, and frames between them (`objects/porter.py`)."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from sojourn.errors import MoveFailed, SojournError, Unreachable, from_wire
from sojourn.movers.objects.code import packed

_FRAME = struct.Struct(">I")
_LONGEST_FRAME = 16 << 20
START_SECONDS = 90.0
"""How long a kernel may take to begin, with all that its profile imports."""
_RUNNING_SECONDS = 10.0
"""How long one may take to answer that has begun long ago, if it has a porter at all."""

FindPorter = Callable[[], socket.socket]
"""A connection that the rider hands on to the porter, as soon as there is one."""


class PorterLine:
    """Raises MoveFailed when the kernel is gone, and what it refuses with."""

    def __init__(self, connection: socket.socket, patience: float) -> None:
        self._connection = connection
        self._line = connection.makefile("rwb")
        digest, code = packed()
        connection.settimeout(patience)
        self._tell(do="load", digest=digest, bytes=len(code), body=code)
        self._hear("loaded")
        connection.settimeout(None)

    @classmethod
    def to(cls, find: FindPorter, patience: float = _RUNNING_SECONDS) -> PorterLine:
        """Raises Unreachable when nobody answers in time."""
        try:
            return cls(find(), patience)
        except SojournError as failed:
            raise Unreachable(
                f"The kernel can't be asked for its objects: {failed.message}",
                "Objects are carried for IPython kernels that Sojourn has started; others travel by CRIU.",
            ) from failed

    def ask(self, name: str, /, **question: Any) -> Any:
        """What the answer says under that name."""
        self._tell(**question)
        return self._hear(name)

    def sent(self) -> Iterator[bytes]:
        """The frames of a namespace that the kernel was asked to send."""
        self._tell(do="send")
        while frame := self._frame():
            yield frame

    def sent_bytes(self) -> int:
        size: int = self._hear("sent")
        return size

    def arrive(self, stream: Iterable[bytes]) -> dict[str, Any]:
        """Give the kernel a namespace; returns its luggage."""
        self._tell(do="arrive")
        try:
            for frame in stream:
                self._line.write(_FRAME.pack(len(frame)))
                self._line.write(frame)
            self._line.write(_FRAME.pack(0))
            self._line.flush()
        except OSError as gone:
            raise _gone(gone) from gone
        luggage: dict[str, Any] = self._hear("luggage")
        return luggage

    def close(self) -> None:
        self._connection.close()
        with suppress(OSError):  # what was still to be said is of no matter
            self._line.close()

    def _tell(self, body: bytes = b"", **message: Any) -> None:
        try:
            self._line.write(json.dumps(message).encode() + b"\n" + body)
            self._line.flush()
        except OSError as gone:
            raise _gone(gone) from gone

    def _hear(self, name: str) -> Any:
        try:
            answer = json.loads(self._line.readline() or b"{}")
        except (OSError, ValueError) as gone:
            raise _gone(gone) from gone
        if "error" in answer:
            raise from_wire(answer["error"])
        if name not in answer:
            raise _gone("it hung up")
        return answer[name]

    def _frame(self) -> bytes:
        try:
            (length,) = _FRAME.unpack(self._line.read(_FRAME.size))
            if length > _LONGEST_FRAME:
                raise MoveFailed(f"The kernel sent nonsense: a frame of {length} bytes.")
            frame = self._line.read(length)
        except (OSError, struct.error) as gone:
            raise _gone(gone) from gone
        if len(frame) < length:
            raise _gone("it hung up")
        return frame


def _gone(why: object) -> MoveFailed:
    return MoveFailed(f"The kernel did not carry its namespace: {why}.", "Does it still run?")
