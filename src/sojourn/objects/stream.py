"""The stream: a header, then for each component its buffers and its graph, each followed by its digest.

    stream    = MAGIC, length (8 bytes), header as JSON, digest, component*
    component = (buffer, digest)*, graph, digest

It is written and read from front to back once, so it may be a socket. A reader has checked the digest of all that it
uses before it uses it; what was cut off or altered is Damaged.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any

from sojourn.errors import Damaged

MAGIC = b"SOJOURN objects 1\n"
PIECE_BYTES = 1 << 20
"""What is read and hashed at a time."""
_LARGE_PIECE_BYTES = 8 << 20
"""The same where several threads hash it."""
_IN_MEMORY_BYTES = 32 << 20
_THE_USERS_BYTES = 1 << 20
"""What pickle writes at once is a frame of hardly more than 64 KiB, or, as it is, one byte string of the user's."""
_DIGEST_BYTES = 32
_LENGTH = struct.Struct(">Q")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode  # bound here: a cell may have put something else in the place of `json.loads`
_LARGEST_HEADER_BYTES = 1 << 30


def _hashes() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {
        "sha256": hashlib.sha256,
        "blake2b": lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES),
    }
    try:
        import blake3
    except ImportError:
        return found
    return {"blake3": blake3.blake3, **found}


HASHES = _hashes()
"""By name, the best first: BLAKE3 hashes 5 GB/s on a core, SHA-256 2 (where the CPU has instructions for it)."""


HASH = next(iter(HASHES))
"""The one that is used here."""


def digest(data: Any, name: str = HASH) -> bytes:
    """On as many cores as there are, where that helps."""
    hasher = _hasher(name, 0 if len(data) >= PIECE_BYTES else 1)
    hasher.update(data)
    return bytes(hasher.digest())


def _hasher(name: str, threads: int) -> Any:
    return HASHES[name](max_threads=threads or -1) if name == "blake3" else HASHES[name]()


class Spool:
    """What a pickler writes, kept until all of it is known: in memory at first, then in a file without a name.

    Nothing is copied: pickle hands over frames, and long byte strings of the user's as they are.
    """

    def __init__(self) -> None:
        self._digest = b""
        self._pieces: list[bytes | int] = []
        """In their order: what is in memory, or the length of what is next in the file."""
        self._in_memory = 0
        self._file: IO[bytes] | None = None
        self.bytes = 0

    def write(self, data: Any) -> int:
        piece = data if type(data) is bytes else bytes(data)
        self.bytes += len(piece)
        if len(piece) >= _THE_USERS_BYTES:
            self._pieces.append(piece)
        else:
            self._keep(piece)
        return len(piece)

    def _keep(self, frame: bytes) -> None:
        self._in_memory += len(frame)
        if self._in_memory <= _IN_MEMORY_BYTES:
            self._pieces.append(frame)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._pieces.append(self._file.write(frame))

    @property
    def in_memory(self) -> bool:
        return self._file is None

    def digest(self) -> bytes:
        """Once nothing more is written."""
        if not self._digest:
            hasher = HASHES[HASH]()
            for piece in [b"".join(self.pieces())] if self.bytes < PIECE_BYTES else self.pieces():
                hasher.update(piece)
            self._digest = bytes(hasher.digest())
        return self._digest

    def pieces(self) -> Iterator[bytes]:
        if self._file:
            self._file.seek(0)
        for piece in self._pieces:
            yield piece if isinstance(piece, bytes) else self._file.read(piece)  # type: ignore[union-attr]


