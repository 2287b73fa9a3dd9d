"""The kernel's userfaultfd (see userfaultfd(2) and ioctl_userfaultfd(2)): filling memory that another task misses."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass

from sojourn.movers.pager.pieces import PAGE

_API, _REGISTER, _WAKE = 0xC018AA3F, 0xC020AA00, 0x8010AA02
_COPY, _ZEROPAGE = 0xC028AA03, 0xC020AA04
_MESSAGE = struct.Struct("=B7xQQQ")
_FAULT, _FORK, _REMAP, _REMOVE, _UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16
_MODE_MISSING, _API_VERSION = 1, 0xAA
_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "ppc64le": 364, "s390x": 355, "riscv64": 282}
EVENTS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6
"""The features that tell of fork, remap, remove and unmap: without them pages could end up in the wrong place."""


def open_userfault(features: int) -> int:
    """A userfaultfd of this process, as CRIU makes one in each task it restores. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.syscall(_SYS_USERFAULTFD[platform.machine()], os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    try:
        fcntl.ioctl(descriptor, _API, struct.pack("=QQQ", _API_VERSION, features, 0))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@dataclass(frozen=True)
class Fault:
    """A task stands still until the page at `address` is there."""

    address: int


@dataclass(frozen=True)
class Forked:
    """The task forked; `descriptor` is the child's userfaultfd."""

    descriptor: int


@dataclass(frozen=True)
class Moved:
    start: int
    to: int
    length: int


@dataclass(frozen=True)
class Dropped:
    """The program gave a range back (unmapped, or `madvise(MADV_DONTNEED)`): what lay there is not wanted any more."""

    start: int
    end: int


Happening = Fault | Forked | Moved | Dropped


class Userfault:
    """One userfaultfd: the address space of one task."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)

    def register(self, address: int, length: int) -> None:
        """Wait for missing pages in a range of this process; for restored tasks CRIU has done it. Raises OSError."""
        fcntl.ioctl(self.descriptor, _REGISTER, struct.pack("=QQQQ", address, length, _MODE_MISSING, 0))

    def read(self) -> list[Happening]:
        """What happened since the last call; never waits. While something stands unread, `copy` and `zero` give
        EAGAIN."""
        happened: list[Happening] = []
        while True:
            try:
                message = os.read(self.descriptor, _MESSAGE.size)
            except BlockingIOError:
                return happened
            happened.append(_happening(message))

    def copy(self, address: int, source: int, length: int) -> tuple[int, int]:
        """Put `length` bytes that lie at `source` in this process at `address`. Returns (bytes done, errno or 0)."""
        return self._fill(_COPY, struct.pack("=QQQQq", address, source, length, 0, 0))

    def zero(self, address: int, length: int) -> tuple[int, int]:
        """The same with zeros."""
        return self._fill(_ZEROPAGE, struct.pack("=QQQq", address, length, 0, 0))

    def wake(self, address: int, length: int) -> None:
        """Let tasks that wait for a range look again."""
        fcntl.ioctl(self.descriptor, _WAKE, struct.pack("=QQ", address, length))

    def _fill(self, request: int, body: bytes) -> tuple[int, int]:
        argument = bytearray(body)
        try:
            fcntl.ioctl(self.descriptor, request, argument, True)
            failed = 0
        except OSError as refused:
            failed = refused.errno or errno.EIO
        done: int = struct.unpack_from("=q", argument, len(argument) - 8)[0]
        return max(done, 0), failed

    def close(self) -> None:
        os.close(self.descriptor)


def _happening(message: bytes) -> Happening:
    kind, first, second, third = _MESSAGE.unpack(message)
    if kind == _FAULT:
        return Fault(second // PAGE * PAGE)
    if kind == _FORK:
        return Forked(first & 0xFFFFFFFF)
    if kind == _REMAP:
        return Moved(first, second, third)
    if kind in (_REMOVE, _UNMAP):
        return Dropped(first, second)
    raise OSError(errno.EPROTO, f"userfaultfd said {kind:#x}")
