"""What a checkpoint consists of, and how a stream or a task's memory is cut into chunks.

As bytes a manifest is the length of its head (4 bytes, big-endian), the head (JSON, in which bodies and runs say only
how many chunks they have), the ids of all chunks in the head's order, 32 bytes each (thirty-two zeros stand for a chunk
of zeros), and for each id, in the order in which they first appear, where the chunk lies: the number of its pack in the
head, its offset there and its length, 4 bytes each.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from sojourn.errors import Damaged

CHUNK = 256 * 1024
"""Bytes. Successive checkpoints share a chunk if none of its 64 pages changed."""
FORMAT = 1
"""Of manifests."""
ZERO_CHUNK = ""
"""The id of every chunk that is all zeros. Never stored."""

Plain = bytes | bytearray | memoryview

_LENGTH = struct.Struct(">I")
_SPOT = struct.Struct(">III")
_ID_BYTES = 32


class Spot(NamedTuple):
    """Where a sealed chunk lies."""

    pack: str
    offset: int
    length: int
    """Bytes."""


@dataclass(frozen=True)
class Body:
    """A stream, cut into chunks of CHUNK bytes; the last one may be shorter."""

    size: int
    """Bytes."""
    chunks: tuple[str, ...]

    def spans(self) -> Iterator[tuple[str, int]]:
        """Each chunk's id and how many bytes it holds."""
        for number, chunk in enumerate(self.chunks):
            yield chunk, min(CHUNK, self.size - number * CHUNK)


@dataclass(frozen=True)
class Run:
    """A range of a task's memory: pages with something in them, cut where addresses are multiples of CHUNK."""

    address: int
    size: int
    """Bytes."""
    chunks: tuple[str, ...]

    def spans(self) -> Iterator[tuple[int, str, int]]:
        """Each chunk's address, id, and how many bytes it holds."""
        for chunk, (address, length) in zip(self.chunks, cut(self.address, self.size), strict=True):
            yield address, chunk, length


