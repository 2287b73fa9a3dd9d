"""What this machine has, how busy it is, and how fast sessions leave it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from sojourn.agent.attendance import Attendance
from sojourn.agent.meters import Meters
from sojourn.model import Eviction, Load, Resources


def capacity() -> Resources:
    """Cores this process may use, all memory, NVIDIA devices."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))
    return Resources(cores=usable, memory_bytes=psutil.virtual_memory().total, gpus=gpus)


class Pace:
    """How fast sessions have lately left this node, moved or saved. Each one counts by its size, and half as much as
    the one after it."""

    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0

    def saw(self, size: int, seconds: float) -> None:
        """One has left, in so many seconds. What has no size says nothing of the pace."""
        if size > 0 and seconds > 0:
            self._bytes = self._bytes / 2 + size
            self._seconds = self._seconds / 2 + seconds

    @property
    def bytes_per_second(self) -> float:
        """0 while nothing is known."""
        return self._bytes / self._seconds if self._seconds else 0.0


class Gauge:
    """How busy the node is, whenever somebody asks; the shares of time are those since the question before."""

    def __init__(self, attended: Callable[[], Collection[Attendance]], pace: Pace) -> None:
        self._attended, self._pace, self._meters = attended, pace, Meters()
        self.eviction: Eviction | None = None
        """What was last heard of the node's end."""

    def read(self) -> Load:
        attended = self._attended()
        return Load(
            cpu_share=min(psutil.cpu_percent() / 100, 1.0),
            memory_free_bytes=psutil.virtual_memory().available,
            sessions=len(attended),
            used=self._meters.read(attended),
            eviction=self.eviction,
            save_bytes_per_s=self._pace.bytes_per_second,
        )
