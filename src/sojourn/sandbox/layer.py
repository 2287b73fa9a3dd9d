"""The writable layer of a sandbox, and what changed in it, as a stream.

An **index** names every path of the layer and a stamp that changes when the path does. A **delta** carries a layer
from one index to another: while the session runs, the bulk; inside the freeze, the few files written since.

The stream is a sequence of records, each a length (4 bytes, big-endian), a JSON head and the bytes the head speaks of:

    {"gone": path}                                       remove it and all below it
    {"link": path, "to": path}                           a further name of a file sent before
    {"path": path, "mode", "uid", "gid", "mtime_ns", "attributes": {name: base64},
     "target": text (a symlink) | "device": n (device, FIFO, socket) | "size", "extents": [[offset, length], …]}
    {"end": true}                                        without it the stream was cut off

Paths are relative to the layer. Whiteouts are devices 0:0, opaque folders have an attribute: both travel as they are.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import json
import os
import shutil
import stat
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from sojourn.errors import SandboxFailed
from sojourn.sandbox import syscalls

Stamp = tuple[int, ...]
"""(mode, inode, size, mtime_ns, ctime_ns), for a file too young to be told by these also the time it was looked at."""
Index = dict[str, Stamp]

CHUNK = 1 << 20
MOST_EXTENTS = 10_000
"""A file in more pieces is sent whole, holes and all: the list must fit into a head."""
YOUNG_NS = 20_000_000
"""Kernels before 6.13 stamp files by the tick, up to 10 ms apart: a file written twice within one has one stamp."""

_MOVED_AWAY = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENXIO}
"""Removed or replaced while the session runs on: the next delta tells."""
_LENGTH = struct.Struct(">I")
_OVERLAY_ATTRIBUTE = "trusted.overlay."
_OPAQUE = "trusted.overlay.opaque"
"""The only overlay attribute that travels: the others refer to inodes of one machine."""


class Layer:
    """A folder that is, or is to be, the upper layer of an overlay. `skip`: absolute paths that are left out, and
    `excludes`: those of which it says so."""

    def __init__(
        self, folder: Path, skip: Collection[str] = (), excludes: Callable[[str, bool], bool] | None = None
    ) -> None:
        self.folder = folder
        self._skip, self._excludes = frozenset(skip), excludes

    def index(self) -> Index:
        """Every path in the layer, parents first, and its stamp. About 5 µs per path."""
        index: Index = {}
        now = time.time_ns()
        self._scan(str(self.folder), "", index, now)
        return index

    def _scan(self, folder: str, prefix: str, index: Index, now: int) -> None:
        try:
            entries = list(os.scandir(folder))
        except OSError as gone:
            if gone.errno not in _MOVED_AWAY:
                raise
            return
        for entry in entries:
            try:
                there = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            path = prefix + entry.name
            if entry.path in self._skip or (self._excludes and self._excludes(path, stat.S_ISDIR(there.st_mode))):
                continue
            index[path] = _stamp(there, now)
            if stat.S_ISDIR(there.st_mode):
                self._scan(entry.path, path + "/", index, now)

    def size_bytes(self) -> int:
        """How much a first delta would carry."""
        return size_of(self.index())

    def delta(
        self, since: Mapping[str, Stamp], until: Mapping[str, Stamp] | None = None, always: Collection[str] = ()
    ) -> Iterator[bytes]:
        """What changed from one index to another (`until` None: now), as a stream for `apply`.

        `always`: files that are sent in any case. A file that changes while it is read has another stamp in the next
        index, so the delta after this one mends it.
        """
        until = self.index() if until is None else until
        for path in _topmost(path for path in since if path not in until):
            yield _head({"gone": path})
        names: dict[int, str] = {}
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for path, stamp in until.items():
                if since.get(path) != stamp or path in always:
                    yield from self._send(folder, path, names)
        finally:
            os.close(folder)
        yield _head({"end": True})

    def _send(self, folder: int, path: str, names: dict[int, str]) -> Iterator[bytes]:
        try:
            there = (self.folder / path).lstat()
            if not stat.S_ISREG(there.st_mode):
                yield _head({"path": path, **_properties(self.folder / path, there)})
            elif there.st_nlink > 1 and (first := names.get(there.st_ino)):
                yield _head({"link": path, "to": first})
            else:
                # The session may swap a folder for a link meanwhile: what is read must lie in the layer all the same.
                with open(syscalls.open_beneath(folder, path), "rb", buffering=0) as file:  # noqa: PTH123
                    names[there.st_ino] = path
                    yield from _send_file(file, path)
        except OSError as gone:
            if gone.errno not in _MOVED_AWAY:
                raise

    def apply(self, stream: Iterable[bytes], index: Index | None = None) -> int:
        """Carry a delta out on this layer, which must not be mounted. Returns the bytes of content written.

        `index`, if given, was the layer's and is made so again. Nobody else may write to the layer meanwhile, nor in
        the hundredth of a second after: no file in it counts as young.

        Raises SandboxFailed for a stream that was cut off or leads out of the layer.
        """
        application = _Application(self.folder)
        written = application.run(_Reader(stream))
        if index is not None:
            application.correct(index)
        return written


def size_of(index: Index, folder: str = "") -> int:
    """Bytes of the files in a layer, or of those below one of its folders."""
    below = folder and folder.rstrip("/") + "/"
    return sum(stamp[2] for path, stamp in index.items() if stat.S_ISREG(stamp[0]) and path.startswith(below))


# ── sending ──


def _stamp(there: os.stat_result, now: int) -> Stamp:
    stamp = (there.st_mode, there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns)
    return (*stamp, now) if there.st_ctime_ns > now - YOUNG_NS else stamp


def _settled(there: os.stat_result) -> Stamp:
    """Of a file that nobody writes to."""
    return _stamp(there, there.st_ctime_ns + YOUNG_NS)


def _forget(index: Index, path: str) -> None:
    index.pop(path, None)
    for below in [known for known in index if known.startswith(path + "/")]:
        del index[below]


def _topmost(paths: Iterable[str]) -> Iterator[str]:
    """Of paths in order, parents first, those whose parent is not among them."""
    gone: set[str] = set()
    for path in paths:
        if path.rpartition("/")[0] not in gone:
            yield path
        gone.add(path)


def _head(head: dict[str, Any]) -> bytes:
    body = json.dumps(head, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


def _properties(place: Path | int, there: os.stat_result) -> dict[str, Any]:
    """What a record says of a path, or of an open file."""
    found: dict[str, Any] = {
        "mode": there.st_mode,
        "uid": there.st_uid,
        "gid": there.st_gid,
        "mtime_ns": there.st_mtime_ns,
    }
    if attributes := _attributes(place):
        found["attributes"] = attributes
    if stat.S_ISLNK(there.st_mode) and isinstance(place, Path):
        found["target"] = str(place.readlink())
    elif not stat.S_ISREG(there.st_mode) and not stat.S_ISDIR(there.st_mode):
        found["device"] = there.st_rdev
    return found


def _attributes(place: Path | int) -> dict[str, str]:
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as failed:
        if failed.errno in {errno.ENOTSUP, errno.ENODATA}:
            return {}
        raise
    return {
        name: base64.b64encode(os.getxattr(place, name, follow_symlinks=follow)).decode()
        for name in names
        if name == _OPAQUE or not name.startswith(_OVERLAY_ATTRIBUTE)
    }


def _send_file(file: FileIO, path: str) -> Iterator[bytes]:
    descriptor = file.fileno()
    there = os.fstat(descriptor)
    if not stat.S_ISREG(there.st_mode):
        return  # it was one a moment ago
    extents = list(itertools.islice(_extents(descriptor, there.st_size), MOST_EXTENTS + 1))
    if len(extents) > MOST_EXTENTS:
        extents = [(0, there.st_size)]
    yield _head({"path": path, **_properties(descriptor, there), "size": there.st_size, "extents": extents})
    for offset, length in extents:
        for start in range(offset, offset + length, CHUNK):
            wanted = min(CHUNK, offset + length - start)
            # Cut short since it was looked at: the promised length still has to come.
            yield os.pread(descriptor, wanted, start).ljust(wanted, b"\0")


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file holds data; the rest are holes (lseek(2), SEEK_DATA)."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as failed:
            if failed.errno == errno.ENXIO:
                return
            raise
        offset = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < offset:
            yield start, offset - start


# ── receiving ──


class _Reader:
    """Records out of a stream that comes in pieces of any size."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = iter(stream)
        self._rest = memoryview(b"")

    def records(self) -> Iterator[dict[str, Any]]:
        while True:
            (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
            if length > CHUNK:
                raise SandboxFailed("The stream of a layer's changes is garbled.")
            record: dict[str, Any] = json.loads(self._take(length))
            if record.get("end"):
                return
            yield record

    def pieces(self, length: int) -> Iterator[memoryview]:
        """The next `length` bytes, as they come."""
        while length:
            if not self._rest:
                self._rest = memoryview(self._next())
            piece, self._rest = self._rest[:length], self._rest[length:]
            length -= len(piece)
            yield piece

    def _take(self, length: int) -> bytes:
        return b"".join(self.pieces(length))

    def _next(self) -> bytes:
        try:
            return next(self._stream)
        except StopIteration:
            raise SandboxFailed("The stream of a layer's changes was cut off.") from None


class _Application:
    """One delta being carried out. Times of folders are set last: what is written into them would change them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder_times: dict[Path, int] = {}
        self._touched: dict[str, None] = {}
        self._written = 0

    def run(self, reader: _Reader) -> int:
        for record in reader.records():
            self._touched[record.get("gone") or record.get("link") or record["path"]] = None
            if "gone" in record:
                self._clear(self._place(record["gone"]))
            elif "link" in record:
                self._link(record)
            else:
                self._make(record, reader)
        for folder, mtime_ns in self._folder_times.items():
            with contextlib.suppress(FileNotFoundError):  # removed by a later record
                os.utime(folder, ns=(mtime_ns, mtime_ns))
        return self._written

    def correct(self, index: Index) -> None:
        """Bring the layer's index up to what has been done; folders that were only gone through have a new time too."""
        passed = [str(folder.relative_to(self._folder)) for folder in self._folder_times]
        for path in (*passed, *self._touched):
            try:
                there = (self._folder / path).lstat()
            except (FileNotFoundError, NotADirectoryError):
                _forget(index, path)
            else:
                index[path] = _settled(there)

    def _link(self, record: dict[str, Any]) -> None:
        place = self._place(record["link"])
        self._clear(place)
        # The first name may have been removed while the delta was made; the next delta mends it.
        with contextlib.suppress(FileNotFoundError):
            os.link(self._place(record["to"]), place, follow_symlinks=False)

    def _make(self, record: dict[str, Any], reader: _Reader) -> None:
        place, mode = self._place(record["path"]), record["mode"]
        if stat.S_ISDIR(mode):
            self._make_folder(place)
            self._folder_times[place] = record["mtime_ns"]
        else:
            self._clear(place)
            if stat.S_ISREG(mode):
                self._make_file(place, record, reader)
            elif stat.S_ISLNK(mode):
                place.symlink_to(record["target"])
            else:
                os.mknod(place, mode, record["device"])
        _dress(place, record)

    def _make_folder(self, place: Path) -> None:
        if place.is_dir() and not place.is_symlink():
            _undress(place)
        else:
            self._clear(place)
            place.mkdir()

    def _make_file(self, place: Path, record: dict[str, Any], reader: _Reader) -> None:
        with place.open("xb", buffering=0) as file:
            for offset, length in record["extents"]:
                file.seek(offset)
                for piece in reader.pieces(length):
                    self._written += file.write(piece)
            file.truncate(record["size"])

    def _clear(self, place: Path) -> None:
        """Make room. A folder that goes is known no longer: a link may take its place, and lead out of the layer."""
        _remove(place)
        if place in self._folder_times:
            gone = [folder for folder in self._folder_times if folder.is_relative_to(place)]
            for folder in gone:
                del self._folder_times[folder]

    def _place(self, path: str) -> Path:
        """Where a path lies; its parents must be real folders, or a link in a layer could point out of it."""
        parts = path.split("/")
        if any(part in {"", ".", ".."} for part in parts):
            raise SandboxFailed(f"{path!r} in the stream of a layer's changes leads out of the layer.")
        parent = self._folder
        for part in parts[:-1]:
            parent = parent / part
            if parent not in self._folder_times:
                there = _stat_of_folder(parent)
                if not stat.S_ISDIR(there.st_mode):
                    raise SandboxFailed(f"{path!r} in the stream of a layer's changes goes through a file.")
                self._folder_times[parent] = there.st_mtime_ns
        return parent / parts[-1]


def _stat_of_folder(folder: Path) -> os.stat_result:
    """A folder that is missing came and went while the delta was made; the next delta mends it."""
    with contextlib.suppress(FileNotFoundError):
        return folder.lstat()
    folder.mkdir()
    return folder.lstat()


def _dress(place: Path, record: dict[str, Any]) -> None:
    """Owner before mode and attributes: a change of owner clears set-user-id bits and capabilities."""
    os.chown(place, record["uid"], record["gid"], follow_symlinks=False)
    if not stat.S_ISLNK(record["mode"]):
        place.chmod(stat.S_IMODE(record["mode"]))
    for name, value in record.get("attributes", {}).items():
        os.setxattr(place, name, base64.b64decode(value), follow_symlinks=False)
    os.utime(place, ns=(record["mtime_ns"], record["mtime_ns"]), follow_symlinks=False)


def _undress(place: Path) -> None:
    """Take a folder's attributes away; those it still has come with the record."""
    for name in os.listxattr(place, follow_symlinks=False):
        os.removexattr(place, name, follow_symlinks=False)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
