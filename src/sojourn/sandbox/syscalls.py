"""The few Linux system calls that Python 3.11 lacks. Each raises OSError as `os` would."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

MS_NODEV, MS_BIND = 0x4, 0x1000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8
CLONE_NEWNET = 0x40000000

_OPENAT2 = 437
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(options) or None),
        target,
    )


def unmount(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    """umount2(2), never through a symbolic link."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def enter_namespace(descriptor: int, kind: int) -> None:
    """setns(2): this thread, not the process, enters the namespace."""
    _check(_libc.setns(descriptor, kind), "setns")


def leave_namespaces(kinds: int) -> None:
    """unshare(2): this thread gets fresh namespaces of these kinds."""
    _check(_libc.unshare(kinds), "unshare")


def act_as(uid: int, gid: int) -> None:
    """setfsuid(2), setfsgid(2): this thread has the user's rights to files from here on. For one that soon ends."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if _libc.setfsuid(-1) != uid:  # they tell of no error; -1 changes nothing and says what is
        raise PermissionError(f"this process may not act as user {uid}")


def open_beneath(folder: int, path: str) -> int:
    """openat2(2): a file below an open folder, for reading. No symbolic link is followed anywhere on the way (ELOOP),
    so who can rename things below the folder meanwhile can't lead out of it. Does not wait for a FIFO's writer."""
    how = _OpenHow(os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0, _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)
    words = ctypes.c_long(_OPENAT2), ctypes.c_int(folder), ctypes.c_char_p(os.fsencode(path))
    descriptor: int = _libc.syscall(*words, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    _check(descriptor, path)
    return descriptor


def _check(result: int, about: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about)
