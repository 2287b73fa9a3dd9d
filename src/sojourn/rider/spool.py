"""Where output waits while nobody can take it: memory first, then files in the sandbox, both bounded."""

# ruff: noqa: PTH103, PTH108, PTH118
# (pathlib would cost every rider a megabyte)
from __future__ import annotations

import os
from collections import deque

OWN_BYTES = 256 << 10
"""What each stream may keep however much the others do: a cell's reply must not be lost because of what it printed."""


class Spool:
    """The bounds that all backlogs of a rider share."""

    def __init__(self, folder: str, memory_bytes: int, disk_bytes: int, own_bytes: int = OWN_BYTES) -> None:
        self.folder = folder
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.own_bytes = own_bytes
        self.in_memory = 0
        self.on_disk = 0
        self._backlogs = 0

    def backlog(self) -> Backlog:
        self._backlogs += 1
        return Backlog(self, os.path.join(self.folder, f"backlog-{self._backlogs}"))


class Backlog:
    """Bytes of one stream, first in first out: some in memory, what came later in a file, what came last in memory
    again (only if the disk failed)."""

    def __init__(self, spool: Spool, path: str) -> None:
        self._spool = spool
        self._path = path
        self._memory: deque[bytes | memoryview] = deque()
        self._last: deque[bytes | memoryview] = deque()
        self._file = -1
        self._read = self._written = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def full(self) -> bool:
        spool = self._spool
        if self._length < spool.own_bytes:
            return False
        beyond_memory = self._file >= 0 or spool.in_memory >= spool.memory_bytes
        return bool(self._last) or (beyond_memory and spool.on_disk >= spool.disk_bytes)

    def add(self, data: bytes) -> None:
        """Keep `data`, whose bounds the caller has checked with `full`: a little more than they allow is kept."""
        self._length += len(data)
        if self._file < 0 and self._spool.in_memory < self._spool.memory_bytes:
            self._remember(self._memory, data)
        elif self._last or not self._write(data):
            self._remember(self._last, data)

    def take(self, most: int) -> bytes:
        """Up to `most` bytes, the oldest; `b""` only when there is nothing."""
        if not self._memory and self._file < 0:
            self._memory, self._last = self._last, self._memory
        data = self._recall(most) if self._memory else self._read_file(most)
        self._length -= len(data)
        return data

    def clear(self) -> None:
        self._spool.in_memory -= sum(map(len, self._memory)) + sum(map(len, self._last))
        self._memory.clear()
        self._last.clear()
        self._drop_file()
        self._length = 0

    def _remember(self, where: deque[bytes | memoryview], data: bytes) -> None:
        where.append(data)
        self._spool.in_memory += len(data)

    def _recall(self, most: int) -> bytes:
        first = self._memory.popleft()
        if len(first) > most:
            self._memory.appendleft(memoryview(first)[most:])
            first = first[:most]
        self._spool.in_memory -= len(first)
        return bytes(first)

    def _write(self, data: bytes) -> bool:
        try:
            if self._file < 0:
                os.makedirs(self._spool.folder, mode=0o700, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
                self._file = os.open(self._path, flags, 0o600)
            os.lseek(self._file, self._written, os.SEEK_SET)
            whole = os.write(self._file, data) == len(data)
        except OSError:
            whole = False
        if whole:
            self._written += len(data)
            self._spool.on_disk += len(data)
        elif not self._written:
            self._drop_file()
        return whole

    def _read_file(self, most: int) -> bytes:
        if self._file < 0:
            return b""
        os.lseek(self._file, self._read, os.SEEK_SET)
        data = os.read(self._file, min(most, self._written - self._read))
        self._read += len(data)
        if self._read == self._written:
            self._drop_file()
        return data

    def _drop_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            os.unlink(self._path)
            self._spool.on_disk -= self._written
            self._file, self._read, self._written = -1, 0, 0