def cut(address: int, length: int) -> Iterator[tuple[int, int]]:
    """`(address, length)` of the pieces of a range, cut where addresses are multiples of CHUNK."""
    end = address + length
    while address < end:
        border = min((address // CHUNK + 1) * CHUNK, end)
        yield address, border - address
        address = border


def in_chunks(pieces: Iterable[Plain]) -> Iterator[Plain]:
    """A stream in pieces of any size, as pieces of CHUNK bytes; the last one may be shorter."""
    kept = bytearray()
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            if not kept and len(rest) >= CHUNK:
                taken = rest[:CHUNK]
                yield taken
            else:
                taken = rest[: CHUNK - len(kept)]
                kept += taken
                if len(kept) == CHUNK:
                    yield kept
                    kept = bytearray()
            rest = rest[len(taken) :]
    if kept:
        yield kept


@dataclass(frozen=True)
class Manifest:
    """A whole checkpoint. Whoever can read it can read every chunk it names, unless the store lost one."""

    id: str
    session: str
    created_at: float
    """Seconds since 1970, by the node's clock."""
    boot: str
    """The boot id of the node it was taken on."""
    node: str
    criu: str
    """CRIU's version."""
    spec: dict[str, Any]
    """The session's."""
    incarnation: int
    epoch: int
    layer: Body
    """The writable layer, as a delta from nothing."""
    images: dict[str, Body] = field(default_factory=dict)
    """CRIU's small images, by file name."""
    memory: dict[str, list[Run]] = field(default_factory=dict)
    """Task -> its runs."""
    origin: dict[str, Any] = field(default_factory=dict)
    """As `Sandbox.origin`."""
    strategy_facts: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    spots: dict[str, Spot] = field(default_factory=dict)
    """Chunk -> where it lies. A vault knows them, when it publishes."""
    packs: dict[str, int] = field(default_factory=dict)
    """Pack -> its bytes, for all in which there are spots."""

    def to_bytes(self) -> bytes:
        head = {name.name: getattr(self, name.name) for name in fields(self)} | {
            "format": FORMAT,
            "chunks": sum(1 for _ in self._chunks_in_order()),
            "packs": self.packs,
            "layer": _body_head(self.layer),
            "images": {name: _body_head(body) for name, body in self.images.items()},
            "memory": {
                task: [[run.address, run.size, len(run.chunks)] for run in runs] for task, runs in self.memory.items()
            },
        }
        del head["spots"]
        text = json.dumps(head, separators=(",", ":")).encode()
        return b"".join((_LENGTH.pack(len(text)), text, *map(_id_bytes, self._chunks_in_order()), *self._spot_bytes()))

    @classmethod
    def from_bytes(cls, body: bytes) -> Manifest:
        """Raises Damaged when these are not the bytes of a manifest."""
        try:
            return _read(body)
        except (ValueError, KeyError, TypeError, struct.error, AttributeError) as wrong:
            raise Damaged(f"This is not a checkpoint's manifest: {wrong!r}.") from wrong

    def chunks(self) -> set[str]:
        """The ids of every chunk that must be in the store."""
        return set(self._chunks_in_order()) - {ZERO_CHUNK}

    def uses(self) -> Iterator[tuple[str, str, int]]:
        """Every use of a chunk: what for, the chunk's id, and how many bytes it must hold. Zeros are left out."""
        for where, chunk, size in self._all_uses():
            if chunk != ZERO_CHUNK:
                yield where, chunk, size

    def _all_uses(self) -> Iterator[tuple[str, str, int]]:
        bodies = [("layer", self.layer), *((f"image {name}", body) for name, body in self.images.items())]
        for where, body in bodies:
            for chunk, size in body.spans():
                yield where, chunk, size
        for task, runs in self.memory.items():
            for run in runs:
                for address, chunk, size in run.spans():
                    yield f"memory of task {task} at {address:#x}", chunk, size

    def _spot_bytes(self) -> Iterator[bytes]:
        numbers = {pack: number for number, pack in enumerate(self.packs)}
        for chunk in _distinct(self._chunks_in_order()):
            spot = self.spots[chunk]
            yield _SPOT.pack(numbers[spot.pack], spot.offset, spot.length)

    def _chunks_in_order(self) -> Iterator[str]:
        yield from self.layer.chunks
        for body in self.images.values():
            yield from body.chunks
        for runs in self.memory.values():
            for run in runs:
                yield from run.chunks


def _body_head(body: Body) -> list[int]:
    return [body.size, len(body.chunks)]


def _id_bytes(chunk: str) -> bytes:
    return bytes.fromhex(chunk) or bytes(_ID_BYTES)


def _distinct(chunks: Iterable[str]) -> list[str]:
    """Without zeros, each at its first place."""
    return [chunk for chunk in dict.fromkeys(chunks) if chunk != ZERO_CHUNK]


def _spots(body: bytes, chunks: Iterable[str], packs: list[str]) -> dict[str, Spot]:
    found = (Spot(packs[pack], offset, length) for pack, offset, length in _SPOT.iter_unpack(body))
    return dict(zip(_distinct(chunks), found, strict=True))


def _ids(body: bytes) -> Iterator[str]:
    none = "00" * _ID_BYTES
    text = body.hex()
    for start in range(0, len(text), 2 * _ID_BYTES):
        chunk = text[start : start + 2 * _ID_BYTES]
        yield ZERO_CHUNK if chunk == none else chunk


def _read(body: bytes) -> Manifest:
    (length,) = _LENGTH.unpack_from(body)
    head = json.loads(body[_LENGTH.size : _LENGTH.size + length])
    if head.pop("format") != FORMAT:
        raise ValueError("its format is of another version of Sojourn")
    rest = body[_LENGTH.size + length :]
    ids_bytes = head.pop("chunks") * _ID_BYTES
    ids = list(_ids(rest[:ids_bytes]))
    head["spots"] = _spots(rest[ids_bytes:], ids, list(head["packs"]))
    taken = 0

    def take(count: int) -> tuple[str, ...]:
        nonlocal taken
        taken += count
        if taken > len(ids):
            raise ValueError("ids are missing")
        return tuple(ids[taken - count : taken])

    head["layer"] = Body(head["layer"][0], take(head["layer"][1]))
    head["images"] = {name: Body(size, take(count)) for name, (size, count) in head["images"].items()}
    head["memory"] = {
        task: [Run(address, size, take(count)) for address, size, count in runs]
        for task, runs in head["memory"].items()
    }
    if taken != len(ids):
        raise ValueError("there are ids that belong to nothing")
    return Manifest(**head)
