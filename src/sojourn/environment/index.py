"""What this machine has of a part: looked at anew each time, but read and hashed only where something has changed.

The index keeps, of each folder, all names in it with their stamps, and the entries that came of them. A folder whose
names and stamps are the same as last time has the same entries. A file's stamp is its inode, its size, and its two
times; even a file edited in place, whose time was set back, has another one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import struct
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from sojourn.environment.contents import FILE, FOLDER, ID_BYTES, LINK, NOTHING, Contents, pack, travels, unpack
from sojourn.environment.parts import Part, is_below
from sojourn.errors import Busy

# ruff: noqa: PTH115, PTH119, PTH120  (pathlib would double the time of a look)

YOUNG_NS = 20_000_000
"""Kernels before 6.13 stamp files by the tick, up to 10 ms apart: a file written twice within one has one stamp."""
_FORMAT = 1
_STAMP = struct.Struct("=QQqq")
_UNKNOWN = bytes(_STAMP.size)
"""The stamp of what must be looked at again in any case."""
_LENGTHS = struct.Struct("=IIIII")
_HEAD = struct.Struct("=I")
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_READ = 1 << 20


@dataclass(slots=True)
class _Seen:
    """One folder."""

    names: bytes = b""
    """All that is in it, sorted, with a zero between."""
    stamps: bytes = b""
    below: bytes = b""
    """Those of the names that are folders to go on with."""
    entries: bytes = b""

    def by_name(self) -> dict[bytes, tuple[bytes, bytes]]:
        """Name -> its stamp, and its entry, which is empty for what is left out."""
        size = _STAMP.size
        packed = {name: pack(name, *facts) for name, facts in unpack(self.entries)}
        names = self.names.split(b"\0") if self.names else []
        return {
            name: (self.stamps[at * size : (at + 1) * size], packed.get(name, b"")) for at, name in enumerate(names)
        }


@dataclass
class Index:
    """What was seen of one part, last time. `hidden`: folders that are nobody's to take along."""

    part: Part
    hidden: tuple[str, ...] = ()
    contents: Contents | None = None
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def look(self) -> Contents:
        """See what there is now. Raises Busy when a file changes faster than it can be read."""
        look = _Look(self.part, self.hidden, self._seen)
        look.all()
        if self.contents is None or look.changed or look.seen.keys() != self._seen.keys():
            self.contents = Contents.of(self.part, look.folders())
        self._seen = look.seen
        return self.contents

    # ── on disk ──

    @classmethod
    def load(cls, file: Path, part: Part, hidden: Collection[str] = ()) -> Index:
        """The one that was saved there; an empty one, when none was, or one of something else."""
        index = cls(part, tuple(sorted(hidden)))
        try:
            body = _checked(file.read_bytes())
            (length,) = _HEAD.unpack_from(body)
            head = json.loads(body[_HEAD.size : _HEAD.size + length])
            if head["about"] == index._about():
                index._seen = dict(_read(body, _HEAD.size + length))
                folders = {path: index._seen[path].entries for path in sorted(index._seen)}
                index.contents = Contents(part, folders, head["id"])
        except (OSError, ValueError, KeyError, struct.error):
            return cls(part, index.hidden)
        return index

    def save(self, file: Path) -> None:
        """In one step. A power cut may spoil it, which shows, and costs time only."""
        assert self.contents is not None
        head = json.dumps({"about": self._about(), "id": self.contents.id}).encode()
        pieces = [_HEAD.pack(len(head)), head]
        for path, seen in self._seen.items():
            fields = (os.fsencode(path), seen.names, seen.stamps, seen.below, seen.entries)
            pieces += [_LENGTHS.pack(*map(len, fields)), *fields]
        draft = file.with_name(f".{file.name}")
        body = b"".join(pieces)
        draft.write_bytes(blake3(body).digest() + body)
        draft.rename(file)

    def _about(self) -> dict[str, Any]:
        return {"format": _FORMAT, "part": self.part.model_dump(mode="json"), "hidden": list(self.hidden)}


