"""What a layer holds, file by file, and the name that follows from it.

A layer's `id` is the blake3 of its contents in one canonical form, so it is the same on every node for the same files:

    head      JSON: the part
    folders   sorted by path, the root ("") first; each: length of the path (2 bytes), length of its entries (4), both
    entries   of one folder, sorted by name: _ENTRY, the name, and for a link where it leads, for a file its attributes

Numbers are big-endian, paths relative to `/` and in the bytes the file system has them. A folder's time is no part of
it: it changes with every file that comes and goes, also with those that are left out.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from blake3 import blake3
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from sojourn.environment.parts import Part
from sojourn.errors import Incompatible

ID_BYTES = 16
FILE, FOLDER, LINK = b"f", b"d", b"l"
NOTHING = bytes(ID_BYTES)

_ENTRY = struct.Struct(">cHIIqQ16sBI")
"""kind, permission bits, uid, gid, time of change (ns), size, digest of the content, length of the name, of the rest"""
_HEAD = struct.Struct(">I")
_FOLDER = struct.Struct(">HI")
_MOST_BYTES = 1 << 30
_MOST_PERMISSIONS = 0o7777
_LEVEL = 3
_PIECE = 1 << 20


class Entry(NamedTuple):
    """One path of a layer."""

    path: str
    """Relative to `/`."""
    kind: bytes
    """FILE, FOLDER or LINK."""
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    mtime_ns: int
    """Of a file; else 0."""
    size: int
    """Of a file, in bytes."""
    digest: bytes
    """blake3 of a file's content, ID_BYTES of it."""
    rest: bytes
    """Where a link leads; a file's attributes as JSON, {name: hexadecimal}, or nothing."""

    @property
    def attributes(self) -> dict[str, bytes]:
        """Extended attributes of a file: what it may (`security.capability`), and what its user noted (`user.*`)."""
        if self.kind != FILE or not self.rest:
            return {}
        return {name: bytes.fromhex(value) for name, value in json.loads(self.rest).items()}

    @property
    def target(self) -> str:
        """Where a link leads."""
        return os.fsdecode(self.rest) if self.kind == LINK else ""


def travels(attribute: str) -> bool:
    """Whether a file takes this extended attribute along: never those by which an overlay is told what to show."""
    return attribute == "security.capability" or (attribute.startswith("user.") and "overlay" not in attribute)


def pack(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, mtime_ns: int, size: int, digest: bytes, rest: bytes
) -> bytes:
    """One entry in its canonical form."""
    return _ENTRY.pack(kind, mode, uid, gid, mtime_ns, size, digest, len(name), len(rest)) + name + rest


def unpack(body: bytes) -> Iterator[tuple[bytes, tuple[bytes, int, int, int, int, int, bytes, bytes]]]:
    """The entries of one folder: the name, and the rest of `Entry` in its order."""
    at, end = 0, len(body)
    while at < end:
        *facts, name_length, rest_length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        name = body[at : at + name_length]
        at += name_length
        rest = body[at : at + rest_length]
        at += rest_length
        if at > end:
            raise ValueError("it was cut off")
        yield name, (*facts, rest)


@dataclass(frozen=True)
class Contents:
    """What a layer holds. `folders`: path of a folder -> its entries in canonical form, sorted by path."""

    part: Part
    folders: dict[str, bytes]
    id: str
    """32 hexadecimal digits."""

    @classmethod
    def of(cls, part: Part, folders: dict[str, bytes]) -> Contents:
        """Named after what is in it."""
        name = blake3()
        for piece in _canonical(part, folders):
            name.update(piece)
        return cls(part, folders, name.hexdigest(ID_BYTES))

    @cached_property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(entry.size for entry in self.files())

    @cached_property
    def count(self) -> int:
        """Of all entries."""
        return len(self._all)

    def entries(self) -> Iterator[Entry]:
        """All, a folder before what is in it."""
        return iter(self._all)

    def files(self) -> Iterator[Entry]:
        """Of the entries, those that are files, in the same order."""
        return (entry for entry in self._all if entry.kind == FILE)

    def entries_of(self, folder: str) -> Iterator[Entry]:
        """Those directly in a folder, named as in `folders`."""
        return _entries(folder, self.folders.get(folder, b""))

    def covers(self, path: str) -> bool:
        """Whether an absolute path, if it is there at all, belongs to the layer's part."""
        return self.part.covers(path)

    def entry(self, path: str) -> Entry | None:
        """What the layer has at an absolute path."""
        path = path.strip("/")
        folder = path.rpartition("/")[0]
        if folder not in self._looked_up:
            self._looked_up[folder] = {entry.path: entry for entry in self.entries_of(folder)}
        return self._looked_up[folder].get(path)

    def encode(self) -> Iterator[bytes]:
        """Compressed, for `decode`."""
        packing = ZstdCompressor(level=_LEVEL).compressobj()
        for piece in _canonical(self.part, self.folders):
            if packed := packing.compress(piece):
                yield packed
        yield packing.flush()

    @cached_property
    def _all(self) -> tuple[Entry, ...]:
        return tuple(entry for folder in self.folders for entry in self.entries_of(folder))

    @cached_property
    def _looked_up(self) -> dict[str, dict[str, Entry]]:
        return {}


