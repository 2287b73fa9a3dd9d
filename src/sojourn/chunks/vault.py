"""One owner's checkpoints in a store.

A checkpoint is visible when its manifest is, and that is written last, in one step, after everything before it is
safe from a power cut. Chunks are shared by all checkpoints of an owner. What is relied on without writing it
again is only what a whole manifest names: of a save that broke off, a power cut may have left empty files.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sojourn.chunks.backend import Backend
from sojourn.chunks.layout import SHORT, Layout, last
from sojourn.chunks.leases import Lease, Times, Watch, held, holder, wait_for_sweeps
from sojourn.chunks.manifest import CHUNK, ZERO_CHUNK, Body, Manifest, Plain, in_chunks
from sojourn.chunks.sealing import LEVEL, Seal, Unsealable
from sojourn.chunks.sweeping import Sweep, Swept
from sojourn.chunks.verifying import Needed, Progress, flaws, needed, problems
from sojourn.errors import Busy, Damaged, StoreFailed

_log = logging.getLogger(__name__)
_ZEROS = bytes(CHUNK)
_OTHERS = "See which checkpoints are whole: `sojourn checkpoints verify`."


@dataclass(frozen=True)
class ChunkRef:
    """A chunk that is in the store."""

    id: str
    """Empty: all zeros, and not stored."""
    size: int
    """Bytes, plain."""
    stored: int
    """Bytes written just now; 0 when the store had it."""


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
        self._known: set[str] = set()
        self._bad: set[str] = set()
        self._named_by: dict[str, set[str]] = {}

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def writing(self, checkpoint: str) -> Iterator[None]:
        """Within, chunks of this checkpoint can be written, and no sweep removes what it relies on.

        Waits for a sweep that is at work: a moment, or minutes if one was lost. Several processes may write for one
        checkpoint, each within a `writing` of its own. After a crash it ends by itself. Raises StoreFailed; Busy: this
        vault is at it already.
        """
        self._layout.checkpoint(checkpoint)
        if not self._saving.acquire(blocking=False):
            raise Busy(f"This vault is writing checkpoint {self._checkpoint}.", "Open another one for this.")
        try:
            self.backend.identity()
            key = f"{self._layout.leases}{checkpoint}.{holder()}"
            with held(Lease(self.backend, key, self._times, self._watch)) as lease:
                wait_for_sweeps(self.backend, self._layout, lease, self._times, self._watch)
                self._bad = {last(entry.key) for entry in self.backend.keys(self._layout.bad)}
                self._known = self.known_ids() - self._bad
                self._lease, self._checkpoint = lease, checkpoint
                yield
        finally:
            self._lease, self._checkpoint, self._known = None, "", set()
            self._saving.release()

    def write(self, plain: Plain) -> ChunkRef:
        """Only within `writing`; from any number of threads. Raises StoreFailed, also when the lease was lost."""
        if _is_zeros(plain):
            return ChunkRef(ZERO_CHUNK, len(plain), 0)
        self._required().require(self._times.dead_s)
        chunk = self._seal.name(plain)
        if chunk in self._known:
            return ChunkRef(chunk, len(plain), 0)
        body = self._seal.close(plain, chunk)
        self.backend.put(self._layout.chunk(chunk), body)
        self._known.add(chunk)
        if chunk in self._bad:
            self.backend.delete(self._layout.bad + chunk)
        return ChunkRef(chunk, len(plain), len(body))

    def write_body(self, pieces: Iterable[Plain], tell: Callable[[ChunkRef], None] | None = None) -> Body:
        """Write a stream, in pieces of any size. `tell` hears of each chunk once it is stored."""
        chunks, size = [], 0
        for plain in in_chunks(pieces):
            written = self.write(plain)
            chunks.append(written.id)
            size += written.size
            if tell:
                tell(written)
        return Body(size, tuple(chunks))

    def publish(self, manifest: Manifest) -> None:
        """Make a checkpoint visible, within its `writing`. Twice is once.

        Raises StoreFailed: the lease was lost, or the store failed; then nothing is visible, and never will be
        unless the store failed just as it answered.
        """
        lease = self._required()
        if manifest.id != self._checkpoint:
            raise StoreFailed(f"Checkpoint {manifest.id} can't be published while {self._checkpoint} is written.")
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

    def known_ids(self) -> set[str]:
        """Every chunk that a whole checkpoint of this owner names. One manifest is read for each, once."""
        return self._named(strict=False)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, chunk: str, size: int | None = None, *, of: str = "") -> bytes:
        """The plain bytes. `size`: how many there must be; of zeros, CHUNK unless told. `of`: what needs them, for the
        message ("memory of task 1 of checkpoint …"). Raises Damaged, StoreFailed."""
        if chunk == ZERO_CHUNK:
            return bytes(CHUNK if size is None else size)
        try:
            plain = self._seal.open(self.backend.get(self._layout.chunk(chunk)), chunk)
        except KeyError:
            self.backend.require_there()
            flaw = "missing"
        except Unsealable as wrong:
            flaw = str(wrong)
        else:
            if size in (None, len(plain)):
                return plain
            flaw = f"{len(plain)} bytes long, not {size}"
        self._note_bad(chunk)
        raise Damaged(f"Chunk {chunk[:SHORT]} is {flaw}" + (f"; it is part of {of}." if of else "."), _OTHERS)

    def read_body(self, body: Body, *, of: str = "") -> Iterator[bytes]:
        for chunk, size in body.spans():
            yield self.read(chunk, size, of=of)

    def manifest(self, checkpoint: str) -> Manifest:
        """Raises Damaged (there is none under this key, or it does not open), StoreFailed."""
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
        """Problems, each naming the chunk and what uses it; empty: whole. `deep`: every chunk is read and opened, not
        only looked for. `progress(done, all)`: chunks read. Raises StoreFailed."""
        try:
            manifest = self.manifest(checkpoint)
        except Damaged as wrong:
            return [wrong.message]
        chunks = needed(manifest)
        found = flaws(chunks, self._flaw, progress) if deep else self._absences(chunks)
        return problems(manifest, found)

    # ── removing ─────────────────────────────────────────────────────────────────────────────────────────────

    def drop(self, checkpoint: str) -> None:
        """Its chunks go with the next sweep. No error when there is none."""
        key = self._layout.checkpoint(checkpoint)
        if any(entry.key == key and entry.size for entry in self.backend.keys(key)):
            self.backend.delete(key)

    def sweep(self, dry_run: bool = False) -> Swept:
        """Remove the chunks that no checkpoint names, unless somebody writes. Raises StoreFailed; Damaged: a manifest
        can't be read, so nobody knows which chunks it names."""
        self.backend.identity()
        named = lambda: self._named(strict=True)  # noqa: E731
        sweep = Sweep(self.backend, self._layout, named, self._times, self._watch)
        return sweep.rehearse() if dry_run else sweep.run()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _required(self) -> Lease:
        if self._lease is None:
            raise StoreFailed("Chunks can only be written within `writing`, which keeps sweeps away.")
        return self._lease

    def _is_published(self, manifest: Manifest) -> bool:
        """Whether it was we: the answer to a first try may have been lost."""
        try:
            return self.manifest(manifest.id).to_bytes() == manifest.to_bytes()
        except Damaged:
            return False

    def _named(self, strict: bool) -> set[str]:
        """`strict`: Damaged when a manifest can't be read; else what it names is not relied on."""
        named: dict[str, set[str]] = {}
        for checkpoint in self.checkpoints():
            try:
                named[checkpoint] = self._named_by.get(checkpoint) or self.manifest(checkpoint).chunks()
            except Damaged as wrong:
                if strict and self.backend.has(self._layout.checkpoint(checkpoint)):  # else: dropped meanwhile
                    raise
                _log.warning("%s", wrong.message)
        self._named_by = named
        return set().union(*named.values())

    def _note_bad(self, chunk: str) -> None:
        """So that the next save with the same content writes it anew, which mends every checkpoint that names it."""
        with contextlib.suppress(StoreFailed):
            self.backend.put(self._layout.bad + chunk, b"")

    def _flaw(self, one: Needed) -> str:
        chunk, size = one
        try:
            plain = self.read(chunk, size)
        except Damaged as wrong:
            return wrong.message.partition(" is ")[2].rstrip(".")
        return "" if self._seal.name(plain) == chunk else "not what its name says"

    def _absences(self, chunks: set[Needed]) -> dict[Needed, str]:
        keys = {self._layout.chunk(chunk): (chunk, size) for chunk, size in chunks}
        if absent := self.backend.absent(self._layout.chunks, keys):
            self.backend.require_there()
        return {keys[key]: "missing" for key in absent}


def _sealed_as(checkpoint: str) -> str:
    return f"checkpoint {checkpoint}"


def _is_zeros(plain: Plain) -> bool:
    """The first bytes tell nearly always; a copy is made for the rest, since views compare slowly."""
    return bytes(plain[:64]) == _ZEROS[: min(64, len(plain))] and bytes(plain) == _ZEROS[: len(plain)]