def file_name(part: Part) -> str:
    """Under which the index of a part is kept."""
    return hashlib.sha256(os.fsencode(part.name)).hexdigest()[:32]


def _checked(whole: bytes) -> bytes:
    size = blake3.digest_size
    if blake3(whole[size:]).digest() != whole[:size]:
        raise ValueError("it is not what was written")
    return whole[size:]


def _read(body: bytes, at: int) -> Iterable[tuple[str, _Seen]]:
    while at < len(body):
        lengths = _LENGTHS.unpack_from(body, at)
        at += _LENGTHS.size
        fields = []
        for length in lengths:
            fields.append(body[at : at + length])
            at += length
        yield os.fsdecode(fields[0]), _Seen(*fields[1:])


class _Look:
    """One look at a part. `seen`: the folders as they are now, by their paths relative to `/`."""

    def __init__(self, part: Part, hidden: Iterable[str], known: dict[str, _Seen]) -> None:
        self._part, self._known = part, known
        self._left_out = {os.fsencode(path) for path in (*part.without, *hidden)}
        self._now = time.time_ns()
        self._device = -1
        self._trunk: dict[str, dict[bytes, bytes]] = {}
        self.seen: dict[str, _Seen] = {}
        self.changed = False

    def all(self) -> None:
        for path in self._part.paths:
            if not is_below(path, map(os.fsdecode, self._left_out)):
                self._top(path)
        for path in self._part.bare:
            with contextlib.suppress(FileNotFoundError):
                self._bare(path)
        for folder, entries in self._trunk.items():
            seen = _Seen(entries=b"".join(entries[name] for name in sorted(entries)))
            self.changed |= self._known.get(folder) != seen
            self.seen[folder] = seen

    def folders(self) -> dict[str, bytes]:
        return {path: self.seen[path].entries for path in sorted(self.seen)}

    def _top(self, path: str) -> None:
        """One of the part's paths, and the folders that it lies in."""
        try:
            there = os.lstat(path)
        except OSError:
            return
        entry = self._entry(os.fsencode(path), os.fsencode(os.path.basename(path)), there)
        if not entry:
            return
        self._put(os.path.dirname(path), path, entry)
        self._ways_to(path)
        there = os.lstat(path)
        if stat.S_ISDIR(there.st_mode):
            self._device = there.st_dev
            self._below(path)

    def _bare(self, path: str) -> None:
        there, name = os.lstat(path), os.fsencode(os.path.basename(path))
        is_link = stat.S_ISLNK(there.st_mode)
        self._put(
            os.path.dirname(path),
            path,
            self._entry(os.fsencode(path), name, there) if is_link else _folder(name, there),
        )
        self._ways_to(path)

    def _ways_to(self, path: str) -> None:
        """The folders that it lies in."""
        parent = os.path.dirname(path)
        while parent != "/":
            step, parent = parent, os.path.dirname(parent)
            self._put(parent, step, _folder(os.fsencode(os.path.basename(step)), os.lstat(step)))

    def _put(self, parent: str, path: str, entry: bytes) -> None:
        self._trunk.setdefault(parent[1:], {})[os.fsencode(os.path.basename(path))] = entry

    def _below(self, top: str) -> None:
        waiting = [os.fsencode(top)]
        while waiting:
            folder = waiting.pop()
            seen = self._folder(folder)
            self.seen[os.fsdecode(folder[1:])] = seen
            if seen.below:
                waiting += [folder + b"/" + name for name in seen.below.split(b"\0")]

    def _folder(self, folder: bytes) -> _Seen:
        """This is where the time goes: some microseconds for each entry of a part."""
        try:
            with os.scandir(folder) as found:
                listed = sorted(((entry.name, entry) for entry in found), key=_name)
        except OSError as gone:
            if gone.errno not in _GONE:
                raise
            return _Seen()
        names, stamps, stats = [], [], []
        stamp = _STAMP.pack
        for name, entry in listed:
            try:
                there = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            names.append(name)
            stats.append(there)
            if entry.is_dir(follow_symlinks=False):
                stamps.append(stamp(there[1], there[0] | there[2] << 32, there[4], there[5]))
            else:
                stamps.append(stamp(there[1], there[6], there.st_mtime_ns, there.st_ctime_ns))
        known = self._known.get(os.fsdecode(folder[1:]))
        if known and known.stamps == b"".join(stamps) and known.names == b"\0".join(names):
            return known
        self.changed = True
        return self._anew(folder, known or _Seen(), names, stamps, stats)

    def _anew(
        self, folder: bytes, known: _Seen, names: list[bytes], stamps: list[bytes], stats: list[os.stat_result]
    ) -> _Seen:
        before = known.by_name()
        entries, below = [], []
        for at, (name, there) in enumerate(zip(names, stats, strict=True)):
            path = folder + b"/" + name
            old_stamp, entry = before.get(name, (_UNKNOWN, b""))
            if old_stamp != stamps[at]:
                entry = self._entry(path, name, there)
                if there.st_ctime_ns > self._now - YOUNG_NS and not stat.S_ISDIR(there.st_mode):
                    stamps[at] = _UNKNOWN
            if entry:
                entries.append(entry)
                if stat.S_ISDIR(there.st_mode) and there.st_dev == self._device:
                    below.append(name)
        return _Seen(b"\0".join(names), b"".join(stamps), b"\0".join(below), b"".join(entries))

    def _entry(self, path: bytes, name: bytes, there: os.stat_result) -> bytes:
        """Empty: it is left out."""
        mode = there.st_mode
        if path in self._left_out:
            return b""
        if stat.S_ISLNK(mode):
            with contextlib.suppress(OSError):
                return pack(name, LINK, 0o777, there.st_uid, there.st_gid, 0, 0, NOTHING, os.readlink(path))
            return b""
        if self._part.everybody and not _is_for_everybody(mode):
            return b""
        if stat.S_ISDIR(mode):
            return _folder(name, there)
        return _file(path, name) if stat.S_ISREG(mode) else b""


