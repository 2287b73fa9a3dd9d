"""What a session has used lately, from the samples its node sends: how fast it grows, and how much it needs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RECENT_SECONDS = 45.0
"""Growth is judged by the samples of so long; long enough that one large array is not taken for a trend."""
FEWEST = 3
BLOCK_SECONDS = 600.0
BLOCKS = 144
"""A day of ten minutes each."""
BUSY_CORES = 0.2
"""More is work, though no cell may run: threads that go on in the background."""
TRICKLE_BYTES_PER_S = 2000.0
"""Less traffic to the outside is keep-alives."""


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
    _block_cpu: float = 0.0
    """The counter when the newest block began."""

    def add(self, sample: Sample) -> None:
        """Samples come in order; one of the same moment again changes nothing."""
        last = self.recent[-1] if self.recent else None
        if sample.at <= (last.at if last else self.since):
            return
        if last and _active(last, sample):
            self.active_at = sample.at
        self.recent.append(sample)
        while self.recent[0].at < sample.at - RECENT_SECONDS:
            self.recent.popleft()
        self._fill_block(sample)

    def interrupt(self, at: float) -> None:
        """Its pages are on their way: that its memory grows meanwhile means nothing."""
        self.recent.clear()
        self.since = at

    @property
    def growth_bytes_per_s(self) -> float:
        """The slope of the recent samples by least squares, in bytes per second; 0 while there are too few."""
        if len(self.recent) < FEWEST:
            return 0.0
        count, first = len(self.recent), self.recent[0].at
        times = [sample.at - first for sample in self.recent]
        sizes = [float(sample.memory_bytes) for sample in self.recent]
        middle, mean = sum(times) / count, sum(sizes) / count
        spread = sum((time - middle) ** 2 for time in times)
        return sum((time - middle) * (size - mean) for time, size in zip(times, sizes, strict=True)) / spread

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


def _active(before: Sample, after: Sample) -> bool:
    traffic = (after.network_bytes - before.network_bytes) / (after.at - before.at)
    return _cores(before, after) >= BUSY_CORES or traffic >= TRICKLE_BYTES_PER_S
