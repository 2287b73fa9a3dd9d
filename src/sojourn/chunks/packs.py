"""Packs: sealed chunks one after the other in objects of some MiB.

A chunk alone would be a small object: a folder of them is slow to make, to look through and to remove, and a bucket is
paid by the request. Nothing in a pack says what is where; manifests do.
"""

from __future__ import annotations

import mmap
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sojourn.chunks.manifest import CHUNK, Manifest, Plain, Spot
from sojourn.chunks.sealing import EXTRA_BYTES, Seal
from sojourn.errors import StoreFailed

PACK = 8 << 20
"""Bytes at most."""
_WORN = 0.5
"""A pack of which checkpoints still use a smaller part is not relied on any more: what it holds is written anew when it
comes again. So no more than twice of what a checkpoint needs is kept for it, and packs need never be rewritten."""


def unworn(manifests: Iterable[Manifest]) -> dict[str, Spot]:
    """The chunks that a new checkpoint may rely on, given all whole ones, the oldest first. Where the same chunk lies
    twice, the newer is the one."""
    sizes: dict[str, int] = {}
    spots: dict[str, Spot] = {}
    used: set[Spot] = set()
    for manifest in manifests:
        sizes |= manifest.packs
        spots |= manifest.spots
        used.update(manifest.spots.values())
    worn = {pack for pack, size in live_bytes(used).items() if size < _WORN * sizes[pack]}
    return {chunk: spot for chunk, spot in spots.items() if spot.pack not in worn}


def live_bytes(spots: Collection[Spot]) -> Mapping[str, int]:
    """Pack -> bytes of the spots in it."""
    found: Counter[str] = Counter()
    for spot in set(spots):
        found[spot.pack] += spot.length
    return found


@dataclass
class _Pack:
    name: str = field(default_factory=lambda: secrets.token_hex(12))
    body: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, PACK))
    """Begins at a page, so that a disk can be written straight from it."""
    used: int = 0

    def has_room(self, plain: Plain) -> bool:
        return self.used + len(plain) + EXTRA_BYTES <= PACK

    def add(self, seal: Seal, plain: Plain, chunk: str) -> Spot:
        with memoryview(self.body) as whole, whole[self.used :] as room:
            spot = Spot(self.name, self.used, seal.close_into(plain, chunk, room))
        self.used += spot.length
        return spot

    def begin_anew(self) -> None:
        """Memory that has been touched before costs less than fresh memory."""
        self.name, self.used = secrets.token_hex(12), 0


class Packing:
    """The packs that one checkpoint's new chunks go into. Safe from many threads; each fills one of its own."""

    def __init__(self, seal: Seal, put: Callable[[str, memoryview], None]) -> None:
        """`put(pack, body)`: into the store; raises StoreFailed."""
        self._seal, self._put = seal, put
        self._open: list[_Pack] = []
        self._lock = threading.Lock()
        self._failed: StoreFailed | None = None
        self.sizes: dict[str, int] = {}
        """Of those that are in the store: pack -> bytes."""

    def add(self, plain: Plain, chunk: str) -> Spot:
        """In the store after `settle`. `plain`: CHUNK bytes at most. Raises StoreFailed, from then on always."""
        assert len(plain) <= CHUNK
        with self._lock:
            pack = self._open.pop() if self._open else _Pack()
        if not pack.has_room(plain):
            self._store(pack)
        spot = pack.add(self._seal, plain, chunk)
        with self._lock:
            self._open.append(pack)
        return spot

    def settle(self) -> None:
        """Put what is still open. Raises StoreFailed if anything could not be put."""
        with self._lock:
            left, self._open = self._open, []
        for pack in left:
            self._store(pack)
        if self._failed:
            raise self._failed

    def _store(self, pack: _Pack) -> None:
        if self._failed:
            raise self._failed
        try:
            with memoryview(pack.body) as whole, whole[: pack.used] as body:
                self._put(pack.name, body)
        except StoreFailed as failed:
            self._failed = failed  # chunks that were taken for written are not
            raise
        self.sizes[pack.name] = pack.used
        pack.begin_anew()