def decode(stream: Iterable[bytes], id: str, *, trusted: bool = False) -> Contents:  # noqa: A002
    """What `Contents.encode` gave. Raises Incompatible when it is not the layer `id`, or holds what no layer may, which
    is not looked for again in what is `trusted`."""
    try:
        body = _unpacked(stream)
        (length,) = _HEAD.unpack_from(body)
        part = Part.model_validate_json(body[_HEAD.size : _HEAD.size + length])
        contents = Contents(part, dict(_folders(body, _HEAD.size + length)), blake3(body).hexdigest(ID_BYTES))
        if not trusted:
            _check(contents)
    except (struct.error, ValueError, ZstdError) as wrong:
        raise Incompatible(f"What came as the contents of layer {id[:8]} is garbled: {wrong}.") from wrong
    if contents.id != id:
        raise Incompatible(f"What came as the contents of layer {id[:8]} is that of {contents.id[:8]}.")
    return contents


def _canonical(part: Part, folders: dict[str, bytes]) -> Iterator[bytes]:
    head = json.dumps(part.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()
    yield _HEAD.pack(len(head)) + head
    waiting = bytearray()
    for path, body in folders.items():
        name = os.fsencode(path)
        waiting += _FOLDER.pack(len(name), len(body)) + name + body
        if len(waiting) > _PIECE:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)


def _entries(folder: str, body: bytes) -> Iterator[Entry]:
    below = folder and folder + "/"
    for name, facts in unpack(body):
        yield Entry(below + os.fsdecode(name), *facts)


def _unpacked(stream: Iterable[bytes]) -> bytes:
    unpacking = ZstdDecompressor().decompressobj()
    body = bytearray()
    for chunk in stream:
        body += unpacking.decompress(chunk)
        if len(body) > _MOST_BYTES:
            raise ValueError("it is too long")
    if not unpacking.eof:
        raise ValueError("it was cut off")
    return bytes(body)


def _folders(body: bytes, at: int) -> Iterator[tuple[str, bytes]]:
    while at < len(body):
        name_length, length = _FOLDER.unpack_from(body, at)
        at += _FOLDER.size
        if at + name_length + length > len(body):
            raise ValueError("it was cut off")
        yield os.fsdecode(body[at : at + name_length]), body[at + name_length : at + name_length + length]
        at += name_length + length


def _check(contents: Contents) -> None:
    """What is made of it must stay below one folder: names are plain, and a folder's path is made of folders only."""
    allowed = {""}
    for folder, body in contents.folders.items():
        if folder not in allowed:
            raise ValueError(f"{folder!r} is no folder")
        last = b""
        for name, (kind, mode, *_, rest) in unpack(body):
            if name <= last or name in {b".", b".."} or b"/" in name or b"\0" in name:
                raise ValueError(f"{name!r} in {folder!r} is out of place")
            if kind not in {FILE, FOLDER, LINK} or mode > _MOST_PERMISSIONS or _is_wrong(kind, rest):
                raise ValueError(f"{name!r} in {folder!r} is of no kind that a layer holds")
            if kind == FOLDER:
                allowed.add(f"{folder}/{os.fsdecode(name)}" if folder else os.fsdecode(name))
            last = name


def _is_wrong(kind: bytes, rest: bytes) -> bool:
    """A link that leads nowhere, or a file with attributes that no file takes along."""
    if kind == LINK:
        return not rest or b"\0" in rest
    return bool(rest) and (kind == FOLDER or not all(map(travels, json.loads(rest))))
