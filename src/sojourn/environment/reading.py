"""The files of a layer as a stream, and back: in what form their bytes follow each other.

A file of at most SMALL bytes is its bytes. A larger one comes in pieces of that length, a byte before each: DATA, or
HOLE, of which there are no bytes. Which files follow each other, and how long they are, both sides know already.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from sojourn.environment.contents import ID_BYTES, Entry
from sojourn.errors import Incompatible

SMALL = 1 << 20
DATA, HOLE = b"\1", b"\0"
_ZEROS = bytes(SMALL)


def read(tree: Path, entry: Entry) -> Iterator[bytes]:
    """A file below a folder. Raises Incompatible when it is not what the entry says."""
    path = str(tree / entry.path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as gone:
        raise _changed(path) from gone
    try:
        if entry.size <= SMALL:
            body = os.read(descriptor, entry.size + 1)
            if len(body) != entry.size or blake3(body).digest(ID_BYTES) != entry.digest:
                raise _changed(path)
            yield body
        else:
            yield from _pieces(descriptor, path, entry)
    finally:
        os.close(descriptor)


def _pieces(descriptor: int, path: str, entry: Entry) -> Iterator[bytes]:
    hashing, left = blake3(), entry.size
    while left:
        piece = os.read(descriptor, min(SMALL, left))
        while len(piece) < min(SMALL, left):
            more = os.read(descriptor, min(SMALL, left) - len(piece))
            if not more:
                raise _changed(path)
            piece += more
        hashing.update(piece)
        left -= len(piece)
        yield HOLE if piece == _ZEROS[: len(piece)] else DATA
        if piece != _ZEROS[: len(piece)]:
            yield piece
    if hashing.digest(ID_BYTES) != entry.digest:
        raise _changed(path)


def _changed(path: str) -> Incompatible:
    return Incompatible(
        f"{path} has changed since the environment was looked at.", "Try again when nothing is being installed."
    )


class Reader:
    """Takes exact lengths out of a stream that comes in pieces of any size. Raises Incompatible when it ends early."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = iter(stream)
        self._chunk, self._at = memoryview(b""), 0

    def take(self, length: int) -> bytes | memoryview:
        end = self._at + length
        if end <= len(self._chunk):
            piece = self._chunk[self._at : end]
            self._at = end
            return piece
        return self._gathered(length)

    def end(self) -> None:
        """Nothing may be left."""
        if self._at < len(self._chunk) or any(self._stream):
            raise Incompatible("More has come of an environment's layer than was asked for.")

    def _gathered(self, length: int) -> bytes:
        body = bytearray(self._chunk[self._at :])
        while len(body) < length:
            chunk = next(self._stream, None)
            if chunk is None:
                raise Incompatible("What came of an environment's layer was cut off.", "Try again.")
            self._chunk, self._at = memoryview(chunk), min(len(chunk), length - len(body))
            body += self._chunk[: self._at]
        return bytes(body)