def _name(listed: tuple[bytes, os.DirEntry[bytes]]) -> bytes:
    return listed[0]


def _is_for_everybody(mode: int) -> bool:
    wanted = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return mode & wanted == wanted


def _folder(name: bytes, there: os.stat_result) -> bytes:
    return pack(name, FOLDER, stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid, 0, 0, NOTHING, b"")


def _file(path: bytes, name: bytes) -> bytes:
    for _ in range(3):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as gone:
            if gone.errno in _GONE:
                return b""
            raise
        try:
            there = os.fstat(descriptor)
            digest, length = _digest(descriptor)
            after = os.fstat(descriptor)
            if length == there.st_size and after.st_ctime_ns == there.st_ctime_ns:
                facts = stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid, there.st_mtime_ns, length
                return pack(name, FILE, *facts, digest, _attributes(descriptor))
        finally:
            os.close(descriptor)
    raise Busy(f"{os.fsdecode(path)} changes while it is read.", "Try again when nothing is being installed.")


def _digest(descriptor: int) -> tuple[bytes, int]:
    first = os.read(descriptor, _READ)
    if len(first) < _READ:
        return blake3(first).digest(ID_BYTES), len(first)
    hashing, length = blake3(first), len(first)
    while piece := os.read(descriptor, _READ):
        hashing.update(piece)
        length += len(piece)
    return hashing.digest(ID_BYTES), length


def _attributes(descriptor: int) -> bytes:
    try:
        names = os.listxattr(descriptor)
    except OSError:
        return b""
    wanted = sorted(filter(travels, names))
    if not wanted:
        return b""
    return json.dumps({name: os.getxattr(descriptor, name).hex() for name in wanted}).encode()
