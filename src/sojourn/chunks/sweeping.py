"""Removing chunks that no checkpoint names, beside writers. Why this is safe, `leases` says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sojourn.chunks.backend import Backend, Entry
from sojourn.chunks.layout import Layout, last
from sojourn.chunks.leases import Lease, Times, Watch, bury, held, holder, others

_AT_ONCE = 200
"""Chunks removed between two looks for writers."""


@dataclass(frozen=True)
class Swept:
    """What a sweep removed; with `dry_run`, what it would have."""

    chunks: int = 0
    bytes: int = 0
    left: int = 0
    """Chunks that stay."""
    busy: int = 0
    """How many writers were at work, for which the sweep gave up: before it removed anything, or on the way."""


class Sweep:
    """One sweep. `named`: what gives the ids of all chunks that whole checkpoints name."""

    def __init__(
        self, backend: Backend, layout: Layout, named: Callable[[], set[str]], times: Times, watch: Watch
    ) -> None:
        self._backend, self._layout, self._named = backend, layout, named
        self._times, self._watch = times, watch

    def rehearse(self) -> Swept:
        """Removes nothing, and leaves no mark."""
        busy = sum(1 for _ in self._backend.keys(self._layout.leases))
        doomed, left = self._judged()
        return Swept(len(doomed), sum(entry.size for entry in doomed), left, busy)

    def run(self) -> Swept:
        """Raises StoreFailed, and Damaged when a manifest can't be read: nobody knows which chunks it names."""
        mark = Lease(self._backend, self._layout.sweeps + holder(), self._times, self._watch)
        with held(mark):
            if busy := self._writers(mark):
                return Swept(left=sum(1 for _ in self._backend.keys(self._layout.chunks)), busy=busy)
            doomed, left = self._judged()
            swept = self._remove(mark, doomed, left)
            self._backend.tidy()
            return swept

    def _writers(self, mark: Lease) -> int:
        """How many are alive. If none is, the dead are buried."""
        writers = others(self._backend, self._layout.leases, mark, self._times)
        if not writers.alive:
            for lease in (*writers.silent, *writers.ended):
                bury(self._backend, self._layout, lease)
        return len(writers.alive)

    def _judged(self) -> tuple[list[Entry], int]:
        """The chunks to remove, and how many stay."""
        named = self._named()
        doomed, left = [], 0
        for entry in self._backend.keys(self._layout.chunks):
            if last(entry.key) in named:
                left += 1
            else:
                doomed.append(entry)
        return doomed, left

    def _remove(self, mark: Lease, doomed: list[Entry], left: int) -> Swept:
        chunks = size = 0
        bad = {entry.key for entry in self._backend.keys(self._layout.bad)}
        for some in _batches(doomed):
            if busy := self._writers(mark):
                return Swept(chunks, size, left + len(doomed) - chunks, busy)
            mark.require(self._times.permit_s)
            self._backend.delete(*(entry.key for entry in some))
            self._backend.delete(*(key for key in (self._layout.bad + last(entry.key) for entry in some) if key in bad))
            chunks, size = chunks + len(some), size + sum(entry.size for entry in some)
        return Swept(chunks, size, left)


def _batches(entries: list[Entry]) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while some := list(itertools.islice(rest, _AT_ONCE)):
        yield some
