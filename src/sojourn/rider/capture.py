"""What the program writes to stdout and stderr: a capped log with one rotation, and its tail in memory."""

# ruff: noqa: PTH105
# (pathlib would cost every rider a megabyte)
from __future__ import annotations

import os

LOG_BYTES = 1 << 20
TAIL_BYTES = 8192


class Capture:
    """`path`: the log, None for no log; its older half is `path` + ".1"."""

    def __init__(self, path: str | None, log_bytes: int = LOG_BYTES) -> None:
        self._path = path
        self._log_bytes = log_bytes
        self._file = -1
        self._size = 0
        self._tail = bytearray()

    @property
    def tail(self) -> str:
        return self._tail.decode(errors="replace")

    def add(self, data: bytes) -> None:
        """A log that can't be written is given up; the tail is kept all the same."""
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        try:
            self._write(data)
        except OSError:
            self._path = None

    def _write(self, data: bytes) -> None:
        if self._path is None:
            return
        if self._file >= 0 and self._size + len(data) > self._log_bytes:
            os.close(self._file)
            self._file = -1
            os.replace(self._path, self._path + ".1")
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._size = os.fstat(self._file).st_size
        self._size += os.write(self._file, data)
