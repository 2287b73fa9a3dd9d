"""The files below a session's working folder, brought from one node to another where the nodes do not share it.

    source                              target
    files: how many there are      →
    what there is, a stream        →
                                   ←    wanted: bits, for the files that are not there as they are here
    pieces of those files, a stream →
    sent                           →
                                   ←    placed

Either side may say `refused`, an error, wherever it has to say something; both then raise it. Everything is received
beside (in a folder of its own within the folder), and put in its place at the end, or not at all. What is only at the
target stays there.

Neither side trusts what lies in the folder, nor the other one: no symbolic link is followed, and nothing is opened by
a path of more than one part, so what a session does with its folder meanwhile leads nobody outside of it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from sojourn.errors import DoesNotFit, Incompatible, MoveFailed, SojournError
from sojourn.movers.parcels import Parcels
from sojourn.sandbox.folders import Excludes

MOST_BYTES = 10 << 30
"""Of a working folder that travels along; larger ones are better shared, carried or left."""
_MOST_ENTRIES = 2_000_000
_LONGEST_INDEX = 1 << 30
_CHUNK = 1 << 20
_PIECE = struct.Struct("!QI")
"""Where it lies in the file, and its length; of no length: the end of the file."""
_OURS = ".sojourn-arriving-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    path: str
    """Below the folder, with `/`."""
    kind: Literal["folder", "file", "link"]
    mode: int
    """Permissions; of them, nine bits."""
    size: int = 0
    changed_ns: int = 0
    """When the contents changed last."""
    leads_to: str = ""
    """Of a link."""

    @property
    def within(self) -> tuple[str, ...]:
        return PurePosixPath(self.path).parts[:-1]

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass
class Index:
    """What there is below a folder; each folder before what is in it."""

    entries: list[Entry] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What stays behind, and why: "secret.key (can't be read)"."""

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def files(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == "file"]


@dataclass(frozen=True)
class Carried:
    """What has become of a folder."""

    files: int
    sent_bytes: int
    """Of those files that were not there already; holes are not counted."""
    left: tuple[str, ...] = ()


def _nothing(path: str, is_folder: bool) -> bool:
    return False


def index(folder: str | Path, excludes: Excludes = _nothing) -> Index:
    """What would travel. Raises Incompatible when there is no such folder."""
    with _opened(folder) as root:
        return _index(root, excludes)


