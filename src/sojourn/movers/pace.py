"""When to pack what goes over a link: a law of what was measured on the way. No I/O and no clock.

Two ways lead over a link: plain and packed (compressed). Each piece that has gone says what its way cost: the seconds
for which its sender was busy with it, packing it and waiting for the link to take it. On a slow link nearly all of that
is waiting, and packing makes it less; on a quick one it only adds. So the next piece goes the way that has been cheaper
by the byte, and the dearer way is tried again, for the link and what is sent may change, but only so often that trying
adds no more than a fiftieth.
"""

from __future__ import annotations

TRYING = 0.02
"""What trying the dearer way may add, as a share of the whole."""
TRIAL_BYTES = 10**6
"""One try. Less says nothing: a piece may disappear in a buffer, or its sender may have waited for a core."""
PACKING_COUNTS = 1.15
"""Packing must gain a little more than it costs: the cores of both sides are wanted elsewhere."""
_MEMORY_BYTES = 8 * 10**6
"""What a way costs is what it cost for about so many bytes."""
_NO_TIME = 1e-12


class Pace:
    """Of one link and one direction. Several threads may share it: what is lost in a race is one measurement."""

    def __init__(self) -> None:
        self._ways = {True: Way(), False: Way()}
        """Packed and plain."""
        self._trying: bool | None = True
        self._tried = 0
        self._untried = 0
        """Bytes since the last try ended."""
        self._patience = 0.0
        """So many may go until the next one."""

    def packs(self) -> bool:
        """Whether to pack the next piece."""
        return self._cheaper if self._trying is None else self._trying

    def took(self, packed: bool, size: int, seconds: float) -> None:
        """A piece of so many bytes, before packing, has gone. Packed: also one that turned out not to be worth it."""
        self._ways[packed].add(size, seconds * (PACKING_COUNTS if packed else 1))
        if self._trying is None:
            self._untried += size
            if self._untried > self._patience:
                self._try(not self._cheaper)
        elif packed == self._trying:
            self._tried += size
            if self._tried >= TRIAL_BYTES:
                self._judge()

    @property
    def _cheaper(self) -> bool:
        return self._ways[True].cost < self._ways[False].cost

    def _try(self, packed: bool) -> None:
        self._ways[packed] = Way()
        self._trying, self._tried = packed, 0

    def _judge(self) -> None:
        """After the first try the other way has its own."""
        other = not self._trying
        if not self._ways[other].bytes:
            self._try(other)
            return
        cheaper, dearer = sorted(way.cost for way in self._ways.values())
        self._trying, self._untried = None, 0
        self._patience = TRIAL_BYTES * (dearer / cheaper - 1) / TRYING


class Way:
    """What has gone one way, the latest most."""

    def __init__(self) -> None:
        self.bytes = 0.0
        self._seconds = 0.0

    @property
    def cost(self) -> float:
        """Seconds by byte."""
        return max(self._seconds / self.bytes, _NO_TIME) if self.bytes else _NO_TIME

    def add(self, size: int, seconds: float) -> None:
        kept = max(0.0, 1 - size / _MEMORY_BYTES)
        self.bytes = self.bytes * kept + size
        self._seconds = self._seconds * kept + seconds
