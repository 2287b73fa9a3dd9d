"""While a session stands still, what moves it goes before other work: on a busy node each of its steps would otherwise
wait for a core, and a node is most often left because it is busy.

Linux shares the cores out twice: between groups of processes, of which each login session is one (sched(7),
autogroup), and by niceness within a group. Both are asked for; where neither is granted, moves are as fast as the rest.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_HASTY = -15
"""Niceness; one less is a share of a core 1.25 times as large."""
BRISK = -8
"""For the filling: until all is in, the session needs two machines."""
_lock = threading.Lock()
_in_haste = 0
_group_was: int | None = None


def hasten(pid: int, niceness: int = _HASTY) -> None:
    """A process that leads a session of its own; for good."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
    _set_group(pid, niceness)


@contextlib.contextmanager
def hastened() -> Iterator[None]:
    """The calling thread, what it starts meanwhile, and this process's group where no other process leads it."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, _HASTY)
    _enter()
    try:
        yield
    finally:
        _leave()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, before)


def _enter() -> None:
    """The group is shared by all that are in haste: the first sets it, the last sets it back."""
    global _in_haste, _group_was
    with _lock:
        _in_haste += 1
        if _in_haste == 1 and (_group_was := _own_group()) is not None:
            _set_group(os.getpid(), _HASTY)


def _leave() -> None:
    global _in_haste
    with _lock:
        _in_haste -= 1
        if not _in_haste and _group_was is not None:
            _set_group(os.getpid(), _group_was)


def _own_group() -> int | None:
    """None where the group is not this process's own: two agents started from one terminal would each set back what
    the other had set, and the terminal would keep it."""
    if os.getsid(0) != os.getpid():
        return None
    with contextlib.suppress(OSError):
        return niceness_of(Path("/proc/self/autogroup").read_text())
    return None


def niceness_of(autogroup: str) -> int | None:
    """From `/autogroup-42 nice 0`; None for the empty text that a process outside every group has there: what was
    started before the first login session, or lies in a cpu cgroup of its own."""
    return int(autogroup.split()[-1]) if autogroup.strip() else None


def _set_group(pid: int, niceness: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