def send(
    parcels: Parcels,
    folder: str | Path,
    excludes: Excludes = _nothing,
    most_bytes: int = MOST_BYTES,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Carried:
    """The source's side; `tell(done_bytes, total_bytes)` hears how it goes. Raises DoesNotFit when there is more than
    that here, or no room there; Incompatible when a file changes meanwhile, or a folder lies where a file should;
    MoveFailed when the link is gone."""
    with _opened(folder) as root:
        found = _index(root, excludes)
        with _refusing(parcels):
            _require_small(folder, found, most_bytes)
        parcels.send(files=len(found.entries))
        parcels.send_stream(_encoded(found.entries))
        wanted = _chosen(found.files, bytes.fromhex(parcels.answer("wanted")))
        sent = _Tally()
        try:
            parcels.send_stream(_counted(_pieces(root, wanted, sent), sum(entry.size for entry in wanted), tell))
        except MoveFailed:
            raise
        except SojournError as changed:
            parcels.send_stream(())
            parcels.send(refused=changed.to_wire())
            raise
        parcels.send(sent=True)
        parcels.answer("placed")
    return Carried(len(found.files), sent.bytes, tuple(found.left))


def receive(parcels: Parcels, folder: str | Path) -> Carried:
    """The target's side; the folder is there. Raises as `send` does, and then it is as it was."""
    with _opened(folder) as root:
        parcels.answer("files")
        entries = _decoded(parcels.receive_stream())
        here = {entry.path: entry for entry in _index(root, _nothing).entries}
        files = [entry for entry in entries if entry.kind == "file"]
        wanted = [entry for entry in files if entry != here.get(entry.path)]
        with _refusing(parcels):
            _require_room(folder, root, wanted)
        with _Beside(root) as beside:
            parcels.send(wanted=_bits(files, wanted))
            size = _take_in(parcels, beside, wanted)
            with _refusing(parcels):
                beside.place(entries, wanted)
        parcels.send(placed=True)
    return Carried(len(files), size)


def _take_in(parcels: Parcels, beside: _Beside, wanted: list[Entry]) -> int:
    stream = parcels.receive_stream()
    reader = _Reader(stream)
    try:
        for number, entry in enumerate(wanted):
            beside.write(number, entry, reader)
    except MoveFailed:
        raise
    except (SojournError, OSError) as wrong:
        for _ in stream:
            pass
        parcels.answer("sent")  # or why not, which then is the reason
        refusal = wrong if isinstance(wrong, SojournError) else _refusal("The files can't be taken in", wrong)
        parcels.send(refused=refusal.to_wire())
        raise refusal from wrong
    if reader.more():
        raise _nonsense("more than its files")
    parcels.answer("sent")
    return reader.bytes


@dataclass
class _Tally:
    bytes: int = 0


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _opened(folder: str | Path) -> Iterator[int]:
    """A descriptor of a folder given by its absolute path, no part of which is a symbolic link."""
    top = os.open("/", _FOLDER)
    try:
        with _reach(top, PurePosixPath(folder).parts[1:]) as opened:
            yield opened
    except OSError as wrong:
        raise _refusal(f"The folder {folder} can't be carried", wrong) from wrong
    finally:
        os.close(top)


@contextmanager
def _reach(root: int, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of a folder below another one; raises OSError where a part of the way is none, or a link."""
    at = os.dup(root)
    try:
        for part in parts:
            at, above = os.open(part, _FOLDER, dir_fd=at), at
            os.close(above)
        yield at
    finally:
        os.close(at)


def _index(root: int, excludes: Excludes) -> Index:
    found, ahead = Index(), [PurePosixPath()]
    device = os.fstat(root).st_dev
    while ahead:
        within = ahead.pop()
        try:
            with _reach(root, within.parts) as folder:
                ahead += _look_into(folder, within, found, excludes, device)
        except PermissionError:
            found.left.append(f"{within} (can't be read)")
        if len(found.entries) > _MOST_ENTRIES:
            raise DoesNotFit(f"There are more than {_MOST_ENTRIES} files to carry.", "Share or carry the folder.")
    return found


def _look_into(
    folder: int, within: PurePosixPath, found: Index, excludes: Excludes, device: int
) -> Iterator[PurePosixPath]:
    """Note what is in a folder; those that are in it and to be looked into."""
    with os.scandir(folder) as listed:
        for each in sorted(listed, key=lambda entry: entry.name):
            path, status = within / each.name, each.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(status.st_mode)
            if each.name.startswith(_OURS) or excludes(str(path), is_folder):
                continue
            if is_folder and status.st_dev != device:
                found.left.append(f"{path} (another file system)")
            elif is_folder:
                found.entries.append(Entry(str(path), "folder", status.st_mode & 0o777))
                yield path
            else:
                _note(folder, str(path), each.name, status, found)


def _note(folder: int, path: str, name: str, status: os.stat_result, found: Index) -> None:
    mode, size, changed = status.st_mode & 0o777, status.st_size, status.st_mtime_ns
    if stat.S_ISLNK(status.st_mode):
        found.entries.append(Entry(path, "link", mode, 0, changed, os.readlink(name, dir_fd=folder)))
    elif not stat.S_ISREG(status.st_mode):
        found.left.append(f"{path} (no file)")
    elif not os.access(name, os.R_OK, dir_fd=folder):
        found.left.append(f"{path} (can't be read)")
    else:
        found.entries.append(Entry(path, "file", mode, size, changed))


def _require_small(folder: str | Path, found: Index, most_bytes: int) -> None:
    if found.size_bytes > most_bytes:
        raise DoesNotFit(
            f"The files below {folder} come to {found.size_bytes >> 20} MB; up to {most_bytes >> 20} MB travel along.",
            "Put data into a folder that is shared, carried or left, or exclude it.",
        )


def _require_room(folder: str | Path, root: int, wanted: list[Entry]) -> None:
    room, needed = os.fstatvfs(root), sum(entry.size for entry in wanted)
    free = room.f_bavail * room.f_frsize
    if needed > free:
        raise DoesNotFit(f"Files of {needed >> 20} MB are to come into {folder}; {free >> 20} MB are free there.")


# ── on the way ───────────────────────────────────────────────────────────────────────────────────────────────


def _encoded(entries: list[Entry]) -> Iterator[bytes]:
    return (json.dumps(astuple(entry)).encode() + b"\n" for entry in entries)


def _decoded(stream: Iterable[bytes]) -> list[Entry]:
    """Raises MoveFailed where an entry would lie outside of the folder, or means nothing."""
    entries: list[Entry] = []
    kinds = {"": "folder"}
    for line in _lines(stream):
        try:
            entry = Entry(*json.loads(line))
            _check(entry)
            inside = kinds.get("/".join(entry.within)) == "folder"
        except (ValueError, TypeError, AttributeError) as wrong:
            raise _nonsense(f"an entry that means nothing: {wrong}") from wrong
        if not inside or entry.path in kinds or len(entries) >= _MOST_ENTRIES:
            raise _nonsense(f"{entry.path!r} in no folder of its own, or twice, or too many")
        kinds[entry.path] = entry.kind
        entries.append(entry)
    return entries


def _check(entry: Entry) -> None:
    """Raises ValueError, TypeError or AttributeError."""
    parts = entry.path.split("/")
    numbers = (entry.mode, entry.size, entry.changed_ns)
    if {"", ".", ".."} & {*parts} or parts[0].startswith(_OURS) or "\0" in entry.path + entry.leads_to:
        raise ValueError(f"the path {entry.path!r}")
    if entry.kind not in ("folder", "file", "link") or bool(entry.leads_to) is not (entry.kind == "link"):
        raise ValueError(f"{entry.path!r} is {entry.kind!r}")
    if any(type(number) is not int for number in numbers) or not 0 <= entry.size < 1 << 62 or entry.mode & ~0o777:
        raise ValueError(f"{entry.path!r} has {numbers}")
    os.fsencode(entry.path + entry.leads_to)


def _lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    rest, size = b"", 0
    for chunk in stream:
        size += len(chunk)
        if size > _LONGEST_INDEX:
            raise _nonsense("an index without an end")
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        raise _nonsense("half an entry")


def _bits(files: list[Entry], wanted: list[Entry]) -> str:
    chosen = set(wanted)
    said = sum(1 << number for number, entry in enumerate(files) if entry in chosen)
    return said.to_bytes((len(files) + 7) // 8, "little").hex()


def _chosen(files: list[Entry], bits: bytes) -> list[Entry]:
    if len(bits) != (len(files) + 7) // 8:
        raise _nonsense("a choice among other files")
    return [entry for number, entry in enumerate(files) if bits[number // 8] >> number % 8 & 1]


def _counted(pieces: Iterable[bytes], total: int, tell: Callable[[int, int], None]) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        tell(min(done, total), total)


def _pieces(root: int, wanted: list[Entry], sent: _Tally) -> Iterator[bytes]:
    for entry in wanted:
        try:
            with _reach(root, entry.within) as folder:
                file = os.open(entry.name, _FILE, dir_fd=folder)
            try:
                yield from _pieces_of(file, entry, sent)
            finally:
                os.close(file)
        except OSError as wrong:
            raise _changed(entry) from wrong
        yield _PIECE.pack(0, 0)


def _pieces_of(file: int, entry: Entry, sent: _Tally) -> Iterator[bytes]:
    """What lies between its holes."""
    _require_unchanged(file, entry)
    at = 0
    while at < entry.size:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
        except OSError as none:
            if none.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(file, begin, os.SEEK_HOLE)
        for offset in range(begin, min(at, entry.size), _CHUNK):
            piece = os.pread(file, min(_CHUNK, min(at, entry.size) - offset), offset)
            if not piece:
                raise _changed(entry)
            sent.bytes += len(piece)
            yield _PIECE.pack(offset, len(piece)) + piece
    _require_unchanged(file, entry)


def _require_unchanged(file: int, entry: Entry) -> None:
    status = os.fstat(file)
    now = (stat.S_ISREG(status.st_mode), status.st_size, status.st_mtime_ns)
    if now != (True, entry.size, entry.changed_ns):
        raise _changed(entry)


class _Reader:
    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream, self._waiting = stream, bytearray()
        self.bytes = 0

    def piece(self, entry: Entry, at: int) -> tuple[int, bytes]:
        """Where it lies, behind `at` and within the file, and what it is; nothing: there are no more."""
        offset, length = _PIECE.unpack(self._exactly(_PIECE.size))
        if length and not (at <= offset and offset + length <= entry.size and length <= _CHUNK):
            raise _nonsense(f"{length} bytes at {offset} of {entry.path!r}, which has {entry.size}")
        self.bytes += length
        return offset, self._exactly(length)

    def more(self) -> bool:
        return bool(self._waiting) or next(self._stream, None) is not None

    def _exactly(self, size: int) -> bytes:
        while len(self._waiting) < size:
            chunk = next(self._stream, None)
            if chunk is None:
                raise Incompatible("The files ended before all were there.")
            self._waiting += chunk
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        return taken


# ── into their places ────────────────────────────────────────────────────────────────────────────────────────


class _Beside:
    """A folder within the folder, for what has come and for what it takes the place of; gone at the end."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._name = _OURS + secrets.token_hex(8)
        self._undo: list[Callable[[], None]] = []
        status = os.fstat(root)
        self._owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else (-1, -1)

    def __enter__(self) -> _Beside:
        os.mkdir(self._name, 0o700, dir_fd=self._root)
        self._folder = os.open(self._name, _FOLDER, dir_fd=self._root)
        return self

    def __exit__(self, *_: object) -> None:
        with os.scandir(self._folder) as listed:
            names = [each.name for each in listed]
        for name in names:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
        os.close(self._folder)
        with suppress(OSError):
            os.rmdir(self._name, dir_fd=self._root)

    def write(self, number: int, entry: Entry, reader: _Reader) -> None:
        file = os.open(f"new{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        try:
            at = 0
            while (piece := reader.piece(entry, at))[1]:
                at = piece[0] + os.pwrite(file, piece[1], piece[0])
            os.truncate(file, entry.size)
            os.fchmod(file, entry.mode)
            os.utime(file, ns=(entry.changed_ns, entry.changed_ns))
        finally:
            os.close(file)

    def place(self, entries: list[Entry], wanted: list[Entry]) -> None:
        """All of them; or, whatever is raised, none."""
        numbers = {entry.path: number for number, entry in enumerate(wanted)}
        try:
            made = [entry for entry in entries if self._put(entry, numbers.get(entry.path)) and entry.kind == "folder"]
            for entry in reversed(made):
                with _reach(self._root, (*entry.within, entry.name)) as folder:
                    os.fchmod(folder, entry.mode)
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            raise

    def _put(self, entry: Entry, number: int | None) -> bool:
        """Whether it was not there already."""
        with _reach(self._root, entry.within) as folder:
            if _is_there(folder, entry, number):
                return False
            self._set_aside(folder, entry)
            if entry.kind == "file":
                os.rename(f"new{number}", entry.name, src_dir_fd=self._folder, dst_dir_fd=folder)
            elif entry.kind == "link":
                os.symlink(entry.leads_to, entry.name, dir_fd=folder)
            else:
                os.mkdir(entry.name, 0o700, dir_fd=folder)
            self._later(entry, os.rmdir if entry.kind == "folder" else os.unlink)
            os.chown(entry.name, *self._owner, dir_fd=folder, follow_symlinks=False)
            return True

    def _set_aside(self, folder: int, entry: Entry) -> None:
        """What is in the place of an entry; a folder only if there is nothing in it."""
        if _is_folder(folder, entry.name):
            mode = stat.S_IMODE(os.stat(entry.name, dir_fd=folder, follow_symlinks=False).st_mode)
            os.rmdir(entry.name, dir_fd=folder)
            self._later(entry, lambda name, dir_fd: os.mkdir(name, mode, dir_fd=dir_fd))
            return
        aside = f"old{len(self._undo)}"
        with suppress(FileNotFoundError):
            os.rename(entry.name, aside, src_dir_fd=folder, dst_dir_fd=self._folder)
            self._later(entry, lambda name, dir_fd: os.rename(aside, name, src_dir_fd=self._folder, dst_dir_fd=dir_fd))

    def _later(self, entry: Entry, act: Callable[..., None]) -> None:
        """If not all can be placed."""

        def undo() -> None:
            with _reach(self._root, entry.within) as folder:
                act(entry.name, dir_fd=folder)

        self._undo.append(undo)


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _is_there(folder: int, entry: Entry, number: int | None) -> bool:
    if entry.kind == "folder":
        return _is_folder(folder, entry.name)
    return _leads(folder, entry) if entry.kind == "link" else number is None


def _leads(folder: int, entry: Entry) -> bool:
    try:
        return os.readlink(entry.name, dir_fd=folder) == entry.leads_to
    except OSError:
        return False


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _refusing(parcels: Parcels) -> Iterator[None]:
    """What the system refuses here is told to the other side, too."""
    with parcels.refusing():
        try:
            yield
        except OSError as wrong:
            raise _refusal("The files can't be put in their places", wrong) from wrong


def _refusal(what: str, wrong: OSError) -> SojournError:
    kind = DoesNotFit if wrong.errno in (errno.ENOSPC, errno.EDQUOT) else Incompatible
    return kind(f"{what}: {wrong.filename or ''} {wrong.strerror}.", "Move what is in the way, or make room.")


def _changed(entry: Entry) -> Incompatible:
    return Incompatible(f"{entry.path} changed while it was carried.", "Stop what writes to it, and move again.")


def _nonsense(what: str) -> MoveFailed:
    return MoveFailed(f"The other side of the move sent nonsense: {what}.")
