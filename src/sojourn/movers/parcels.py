"""What the two halves of a move say to each other over their link: JSON heads, and streams of bytes between them."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sojourn.errors import MoveFailed, SojournError, from_wire
from sojourn.movers.pace import Pace
from sojourn.movers.packing import Packer, unpacked

_LENGTH = struct.Struct("!I")
_PACKED = 1 << 31
"""A bit of the length: what follows is packed."""
_CHUNK = 1 << 20
_LONGEST_CHUNK = 64 * _CHUNK
_LONGEST_HEAD = 64 << 20


class Parcels:
    """One end of the conversation. Raises MoveFailed when the other side is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._packer = Packer(Pace())

    def send(self, **head: Any) -> None:
        self._send(json.dumps(head).encode())

    def send_stream(self, chunks: Iterable[bytes]) -> None:
        """Any number of bytes, in whatever pieces they come; packed where that is quicker."""
        waiting = bytearray()
        for chunk in chunks:
            waiting += chunk
            if len(waiting) >= _CHUNK:
                self._send_chunk(waiting)
                waiting = bytearray()
        if waiting:
            self._send_chunk(waiting)
        self._send(b"")

    def receive(self) -> dict[str, Any]:
        """The next head. An error that the other side sent is raised here."""
        head: dict[str, Any] = json.loads(self._receive(_LONGEST_HEAD))
        if said := head.get("error"):
            raise MoveFailed(f"The other side of the move gave up: {said}")
        return head

    def expect(self, name: str) -> Any:
        """The value of a head that must have this name; for conversations without choice."""
        head = self.receive()
        if name not in head:
            raise MoveFailed(f"The other side of the move said {sorted(head)} where {name} was due.")
        return head[name]

    def answer(self, name: str) -> Any:
        """The same, where the other side may have refused instead, which is raised."""
        head = self.receive()
        if "refused" in head:
            raise from_wire(head["refused"])
        if name not in head:
            raise MoveFailed(f"The other side of the move said {sorted(head)} where {name} was due.")
        return head[name]

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """What is raised within is told to the other side, which waits for an `answer`, too."""
        try:
            yield
        except MoveFailed:
            raise
        except SojournError as refused:
            self.send(refused=refused.to_wire())
            raise

    def receive_stream(self) -> Iterator[bytes]:
        while chunk := self._receive(_LONGEST_CHUNK):
            yield bytes(chunk)

    def _send_chunk(self, chunk: bytearray) -> None:
        def put(parts: Sequence[memoryview]) -> None:
            for part in parts:
                self._send(part, _PACKED if len(part) < len(chunk) else 0)

        self._packer.send([memoryview(chunk)], put)

    def _send(self, body: bytes | bytearray | memoryview, packed: int = 0) -> None:
        with memoryview(body) as view:
            head = _LENGTH.pack(len(view) | packed)
            try:
                if len(view) < 4096:
                    self._connection.sendall(head + bytes(view))
                else:
                    self._connection.sendall(head)
                    self._connection.sendall(view)
            except OSError as gone:
                raise _gone(gone) from gone

    def _receive(self, most: int) -> bytes | bytearray:
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        packed, length = length & _PACKED, length & ~_PACKED
        if length > most:
            raise MoveFailed(f"The other side of the move sent nonsense: a parcel of {length} bytes.")
        body = self._exactly(length)
        return unpacked(body, most) if packed else body

    def _exactly(self, length: int) -> bytearray:
        body = bytearray(length)
        view = memoryview(body)
        while view:
            try:
                got = self._connection.recv_into(view)
            except OSError as gone:
                raise _gone(gone) from gone
            if not got:
                raise _gone("it closed the connection")
            view = view[got:]
        return body


def _gone(why: object) -> MoveFailed:
    return MoveFailed(f"The other side of the move is gone: {why}.", "Is its agent running?")
