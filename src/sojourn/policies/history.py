"""What a session has used lately, from the samples its node sends: how fast it grows, and how much it needs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median_low

RECENT_SECONDS = 45.0
"""Growth is judged by the samples of so long; long enough that one large array is not taken for a trend."""
FEWEST = 3
NEWEST = 6
"""So many samples show a growth that has just begun, if most of the steps between them agree on it."""
SHORTEST_SECONDS = 1.0
"""A step is taken to have lasted so long at least: what two heartbeats at once differ by is no pace."""
BLOCK_SECONDS = 600.0
BLOCKS = 144
"""A day of ten minutes each."""
JUDGED_SECONDS = 5.0
"""Work and talk are averaged over so long at least: a short burst is neither."""
BUSY_CORES = 0.2
"""More is work, though no cell may run: threads that go on in the background."""
TRICKLE_BYTES_PER_S = 2000.0
"""Less traffic to the outside is keep-alive."""


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    memory_bytes: int
    cpu_seconds: float
    network_bytes: int


@dataclass(slots=True)
class Block:
    """Ten minutes in short."""

    began_at: float
    peak_bytes: int
    cores: float = 0.0


@dataclass(slots=True)
class History:
    """Of one session on one node: its counters begin anew with each."""

    node: str
    recent: deque[Sample] = field(default_factory=deque)
    blocks: deque[Block] = field(default_factory=lambda: deque(maxlen=BLOCKS))
    since: float = float("-inf")
    """Samples from before are not looked at."""
    active_at: float | None = None
    """When it was last seen to work or to speak with the outside."""
    _judged: Sample | None = None
    """Up to which that is known."""
    _block_cpu: float = 0.0
    """The counter when the newest block began."""

    def add(self, sample: Sample) -> None:
        """Samples come in order; one of the same moment again changes nothing."""
        last = self.recent[-1] if self.recent else None
        if sample.at <= (last.at if last else self.since):
            return
        self._judge(sample)
        self.recent.append(sample)
        while self.recent[0].at < sample.at - RECENT_SECONDS:
            self.recent.popleft()
        self._fill_block(sample)

    def interrupt(self, at: float) -> None:
        """Its pages are on their way: that its memory grows meanwhile means nothing."""
        self.recent.clear()
        self._judged, self.since = None, at

    @property
    def growth_bytes_per_s(self) -> float:
        """In bytes per second; 0 while there are too few samples. The trend of all the recent ones, or the pace of the
        newest where that is greater: what was there before a cell began to grow must not make it seem slow."""
        return max(self._trend(), self._pace()) if len(self.recent) >= FEWEST else 0.0

    def _trend(self) -> float:
        """The slope of the recent samples by least squares."""
        count, first = len(self.recent), self.recent[0].at
        times = [sample.at - first for sample in self.recent]
        sizes = [float(sample.memory_bytes) for sample in self.recent]
        middle, mean = sum(times) / count, sum(sizes) / count
        spread = sum((time - middle) ** 2 for time in times)
        return sum((time - middle) * (size - mean) for time, size in zip(times, sizes, strict=True)) / spread

    def _pace(self) -> float:
        """Of the newest steps the one in the middle, so that one large array among them counts nothing."""
        steps = pairwise(list(self.recent)[-NEWEST:])
        return median_low([_growth(before, after) for before, after in steps])

    @property
    def cores_used(self) -> float:
        """Over the recent samples."""
        return _cores(self.recent[0], self.recent[-1]) if len(self.recent) > 1 else 0.0

    @property
    def peak_bytes(self) -> int:
        return max((block.peak_bytes for block in self.blocks), default=0)

    @property
    def busiest_cores(self) -> float:
        return max((block.cores for block in self.blocks), default=0.0)

    @property
    def watched_s(self) -> float:
        return self.recent[-1].at - self.blocks[0].began_at if self.recent else 0.0

    def _judge(self, sample: Sample) -> None:
        before = self._judged
        if before and sample.at < before.at + JUDGED_SECONDS:
            return
        if before and _active(before, sample):
            self.active_at = sample.at
        self._judged = sample

    def _fill_block(self, sample: Sample) -> None:
        block = self.blocks[-1] if self.blocks else None
        if block is None or sample.at >= block.began_at + BLOCK_SECONDS:
            self._block_cpu = sample.cpu_seconds
            self.blocks.append(Block(sample.at, sample.memory_bytes))
            return
        block.peak_bytes = max(block.peak_bytes, sample.memory_bytes)
        if sample.at > block.began_at:
            block.cores = max(0.0, sample.cpu_seconds - self._block_cpu) / (sample.at - block.began_at)


def _cores(before: Sample, after: Sample) -> float:
    return max(0.0, after.cpu_seconds - before.cpu_seconds) / (after.at - before.at)


def _growth(before: Sample, after: Sample) -> float:
    return (after.memory_bytes - before.memory_bytes) / max(after.at - before.at, SHORTEST_SECONDS)


def _active(before: Sample, after: Sample) -> bool:
    traffic = (after.network_bytes - before.network_bytes) / (after.at - before.at)
    return _cores(before, after) >= BUSY_CORES or traffic >= TRICKLE_BYTES_PER_S
