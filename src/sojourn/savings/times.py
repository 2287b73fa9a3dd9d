"""How long things take: as measured, on this machine or on that of docs/measuring.md."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sojourn.errors import Invalid
from sojourn.savings.prices import GIBI

P95 = 1.645
"""Standard deviations above the median, where nineteen of twenty are below."""


@dataclass(frozen=True)
class Times:
    """Seconds; a GB is 2**30 bytes, as in the benchmarks. The defaults of saving, waking and moving are measured: see
    docs/measuring.md."""

    save_s_per_gb: float = 1.6
    save_overhead_s: float = 0.4
    """What a save takes beside its bytes."""
    wake_median_s: float = 0.29
    wake_p95_s: float = 0.39
    wake_elsewhere_s: float = 0.30
    """The median where the session did not sleep on that node, so that nothing of it is at hand."""
    kernel_start_s: float = 0.56
    move_s_per_gb: float = 0.57
    """A whole move, once the state is on its way; a live one stops the session for a fifth of a second of it."""
    node_start_s: float = 120.0
    """Until a node that was asked for can take sessions. 2i2c's documentation: "a couple of minutes, to even 10"."""
    eviction_notice_s: float = 120.0
    """Amazon EC2's documentation: two minutes."""

    def save_s(self, memory_bytes: int) -> float:
        return self.save_overhead_s + self.save_s_per_gb * memory_bytes / GIBI

    def move_s(self, memory_bytes: int) -> float:
        return self.save_overhead_s + self.move_s_per_gb * memory_bytes / GIBI

    def wake_s(self, elsewhere: bool, chance: random.Random) -> float:
        """One wake, lognormal. Pages come as they are needed, so a session's size hardly matters."""
        spread = math.log(max(1.0, self.wake_p95_s / self.wake_median_s)) / P95
        median = self.wake_elsewhere_s if elsewhere else self.wake_median_s
        return chance.lognormvariate(math.log(median), spread)


def read_times(path: Path, times: Times) -> Times:
    """`times` with what `python -m bench suspend --json` has printed. Raises Invalid, naming what is missing."""
    try:
        measured = json.loads(path.read_text())
        per_gb, overhead = _line({float(gb): _positive(seconds) for gb, seconds in measured["suspend_s"].items()})
        return replace(
            times,
            save_s_per_gb=per_gb,
            save_overhead_s=overhead,
            wake_median_s=_positive(measured["wake_s"]["median"]),
            wake_p95_s=_positive(measured["wake_s"]["p95"]),
            wake_elsewhere_s=_positive(measured["wake_s"]["elsewhere"]),
        )
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as wrong:
        what = f"it lacks {wrong}" if isinstance(wrong, KeyError) else str(wrong)
        raise Invalid(
            f"{path} has no measured times: {what}", "`python -m bench suspend --json` prints them."
        ) from wrong


def _line(seconds: dict[float, float]) -> tuple[float, float]:
    """Seconds a GB, and those beside, through what sizes in GB have taken; all by size where there is but one."""
    if len(seconds) == 1:
        return next(value / gb for gb, value in seconds.items()), 0.0
    slope, beside = statistics.linear_regression(list(seconds), list(seconds.values()))
    return max(slope, 0.001), max(beside, 0.0)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is no time")
    return float(value)
