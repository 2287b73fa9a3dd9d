"""People who do not exist, with habits that were published: a trace for whoever has none of their own.

Each number stands with its source, and with how well the source carries it:
(a) the number is the source's own, (b) derived from the source's numbers as said here, (c) assumed, for want of one.

[DataHub]   UC Berkeley DataHub, spring 2023: 261,231 starts of servers by 12,257 people in 122 days. Notebook
            `03-visualize-cost-and-usage.ipynb` of github.com/berkeley-dsep-infra/datahub-usage-analysis.
[JuNE]      Titov et al., "Observing Fine-Grained Changes in Jupyter Notebooks During Development Time", Journal of
            Systems and Software, 2026 (arXiv 2507.15831): 20 developers, more than 100 hours, 9,207 executions of
            2,655 cells.
[NotebookOS] Carver et al., "NotebookOS: A Replicated Notebook Platform for Interactive Training with On-Demand GPUs",
            ASPLOS 2026 (arXiv 2503.20591): Adobe's production trace of interactive training.
[Hub]       JupyterHub's documentation, "Capacity planning".
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge

from sojourn.savings.trace import Event

HOUR, DAY = 3600.0, 86400.0
MONDAY = 1767571200.0
"""When invented traces begin: 2026-01-05, 00:00 UTC."""


@dataclass(frozen=True)
class Habits:
    """When people come, how long they stay, and what their cells cost."""

    visits_per_day: float = 21.3 / 122
    """The mean over people. (a) [DataHub]: 21.3 starts a person in 122 days. Its standard deviation, 21.2, and its
    median, 15, are those of an exponential distribution, which is what people's own means are drawn from. (b)"""
    weekend_share: float = 1001 / 2122
    """People seen on a day of the weekend for each seen on a weekday. (a) [DataHub]: the means of 34 and 88 days."""
    opens_at: float = 8 * HOUR
    closes_at: float = 20 * HOUR
    """Visits begin between these, most of them midway. (c)"""
    visit_shape: float = 1.63
    visit_scale_s: float = 1.37 * HOUR
    """Gamma: mean 2.2 h. (b) [DataHub]'s lengths of servers' lives, less the flat part that the notebook makes by
    leaving out whole days, less the hour after which idle servers are culled there."""
    pause_s: float = 100 * HOUR / 9207
    """The mean between a cell's end and the next one's beginning, exponential. (b) [JuNE]: its 39 s have the execution
    in them, so this is long rather than short."""
    long_share: float = 0.13
    """Of the cells. (b) A cell each 39 s and, as in [NotebookOS], one that trains each 5 minutes (the median there)."""
    long_median_s: float = 120.0
    long_sigma: float = math.log(300 / 120) / 0.6745
    """Lognormal. (a) [NotebookOS]: half of what trains takes 2 minutes or less, three quarters 5 or less."""
    short_s: float = 1.0
    """The mean of all other cells, exponential. (c)"""
    empty_bytes: int = 120 * 10**6
    """A kernel that has just started. (c)"""
    memory_median_bytes: float = 0.5e9
    memory_sigma: float = math.log(2.0 / 0.5) / 1.645
    """Lognormal over people, reached halfway through the first visit. (c) [Hub] calls 0.5 GB a light user's and 2 GB a
    heavy user's; here they are the median and the 95th percentile. On mybinder.org nine of ten stay below 0.2 GB."""


def invent(habits: Habits, users: int, days: int, seed: int) -> list[Event]:
    """What so many people do in so many days, in order of time. The same seed, the same trace."""
    people = (_person(habits, f"user-{number:03d}", days, random.Random(f"{seed}/{number}")) for number in range(users))
    return list(merge(*people, key=lambda event: event.at))


def _person(habits: Habits, user: str, days: int, chance: random.Random) -> Iterator[Event]:
    """One person with one session, which is never shut down."""
    eagerness = chance.expovariate(1.0) * habits.visits_per_day * 7 / (5 + 2 * habits.weekend_share)
    memory = round(chance.lognormvariate(math.log(habits.memory_median_bytes), habits.memory_sigma), -7)
    held, free_at = habits.empty_bytes, 0.0
    for begin, end in _visits(habits, eagerness, days, chance):
        if not free_at:
            yield Event(user, user, "start", begin, held)
        for busy, idle in _cells(habits, max(begin, free_at), end, chance):
            held = held if busy < (begin + end) / 2 else max(held, int(memory))
            yield Event(user, user, "busy", busy, held)
            yield Event(user, user, "idle", idle, held)
            free_at = idle
        free_at = free_at or begin


def _visits(habits: Habits, eagerness: float, days: int, chance: random.Random) -> list[tuple[float, float]]:
    """Beginnings and ends, in order; they may overlap."""
    found = []
    for day in range(days):
        for _ in range(_poisson(eagerness * (habits.weekend_share if day % 7 >= 5 else 1.0), chance)):
            begin = MONDAY + day * DAY + chance.triangular(habits.opens_at, habits.closes_at)
            found.append((begin, begin + chance.gammavariate(habits.visit_shape, habits.visit_scale_s)))
    return sorted(found)


def _cells(habits: Habits, now: float, end: float, chance: random.Random) -> Iterator[tuple[float, float]]:
    """Beginnings and ends, one after the other; the last of them may go on after its person has left."""
    while (now := now + chance.expovariate(1 / habits.pause_s)) < end:
        begin, now = now, now + _cell_s(habits, chance)
        yield begin, now


def _cell_s(habits: Habits, chance: random.Random) -> float:
    if chance.random() < habits.long_share:
        return chance.lognormvariate(math.log(habits.long_median_s), habits.long_sigma)
    return chance.expovariate(1 / habits.short_s)


def _poisson(mean: float, chance: random.Random) -> int:
    """How many, by Knuth's product of uniform numbers; fine for the small means of visits a day."""
    count, product = 0, chance.random()
    while product > math.exp(-mean):
        count, product = count + 1, product * chance.random()
    return count
