"""Whether this kernel lets us do what a lazy move needs, found by doing it."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path

_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1


def try_userfaultfd() -> str | None:
    """Make a userfault descriptor and close it; why that failed, or None."""
    number = _USERFAULTFD.get(platform.machine())
    if number is None:
        return f"not known on {platform.machine()}"
    return _try(lambda libc: os.close(_checked(libc.syscall(number, os.O_CLOEXEC | _USER_MODE_ONLY))))


def try_pidfd_getfd() -> str | None:
    """Duplicate a descriptor of this very process by its pidfd; why that failed, or None."""

    def duplicate(libc: ctypes.CDLL) -> None:
        own = _checked(libc.syscall(_PIDFD_OPEN, os.getpid(), 0))
        try:
            os.close(_checked(libc.syscall(_PIDFD_GETFD, own, own, 0)))
        finally:
            os.close(own)

    return _try(duplicate)


def try_reading_memory() -> str | None:
    """Read this process's own memory through /proc, as the pager reads a frozen task's; why that failed, or None."""
    words = ctypes.create_string_buffer(b"sojourn")
    try:
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            memory.seek(ctypes.addressof(words))
            return None if memory.read(7) == b"sojourn" else "it read something else"
    except OSError as refused:
        return refused.strerror


FEATURES: dict[str, Callable[[], str | None]] = {
    "userfaultfd": try_userfaultfd,
    "pidfd_getfd": try_pidfd_getfd,
    "/proc/PID/mem": try_reading_memory,
}


def _try(act: Callable[[ctypes.CDLL], None]) -> str | None:
    try:
        act(ctypes.CDLL(None, use_errno=True))
    except OSError as refused:
        return refused.strerror
    return None


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
