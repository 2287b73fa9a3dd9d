"""Removing packs that no checkpoint needs, beside writers. Why this is safe, `leases` says.

A pack goes as a whole: what a checkpoint still needs of one keeps the rest of it, until what is worn is written anew by
a later save (see `packs`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sojourn.chunks.backend import Backend, Entry
from sojourn.chunks.layout import Layout, last
from sojourn.chunks.leases import Lease, Times, Watch, bury, held, holder, others
from sojourn.chunks.manifest import Manifest
from sojourn.chunks.packs import live_bytes

_AT_ONCE = 200
"""Packs removed between two looks for writers."""


@dataclass(frozen=True)
class Swept:
    """What a sweep removed; with `dry_run`, what it would have."""

    packs: int = 0
    bytes: int = 0
    used_bytes: int = 0
    """What checkpoints need."""
    slack_bytes: int = 0
    """What else stays: in packs that checkpoints need a part of, or because somebody writes."""
    busy: int = 0
    """How many writers were at work, for which the sweep gave up: before it removed anything, or on the way."""


class Sweep:
    """One sweep. `whole`: what gives all whole checkpoints."""

    def __init__(
        self, backend: Backend, layout: Layout, whole: Callable[[], Iterable[Manifest]], times: Times, watch: Watch
    ) -> None:
        self._backend, self._layout, self._whole = backend, layout, whole
        self._times, self._watch = times, watch
        self._there = self._used = 0
        """Bytes of all packs, and of what checkpoints need."""

    def rehearse(self) -> Swept:
        """Removes nothing, and leaves no mark."""
        busy = sum(1 for _ in self._backend.keys(self._layout.leases))
        doomed = self._judged()
        return self._swept(len(doomed), sum(entry.size for entry in doomed), busy)

    def run(self) -> Swept:
        """Raises StoreFailed, and Damaged when a manifest can't be read: nobody knows which packs it needs."""
        mark = Lease(self._backend, self._layout.sweeps + holder(), self._times, self._watch)
        with held(mark):
            if busy := self._writers(mark):
                return Swept(busy=busy)
            swept = self._remove(mark, self._judged())
            self._backend.tidy()
            return swept

    def _writers(self, mark: Lease) -> int:
        """How many are alive. If none is, the dead are buried."""
        writers = others(self._backend, self._layout.leases, mark, self._times)
        if not writers.alive:
            for lease in (*writers.silent, *writers.ended):
                bury(self._backend, self._layout, lease)
        return len(writers.alive)

    def _judged(self) -> list[Entry]:
        """The packs to remove."""
        live = live_bytes({spot for manifest in self._whole() for spot in manifest.spots.values()})
        there = list(self._backend.keys(self._layout.packs))
        self._there, self._used = sum(entry.size for entry in there), sum(live.values())
        return [entry for entry in there if last(entry.key) not in live]

    def _remove(self, mark: Lease, doomed: list[Entry]) -> Swept:
        packs = size = 0
        bad = self._layout.found_bad(self._backend)
        for some in _batches(doomed):
            if busy := self._writers(mark):
                return self._swept(packs, size, busy)
            mark.require(self._times.permit_s)
            self._backend.delete(*(entry.key for entry in some))
            self._backend.delete(*(key for entry in some for key in bad.get(last(entry.key), ())))
            packs, size = packs + len(some), size + sum(entry.size for entry in some)
        return self._swept(packs, size)

    def _swept(self, packs: int, size: int, busy: int = 0) -> Swept:
        return Swept(packs, size, self._used, max(self._there - size - self._used, 0), busy)


def _batches(entries: list[Entry]) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while some := list(itertools.islice(rest, _AT_ONCE)):
        yield some
