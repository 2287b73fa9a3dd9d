"""The monotonic clock of a session that slept: it must not go back, and it does not have to count the sleep.

CRIU writes down where CLOCK_MONOTONIC and CLOCK_BOOTTIME stood (`timens-0.img`) and restores the tasks in a time
namespace (time_namespaces(7)) where they go on from there, on any machine, whenever that was started. So timers go off
once, after the rest of their time, and a sleep of a day takes no time by `time.monotonic()`; `time.time()` tells the
truth. A kernel without time namespaces (before 5.6, or built without) shows its own clock: there a checkpoint wakes
only where the clock stands higher.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from pathlib import Path

from sojourn.errors import Incompatible

IMAGE = "timens-"


def monotonic_in(pid: int) -> float:
    """The monotonic clock as a process sees it, in seconds."""
    offset = 0.0
    with contextlib.suppress(OSError):  # no time namespaces
        offset = offset_in(Path(f"/proc/{pid}/timens_offsets").read_text())
    return time.monotonic() + offset


def offset_in(text: str) -> float:
    """What /proc/PID/timens_offsets adds to the monotonic clock, in seconds."""
    for line in text.splitlines():
        name, seconds, nanoseconds = line.split()
        if name == "monotonic":
            return int(seconds) + int(nanoseconds) / 1e9
    return 0.0


def check_clock(stood_at: float, images: Collection[str], *, has_namespaces: bool, now: float) -> None:
    """Whether a session whose clock stood there can wake here. Raises Incompatible when its clock would go back."""
    carried = has_namespaces and any(name.startswith(IMAGE) for name in images)
    if not carried and now < stood_at:
        raise Incompatible(
            f"The session's clock would go back by {stood_at - now:.0f} s: this machine was started later than the one "
            "where it was saved, and one of the two has a kernel without time namespaces.",
            "Wake it on another node.",
        )


def has_time_namespaces() -> bool:
    return Path("/proc/self/ns/time").exists()
