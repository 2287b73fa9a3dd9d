"""A node's depot: the layers it has of other nodes' environments, and the index of what it has itself.

    layers/ID/root/      the tree, just as its home has it; the lower folder of overlays, so nobody ever writes there
    layers/ID/contents   what is in it
    layers/ID/digests    of its files, one after the other: to find out quickly what a new layer lacks
    layers/ID/used       its time is when the layer was last used
    layers/ID/boot       until it is known to be on the disk: the boot in which it came
    own/NAME             the index of one of this node's own parts

A layer is made beside, and renamed when it is whole. What has come, and what another layer has already, is the same
file (a hard link), or a copy where owner, mode or time differ.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sojourn.environment.building import Building
from sojourn.environment.contents import ID_BYTES, Contents, Entry, decode
from sojourn.environment.index import Index, file_name
from sojourn.environment.parts import Part
from sojourn.environment.reading import read
from sojourn.errors import DoesNotFit, Invalid, SandboxFailed, SojournError, Unknown

ROOM_LEFT_BYTES = 256 << 20
"""What a node's disk must have free when all is there."""
_BLOCK = 4096
_MB = 1_000_000
_DAY = 86400.0


@dataclass(frozen=True)
class Lacking:
    """The files of a layer whose content a depot has in none of its layers."""

    digests: frozenset[bytes]
    size_bytes: int = 0
    """Of all these contents."""
    room_bytes: int = 0
    """What the layer will take on the depot's disk."""

    def to_bits(self, contents: Contents) -> bytes:
        """A bit for each of the layer's files, in order, the lowest of a byte first."""
        bits = bytearray()
        for at, entry in enumerate(contents.files()):
            if at % 8 == 0:
                bits.append(0)
            if entry.digest in self.digests:
                bits[-1] |= 1 << at % 8
        return bytes(bits)

    @classmethod
    def from_bits(cls, contents: Contents, bits: bytes) -> Lacking:
        """Raises Invalid when the bits are another layer's."""
        files = list(contents.files())
        if len(bits) != (len(files) + 7) // 8:
            raise Invalid(f"What is lacking of layer {contents.id[:8]} is told for another number of files.")
        found = {file.digest: file.size for at, file in enumerate(files) if bits[at // 8] >> at % 8 & 1}
        return cls(frozenset(found), sum(found.values()))


@dataclass(frozen=True)
class Stocked:
    """A layer in a depot."""

    id: str
    part: str
    """The name of its part."""
    size_bytes: int
    """Of its files; those that other layers have too are counted in each."""
    count: int
    used_at: float
    """Seconds since 1970."""


class Depot:
    """All methods block, and may be called from any thread; within one process, depots of one folder take turns.

    `hidden`: folders of this node that nobody may take along, whatever part they lie in.
    """

    def __init__(self, folder: Path, hidden: Collection[str] = ()) -> None:
        self.folder = folder.absolute()
        self._layers, self._own = self.folder / "layers", self.folder / "own"
        self._hidden = (*hidden, str(self.folder))
        self._traffic = _traffic(self.folder)

    # ── this node's own ──

    def own(self, part: Part) -> Contents:
        """What this node has of a part, right now. Raises Busy when a file changes faster than it can be read."""
        file = self._own / file_name(part)
        with self._traffic.turn(file.name):
            index = Index.load(file, part, self._hidden)
            before = index.contents
            contents = index.look()
            if contents is not before:
                self._own.mkdir(parents=True, exist_ok=True, mode=0o700)
                index.save(file)
            with contextlib.suppress(FileNotFoundError):  # collected at this very moment
                os.utime(file)
            return contents

    # ── what is here ──

    def here(self, id: str) -> Path | None:  # noqa: A002
        """The tree of a layer, if this depot has it."""
        place = self._place(id)
        return place / "root" if self._is_whole(place) else None

    def contents(self, id: str) -> Contents:  # noqa: A002
        """Of a layer that is here; raises Unknown."""
        place = self._place(id)
        try:
            with (place / "contents").open("rb") as file:
                return decode(iter(lambda: file.read(1 << 20), b""), id, trusted=True)
        except FileNotFoundError:
            raise Unknown(f"Layer {id[:8]} is not in the depot {self.folder}.") from None

    def stock(self) -> list[Stocked]:
        """The layers that are here, the last used first."""
        found = []
        for place in self._all():
            contents = self.contents(place.name)
            used = (place / "used").stat().st_mtime
            found.append(Stocked(contents.id, contents.part.name, contents.size_bytes, contents.count, used))
        return sorted(found, key=lambda layer: layer.used_at, reverse=True)

    def note_use(self, id: str) -> None:  # noqa: A002
        """A session begins, or goes on, to use a layer."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._place(id) / "used")

    # ── coming and going ──

    @contextlib.contextmanager
    def turn(self, id: str) -> Iterator[None]:  # noqa: A002
        """To find out what is lacking of a layer, and to unpack it: one at a time. Nothing is collected meanwhile."""
        with self._traffic.turn(id), self._traffic.coming():
            yield

    def lacking(self, contents: Contents) -> Lacking:
        """What this depot needs of a layer that is to come. Within its `turn`."""
        wanted = {entry.digest: entry.size for entry in contents.files() if entry.size}
        links = set(wanted)
        for place in self._all():
            links -= _digests(place)
        size = sum(wanted[digest] for digest in links)
        room = sum(_blocks(entry.size) for entry in contents.files() if entry.digest in links)
        return Lacking(frozenset(links), size, room + _BLOCK * len(contents.folders))

    def require_room(self, contents: Contents, lacking: Lacking) -> None:
        """Raises DoesNotFit."""
        self._layers.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(self._layers).free
        if lacking.room_bytes > max(free - ROOM_LEFT_BYTES, 0):
            raise DoesNotFit(
                f"There is no room for the environment's layer {contents.part.name}: "
                f"{lacking.room_bytes / _MB:,.0f} MB, and {free / _MB:,.0f} MB are free at {self.folder}.",
                "Free some there, or choose another node.",
            )

    def pack(self, contents: Contents, lacking: Lacking) -> Iterator[bytes]:
        """The contents of the files that are lacking, for `unpack`: from the layer that is here, or else from this
        node's own root. Raises Incompatible, naming the file, when one is not what it was when it was looked at."""
        tree = self.here(contents.id) or Path("/")
        wanted = set(lacking.digests)
        for entry in contents.files():
            if entry.digest in wanted:
                wanted.discard(entry.digest)
                yield from read(tree, entry)

    def unpack(self, contents: Contents, lacking: Lacking, stream: Iterable[bytes]) -> Path:
        """Make a layer of what `pack` gave, and return its tree. Within its `turn`, for what `lacking` told there.

        Raises Incompatible for a stream that was cut off or altered; the depot is then as it was.
        """
        if (there := self.here(contents.id)) is not None:
            return there
        self.require_room(contents, lacking)
        draft = self._layers / f".{contents.id}"
        _remove(draft)
        draft.mkdir(mode=0o700)
        try:
            Building(contents, draft / "root", self._sources(contents, lacking)).build(stream)
            _note(draft, contents)
            _remove(self._place(contents.id))  # not whole, or it would be `here`
            draft.rename(self._place(contents.id))
        except BaseException as failed:
            _remove(draft)
            if isinstance(failed, OSError):
                raise _told(failed, contents) from failed
            raise
        return self._place(contents.id) / "root"

    def _sources(self, contents: Contents, lacking: Lacking) -> dict[bytes, list[tuple[str, Entry]]]:
        """Where in the depot the files are that are not lacking: digest -> paths, with what is there."""
        wanted = {entry.digest for entry in contents.files() if entry.size} - lacking.digests
        found: dict[bytes, list[tuple[str, Entry]]] = {}
        for place in self._all():
            if wanted.isdisjoint(_digests(place)):
                continue
            for entry in self.contents(place.name).files():
                if entry.digest in wanted:
                    found.setdefault(entry.digest, []).append((f"{place}/root/{entry.path}", entry))
        return found

    # ── order ──

    def settle(self) -> None:
        """Make sure that what is here survives a power cut; until then a layer is not believed after one."""
        fresh = [place for place in self._all() if (place / "boot").exists()]
        if fresh:
            os.sync()
        for place in fresh:
            (place / "boot").unlink(missing_ok=True)

    def collect(
        self, keep: Collection[str] = (), older_than_s: float = 7 * _DAY, now: float | None = None
    ) -> list[str]:
        """Remove the layers that no session of `keep` needs, none is mounted from, and that were not used for so long;
        also what a crash has left, and old indexes. Returns the layers' ids; none while anything is coming."""
        if not self.folder.is_dir():
            return []
        before = (time.time() if now is None else now) - older_than_s
        with self._traffic.turn("collect"):
            self.settle()
            with self._traffic.alone() as is_alone:
                gone = self._put_aside(keep, before) if is_alone else []
            for place in self.folder.glob("layers/.gone.*"):
                _require_no_mounts(place)
                shutil.rmtree(place)
        for index in self.folder.glob("own/*"):
            if index.stat().st_mtime <= before:
                index.unlink()
        return gone

    def _put_aside(self, keep: Collection[str], before: float) -> list[str]:
        mounted = _mounts()
        gone = []
        for place in list(self.folder.glob("layers/*")):
            if place.name in keep or place.name in mounted:
                continue
            if not self._is_whole(place) or (place / "used").stat().st_mtime <= before:
                _put_aside(place)
                gone.append(place.name)
        return [name for name in gone if not name.startswith(".")]

    def _place(self, id: str) -> Path:  # noqa: A002
        if not re.fullmatch(f"[0-9a-f]{{{2 * ID_BYTES}}}", id):
            raise Invalid(f"{id!r} is no layer's id.")
        return self._layers / id

    def _all(self) -> Iterator[Path]:
        if self._layers.is_dir():
            yield from sorted(place for place in self._layers.iterdir() if self._is_whole(place))

    def _is_whole(self, place: Path) -> bool:
        """Renamed into its place, and in this boot, or on the disk for sure."""
        if place.name.startswith(".") or not place.is_dir():
            return False
        try:
            return (place / "boot").read_text() == _boot()
        except FileNotFoundError:
            return True


def _note(draft: Path, contents: Contents) -> None:
    with (draft / "contents").open("wb") as file:
        file.writelines(contents.encode())
    (draft / "digests").write_bytes(b"".join(entry.digest for entry in contents.files() if entry.size))
    (draft / "used").touch()
    (draft / "boot").write_text(_boot())


def _digests(place: Path) -> set[bytes]:
    body = (place / "digests").read_bytes()
    return {body[at : at + ID_BYTES] for at in range(0, len(body), ID_BYTES)}


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return "unknown"


def _put_aside(place: Path) -> Path:
    """Before it is removed, so that nobody takes half of it for the whole."""
    if place.name.startswith(".gone."):
        return place
    return place.rename(place.with_name(f".gone.{place.name.lstrip('.')}.{time.time_ns()}"))


def _remove(place: Path) -> None:
    if place.exists():
        shutil.rmtree(_put_aside(place))


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""


def _require_no_mounts(place: Path) -> None:
    if str(place) in _mounts():
        raise SandboxFailed(f"{place} holds mounts.", "Unmount them, then try again.")


def _told(failed: OSError, contents: Contents) -> SojournError:
    what = f"the environment's layer {contents.part.name} ({contents.id[:8]})"
    if failed.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DoesNotFit(f"The disk became full while {what} came.", "Free some there, or choose another node.")
    return SandboxFailed(f"{what} could not be unpacked: {failed}.", "Look at the disk of that node's agent.")


class _Traffic:
    """Who does what in one depot, in this process: an agent's folder has one agent."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._taken: set[str] = set()
        self._coming = 0

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        with self._lock:
            self._lock.wait_for(lambda: name not in self._taken)
            self._taken.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._taken.discard(name)
                self._lock.notify_all()

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        with self._lock:
            self._coming += 1
        try:
            yield
        finally:
            with self._lock:
                self._coming -= 1

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        with self._lock:
            yield not self._coming


_known: dict[Path, _Traffic] = {}
_known_lock = threading.Lock()


def _traffic(folder: Path) -> _Traffic:
    with _known_lock:
        return _known.setdefault(folder.resolve(), _Traffic())
