"""One owner's checkpoints in a store.

A checkpoint is visible when its manifest is, and that is written last, in one step, after everything before it is
safe from a power cut. Chunks are shared by all checkpoints of an owner. What is relied on without writing it
again is only what a whole manifest names: of a save that broke off, a power cut may have left empty packs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from sojourn.chunks.backend import Backend
from sojourn.chunks.layout import SHORT, Layout, last
from sojourn.chunks.leases import Lease, Times, Watch, held, holder, wait_for_sweeps
from sojourn.chunks.manifest import CHUNK, ZERO_CHUNK, Body, Manifest, Plain, Spot, in_chunks
from sojourn.chunks.packs import Packing, unworn
from sojourn.chunks.sealing import LEVEL, Seal, Unsealable
from sojourn.chunks.sweeping import Sweep, Swept
from sojourn.chunks.verifying import Needed, Progress, flaws, needed, problems
from sojourn.errors import Busy, Damaged, StoreFailed

_log = logging.getLogger(__name__)
_ZEROS = bytes(CHUNK)
_OTHERS = "See which checkpoints are whole: `sojourn checkpoints verify`."


@dataclass(frozen=True)
class ChunkRef:
    """A chunk that is in the store, or on its way there."""

    id: str
    """Empty: all zeros, and not stored."""
    size: int
    """Bytes, plain."""
    stored: int
    """Bytes that it takes there; 0 when the store had it."""


class Vault:
    """Safe from many threads; saves one checkpoint at a time."""

    def __init__(
        self,
        backend: Backend,
        key: bytes,
        *,
        level: int = LEVEL,
        times: Times | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`key`: the owner's, 32 bytes; `level`: zstd's. Raises Invalid."""
        self.backend = backend
        self._seal = Seal(key, level)
        self._layout = Layout(self._seal.owner)
        self._times, self._watch = times or Times(), watch or Watch()
        self._saving = threading.Lock()
        self._lease: Lease | None = None
        self._checkpoint = ""
        self._packing: Packing | None = None
        self._known: dict[str, Spot] = {}
        """What a new checkpoint may rely on."""
        self._sizes: dict[str, int] = {}
        """Of the packs that it lies in."""
        self._manifests: dict[str, Manifest] = {}
        """Whole ones that have been read."""

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def writing(self, checkpoint: str) -> Iterator[None]:
        """Within, chunks of this checkpoint can be written, and no sweep removes what it relies on.

        Waits for a sweep that is at work: a moment, or minutes if one was lost. After a crash it ends by itself. Raises
        StoreFailed; Busy: this vault is at it already.
        """
        self._layout.checkpoint(checkpoint)
        if not self._saving.acquire(blocking=False):
            raise Busy(f"This vault is writing checkpoint {self._checkpoint}.", "Open another one for this.")
        try:
            self.backend.identity()
            key = f"{self._layout.leases}{checkpoint}.{holder()}"
            with held(Lease(self.backend, key, self._times, self._watch)) as lease:
                wait_for_sweeps(self.backend, self._layout, lease, self._times, self._watch)
                self._known, self._sizes = self._reliable()
                self._packing = Packing(self._seal, self._put_pack)
                self._lease, self._checkpoint = lease, checkpoint
                yield
        finally:
            self._lease, self._packing, self._checkpoint, self._known = None, None, "", {}
            self._saving.release()

    def write(self, plain: Plain) -> ChunkRef:
        """A chunk; only within `writing`, from any number of threads. It is on its way when this returns, and in the
        store when `publish` does. Raises StoreFailed, also when the lease was lost, or an earlier chunk."""
        if _is_zeros(plain):
            return ChunkRef(ZERO_CHUNK, len(plain), 0)
        lease, packing = self._required()
        lease.require(self._times.dead_s)
        chunk = self._seal.name(plain)
        if chunk in self._known:
            return ChunkRef(chunk, len(plain), 0)
        spot = self._known[chunk] = packing.add(plain, chunk)
        return ChunkRef(chunk, len(plain), spot.length)

    def write_body(self, pieces: Iterable[Plain], tell: Callable[[ChunkRef], None] | None = None) -> Body:
        """Write a stream, in pieces of any size. `tell` hears of each chunk once it is on its way."""
        chunks, size = [], 0
        for plain in in_chunks(pieces):
            written = self.write(plain)
            chunks.append(written.id)
            size += written.size
            if tell:
                tell(written)
        return Body(size, tuple(chunks))

    def publish(self, manifest: Manifest) -> None:
        """Make a checkpoint visible, within its `writing`, which knows where its chunks lie. Twice is once.

        Raises StoreFailed: the lease was lost, or the store failed; then nothing is visible, and never will be
        unless the store failed just as it answered.
        """
        lease, packing = self._required()
        if manifest.id != self._checkpoint:
            raise StoreFailed(f"Checkpoint {manifest.id} can't be published while {self._checkpoint} is written.")
        packing.settle()
        manifest = self._located(manifest, packing)
        body = self._seal.close(manifest.to_bytes(), _sealed_as(manifest.id))
        self.backend.settle()
        lease.touch()
        key = self._layout.checkpoint(manifest.id)
        if not self.backend.create(key, body) and not self._is_published(manifest):
            raise StoreFailed(
                f"Checkpoint {manifest.id} can't be published: its key in the store is taken. It was given up for dead "
                "by a sweep, or another has its id.",
                "Save again.",
            )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, manifest: Manifest, chunk: str, size: int, *, of: str = "") -> bytes:
        """The plain bytes of a chunk of a whole checkpoint; `size`: how many there must be. `of`: what needs them, for
        the message ("memory of task 1"). Raises Damaged, StoreFailed."""
        if chunk == ZERO_CHUNK:
            return bytes(size)
        spot = manifest.spots[chunk]
        plain, flaw = self._open(spot, chunk, size)
        if plain is None:
            self._note_bad(spot)
            plain = self._open_elsewhere(spot, chunk, size)
        if plain is None:
            what = f"it is part of {of + ' of ' if of else ''}checkpoint {manifest.id}"
            raise Damaged(f"Chunk {chunk[:SHORT]} is {flaw}; {what}.", _OTHERS)
        return plain

    def read_body(self, manifest: Manifest, body: Body, *, of: str = "") -> Iterator[bytes]:
        for chunk, size in body.spans():
            yield self.read(manifest, chunk, size, of=of)

    def manifest(self, checkpoint: str) -> Manifest:
        """A whole checkpoint. Raises Damaged (there is none under this key, or it does not open), StoreFailed."""
        try:
            body = self.backend.get(self._layout.checkpoint(checkpoint))
        except KeyError:
            self.backend.require_there()
            body = b""
        if not body:
            raise Damaged(f"Checkpoint {checkpoint} is missing: this owner has none of that id in the store.", _OTHERS)
        try:
            return Manifest.from_bytes(self._seal.open(body, _sealed_as(checkpoint)))
        except Unsealable as wrong:
            raise Damaged(f"The manifest of checkpoint {checkpoint} is {wrong}.", _OTHERS) from wrong

    def checkpoints(self) -> list[str]:
        """The ids of all whole checkpoints."""
        return sorted(self._layout.published(self.backend))

    def verify(self, checkpoint: str, deep: bool = True, progress: Progress | None = None) -> list[str]:
        """Problems, each naming the chunk and what uses it; empty: whole. `deep`: every chunk is read and opened, else
        only its packs are looked for. `progress(done, all)`: chunks read. Raises StoreFailed."""
        try:
            manifest = self.manifest(checkpoint)
        except Damaged as wrong:
            return [wrong.message]
        chunks = needed(manifest)
        if not deep:
            absent = self._absent_packs(manifest)
            chunks = {one for one in chunks if manifest.spots[one[0]].pack in absent}
        return problems(manifest, flaws(chunks, lambda one: self._flaw(manifest, one), progress))

    # ── removing ─────────────────────────────────────────────────────────────────────────────────────────────

    def drop(self, checkpoint: str) -> None:
        """What only it needed goes with the next sweep. No error when there is none."""
        key = self._layout.checkpoint(checkpoint)
        if any(entry.key == key and entry.size for entry in self.backend.keys(key)):
            self.backend.delete(key)

    def sweep(self, dry_run: bool = False) -> Swept:
        """Remove the packs that no checkpoint needs, unless somebody writes. Raises StoreFailed; Damaged: a manifest
        can't be read, so nobody knows which packs it needs."""
        self.backend.identity()
        whole = lambda: self._whole(strict=True)  # noqa: E731
        sweep = Sweep(self.backend, self._layout, whole, self._times, self._watch)
        return sweep.rehearse() if dry_run else sweep.run()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _required(self) -> tuple[Lease, Packing]:
        if self._lease is None or self._packing is None:
            raise StoreFailed("Chunks can only be written within `writing`, which keeps sweeps away.")
        return self._lease, self._packing

    def _put_pack(self, pack: str, body: memoryview) -> None:
        self.backend.put(self._layout.packs + pack, body)

    def _reliable(self) -> tuple[dict[str, Spot], dict[str, int]]:
        """The chunks that need not be written again, and the sizes of their packs."""
        whole = self._whole(strict=False)
        bad = {last(mark) for marks in self._layout.found_bad(self.backend).values() for mark in marks}
        known = {chunk: spot for chunk, spot in unworn(whole).items() if last(self._layout.bad(spot)) not in bad}
        return known, {pack: size for manifest in whole for pack, size in manifest.packs.items()}

    def _located(self, manifest: Manifest, packing: Packing) -> Manifest:
        """With the places of its chunks."""
        try:
            spots = {chunk: self._known[chunk] for chunk in manifest.chunks()}
        except KeyError as wrong:
            raise StoreFailed(f"Checkpoint {manifest.id} names chunk {wrong}, which was never written.") from wrong
        sizes = self._sizes | packing.sizes
        packs = {pack: sizes[pack] for pack in sorted({spot.pack for spot in spots.values()})}
        return replace(manifest, spots=spots, packs=packs)

    def _is_published(self, manifest: Manifest) -> bool:
        """Whether it was we: the answer to a first try may have been lost."""
        try:
            return self.manifest(manifest.id).to_bytes() == manifest.to_bytes()
        except Damaged:
            return False

    def _whole(self, strict: bool) -> list[Manifest]:
        """All whole checkpoints, the oldest first. `strict`: Damaged when a manifest can't be read; else it is left
        out: nothing that it names is relied on."""
        found: dict[str, Manifest] = {}
        for checkpoint in self.checkpoints():
            try:
                found[checkpoint] = self._manifests.get(checkpoint) or self.manifest(checkpoint)
            except Damaged as wrong:
                if strict and self.backend.has(self._layout.checkpoint(checkpoint)):  # else: dropped meanwhile
                    raise
                _log.warning("%s", wrong.message)
        self._manifests = found
        return sorted(found.values(), key=lambda manifest: manifest.created_at)

    def _open(self, spot: Spot, chunk: str, size: int) -> tuple[bytes | None, str]:
        """What lies there, or what is wrong with it."""
        try:
            body = self.backend.part(self._layout.packs + spot.pack, spot.offset, spot.length)
            plain = self._seal.open(body, chunk)
        except KeyError:
            self.backend.require_there()
            return None, "missing"
        except Unsealable as wrong:
            return None, str(wrong)
        return (plain, "") if len(plain) == size else (None, f"{len(plain)} bytes long, not {size}")

    def _open_elsewhere(self, bad: Spot, chunk: str, size: int) -> bytes | None:
        """A later checkpoint may have brought the same chunk again."""
        for manifest in reversed(self._whole(strict=False)):
            spot = manifest.spots.get(chunk, bad)
            if spot != bad:
                plain, _ = self._open(spot, chunk, size)
                if plain is not None:
                    return plain
        return None

    def _note_bad(self, spot: Spot) -> None:
        """So that the next save with the same content writes it anew, which mends every checkpoint that names it."""
        with contextlib.suppress(StoreFailed):
            self.backend.put(self._layout.bad(spot), b"")

    def _flaw(self, manifest: Manifest, one: Needed) -> str:
        chunk, size = one
        try:
            plain = self.read(manifest, chunk, size)
        except Damaged as wrong:
            return wrong.message.partition(" is ")[2].partition(";")[0]
        return "" if self._seal.name(plain) == chunk else "not what its name says"

    def _absent_packs(self, manifest: Manifest) -> set[str]:
        absent = self.backend.absent(self._layout.packs, [self._layout.packs + pack for pack in manifest.packs])
        if absent:
            self.backend.require_there()
        return {last(key) for key in absent}


def _sealed_as(checkpoint: str) -> str:
    return f"checkpoint {checkpoint}"


def _is_zeros(plain: Plain) -> bool:
    """The first bytes tell nearly always; a copy is made for the rest, since views compare slowly."""
    return bytes(plain[:64]) == _ZEROS[: min(64, len(plain))] and bytes(plain) == _ZEROS[: len(plain)]
