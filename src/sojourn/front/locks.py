"""Locks that a process holds until it ends, however it ends."""

from __future__ import annotations

import sys
from typing import IO


def take_lock(file: IO[str]) -> bool:
    """Whether this process is the only one to hold it. It is let go when the file is closed."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