class Writer:
    """Writes a stream; hashes beside writing, in a thread."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.bytes = 0

    def header(self, header: dict[str, Any]) -> None:
        body = _encode(header).encode()
        self._put(b"".join((MAGIC, _LENGTH.pack(len(body)), body, digest(body, "sha256"))))

    def buffer(self, data: memoryview) -> bytes:
        """Its digest."""
        if len(data) < PIECE_BYTES:
            found = digest(data)
            self._put(data)
        else:
            found = self._in_step(data)
        self._put(found)
        return found

    def _in_step(self, data: memoryview) -> bytes:
        """Write and hash piece by piece, so that what the one has read is in the CPU's cache for the other."""
        hasher = HASHES[HASH]()
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            hashed = self._aside.submit(hasher.update, piece)
            self._put(piece)
        hashed.result()
        return bytes(hasher.digest())

    @functools.cached_property
    def _aside(self) -> ThreadPoolExecutor:
        """Its thread ends with the writer."""
        return ThreadPoolExecutor(1)

    def graph(self, spool: Spool) -> None:
        if spool.bytes < PIECE_BYTES:
            self._put(b"".join((*spool.pieces(), spool.digest())))
            return
        hashed = self._aside.submit(spool.digest)
        if not spool.in_memory:
            hashed.result()  # they would read the one file together
        for piece in spool.pieces():
            self._put(piece)
        self._put(hashed.result())

    def _put(self, data: Any) -> None:
        view = memoryview(data)
        self.bytes += len(view)
        while view:
            view = view[self._file.write(view) or 0 :]


class Reader:
    """Reads a stream; raises Damaged where it is not what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash_name = "sha256"

    def header(self) -> dict[str, Any]:
        if self._exactly(len(MAGIC)) != MAGIC:
            raise Damaged("this is no stream of objects, or one of another version of Sojourn")
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > _LARGEST_HEADER_BYTES:
            raise Damaged("the header of the stream of objects is altered")
        body = self._exactly(length)
        self._check("the header", digest(body, "sha256"))
        header: dict[str, Any] = _decode(bytes(body).decode())
        self._hash_name = header["hash"]
        if self._hash_name not in HASHES:
            raise Damaged(f"the stream is hashed with {self._hash_name}, which is not here", "install it here")
        return header

    def into(self, room: memoryview, what: str) -> str:
        """Fill `room` with the buffer that comes next, and tell its digest. A thread hashes it, a piece behind."""
        hasher = HASHES[self._hash_name]()
        if len(room) <= PIECE_BYTES:
            self._fill(room)
            hasher.update(room)
        else:
            for start in range(0, len(room), PIECE_BYTES):
                piece = room[start : start + PIECE_BYTES]
                self._fill(piece)
                hashed = self._aside.submit(hasher.update, piece)
            hashed.result()
        return self._check(what, bytes(hasher.digest()))

    @functools.cached_property
    def _aside(self) -> ThreadPoolExecutor:
        """Its thread ends with the reader, and does one thing after the other."""
        return ThreadPoolExecutor(1)

    @contextmanager
    def graph(self, length: int, what: str) -> Iterator[tuple[Any, str]]:
        """The graph that comes next, checked, and its digest: where it stands in the stream, if that can go back, else
        a copy."""
        if length <= _IN_MEMORY_BYTES:
            graph = self._bytes(length)
            yield io.BytesIO(graph), self._check(what, digest(graph, self._hash_name))
        elif self._file.seekable():
            begin = self._file.tell()
            found = self._look_through(length, what, lambda piece: None)
            end = self._file.tell()
            self._file.seek(begin)
            yield self._file, found
            self._file.seek(end)
        else:
            with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as copy:
                found = self._look_through(length, what, copy.write)
                copy.seek(0)
                yield copy, found

    def _look_through(self, length: int, what: str, see: Callable[[memoryview], object]) -> str:
        hasher = _hasher(self._hash_name, threads=0)
        room = memoryview(bytearray(_LARGE_PIECE_BYTES))
        for start in range(0, length, _LARGE_PIECE_BYTES):
            piece = room[: length - start]
            self._fill(piece)
            hasher.update(piece)
            see(piece)
        return self._check(what, bytes(hasher.digest()))

    def _check(self, what: str, found: bytes) -> str:
        if self._exactly(_DIGEST_BYTES) != found:
            raise Damaged(f"{what} of the stream of objects is altered", "send it again")
        return found.hex()

    def _bytes(self, count: int) -> bytes:
        """The same without a copy, where all of it can be had at once."""
        found = self._file.read(count)
        return found if len(found) == count else found + self._exactly(count - len(found))

    def _exactly(self, count: int) -> bytearray | bytes:
        room = bytearray(count)
        self._fill(memoryview(room))
        return bytes(room)

    def _fill(self, room: memoryview) -> None:
        while room:
            count = self._file.readinto(room)  # type: ignore[attr-defined]
            if not count:
                raise Damaged("the stream of objects is cut off", "send it again")
            room = room[count:]
