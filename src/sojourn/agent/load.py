"""What this machine has, and how busy it is."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from sojourn.model import Load, Resources


def capacity() -> Resources:
    """Cores this process may use, all memory, NVIDIA devices."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))
    return Resources(cores=usable, memory_bytes=psutil.virtual_memory().total, gpus=gpus)


def load(sessions: int) -> Load:
    """Since the last call, for the share of the cores."""
    return Load(
        cpu_share=min(psutil.cpu_percent() / 100, 1.0),
        memory_free_bytes=psutil.virtual_memory().available,
        sessions=sessions,
    )
