"""How much later a new session's kernel is ready than with the local provisioner."""

from __future__ import annotations

import statistics
import time
from typing import Any

from sojourn.testing import LOCAL, OURS, end_kernel, stack, start_kernel


def measure(rounds: int) -> dict[str, Any]:
    with stack():
        _start_s(OURS), _start_s(LOCAL)
        pairs = [(_start_s(OURS), _start_s(LOCAL)) for _ in range(rounds)]
    return {
        "bench": "start",
        "extra_s": {"median": round(statistics.median(ours - local for ours, local in pairs), 3)},
        "start_s": round(statistics.median(ours for ours, _ in pairs), 3),
        "local_start_s": round(statistics.median(local for _, local in pairs), 3),
    }


def _start_s(provisioner: str) -> float:
    since = time.perf_counter()
    kernel = start_kernel(provisioner)
    seconds = time.perf_counter() - since
    end_kernel(*kernel)
    return seconds
