"""The root file system of a sandbox: an overlay of what it starts from, a mask, and the session's own writable layer.

    upper/   what the session wrote: travels with it
    mask/    whiteouts over the node's own folders; belongs to the node, made anew at each mount
    lower    the node's root `/`, a folder that holds a root, or the layers of an image that podman has

Hiding by whiteouts costs nothing at a freeze, where each mount costs CRIU about two milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from sojourn import settings
from sojourn.errors import DoesNotFit, Incompatible, SandboxFailed
from sojourn.model.sessions import Mount
from sojourn.sandbox import syscalls
from sojourn.sandbox.folders import excluding
from sojourn.sandbox.images import layers_of
from sojourn.sandbox.layer import Layer, size_of
from sojourn.sandbox.mounts import mounts_below, remove_tree

WHITEOUT = stat.S_IFCHR
"""Overlay's "there is nothing here": a character device 0:0 (Documentation/filesystems/overlayfs.rst)."""
OPAQUE = "trusted.overlay.opaque"

_FIRST_PERSON = 1000
"""Lower user numbers belong to services, which keep no settings of Sojourn's."""
_OPTIONS_LIMIT = 4095
ROOM_LEFT_BYTES = 256 << 20
"""What a node's disk must have free when all is there: a full one stops everybody."""
_MB = 1_000_000
_LIGHTER = "Exclude what the session does not need, share the folder or leave it, or choose another node."
_OVERLAY = "index=off,metacopy=off,redirect_dir=off"
"""All three would write references to this very file system into the layer, which has to travel."""


class RootFilesystem:
    """The overlay in a sandbox's folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "rootfs"
        self.upper = folder / "upper"
        self._mask = folder / "mask"
        self._work = folder / "work"
        self._annexes = folder / "annexes"

    def create(self) -> None:
        for part in (self.root, self.upper, self._mask, self._work):
            part.mkdir(exist_ok=True)
            part.chmod(0o755)  # whatever the umask: the layer's mode is that of the session's `/`

    def carry(self, folder: Mount, skip: Collection[str]) -> None:
        """Copy a folder of the node into the layer, where it stands alone: nothing below shines through. Raises
        DoesNotFit, having copied nothing, when the disk has no room for it."""
        real = Path(os.path.realpath(folder.path))
        original = Layer(real, skip, excluding(folder) if folder.exclude else None)
        index = original.index()
        require_room(shutil.disk_usage(self.upper).free, size_of(index), f"the folder {folder.path}", _LIGHTER)
        place = self._reach(real)
        Layer(place).apply(original.delta({}, index))
        os.setxattr(place, OPAQUE, b"y")
        _mirror(real, place)

    def _reach(self, real: Path, lower: Iterable[str] = ("/",)) -> Path:
        """A folder of the root that these make up in the layer, with all that it lies in."""
        place, roots = self.upper, list(map(Path, lower))
        for part in real.parts[1:]:
            place = place / part
            below = [root / place.relative_to(self.upper) for root in roots]
            _mirror(next(folder for folder in below if folder.is_dir()), place)
        return place

    def mount(self, lower: Iterable[str], hidden: Iterable[str]) -> None:
        """Put it together at `root`; `lower` as `lower_of` gives it. Raises SandboxFailed with the kernel's reason."""
        if self.mounted():
            return
        layers = list(lower)
        if layers == ["/"]:
            with self._masked(hidden):
                _mount([str(self._mask), *layers], self.upper, self._work, self.root)
        else:
            _mount(layers, self.upper, self._work, self.root)

    def annex(self, path: str) -> Path:
        """Where `mount_annex` mounts a folder of the session."""
        return self._annexes / sha256(path.encode()).hexdigest()[:16] / "folder"

    def mount_annex(self, path: str, lower: Sequence[str]) -> None:
        """An overlay of its own for a folder that is to be seen inside another one of the node: below is what `lower`
        has there, above the session's layer. The layer's own overlay must not be used there."""
        place, above = self.annex(path), self.upper / path.lstrip("/")
        work = place.with_name("work")
        if not above.is_dir():
            self._reach(Path(path), lower)
        for folder in (place, work):
            folder.mkdir(parents=True, exist_ok=True)
        if place not in mounts_below(place):
            below = [layer.rstrip("/") + path for layer in lower]
            _mount([folder for folder in below if Path(folder).is_dir()], above, work, place)

    @contextlib.contextmanager
    def _masked(self, hidden: Iterable[str]) -> Iterator[None]:
        """The mask, for as long as it takes to mount: the overlay keeps it afterwards.

        It is a tmpfs because no layer may lie inside another one, and the node's root holds every folder of its disk.
        """
        syscalls.mount("sojourn", str(self._mask), "tmpfs", options="mode=755,size=1m")
        try:
            _mirror(Path("/"), self._mask)
            for path in hidden:
                hide(self._mask, path)
            empty(self._mask, "/run")
            yield
        finally:
            syscalls.unmount(str(self._mask), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)

    def write(self, path: str, body: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
        """Write a file of the session through the mounted overlay, before anything runs inside. Folders that are
        missing are made, and belong to its owner."""
        real = resolve_inside(self.root, path)
        for parent in reversed(real.parents):
            if parent.is_relative_to(self.root) and not parent.exists():
                parent.mkdir()
                parent.chmod(0o755)
                os.chown(parent, uid, gid)
        real.unlink(missing_ok=True)
        with os.fdopen(os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(body)
        real.chmod(mode)
        os.chown(real, uid, gid)

    def mounted(self) -> bool:
        return any(path == self.root for path in mounts_below(self.root))

    def unmount(self) -> None:
        """Take away every mount of it, the deepest first."""
        for path in reversed([*mounts_below(self._mask), *mounts_below(self.root), *mounts_below(self._annexes)]):
            syscalls.unmount(str(path), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)


def _mount(lower: list[str], upper: Path, work: Path, root: Path) -> None:
    layers = ":".join(map(_escape, lower))
    options = f"lowerdir={layers},upperdir={_escape(str(upper))},workdir={_escape(str(work))},{_OVERLAY}"
    if len(options) > _OPTIONS_LIMIT:
        raise SandboxFailed("The image has too many layers for one mount.", "Squash it, or unpack it into a folder.")
    try:
        # No devices: an image may hold some, and CRIU's restore, unlike runc, puts no device rules on the cgroup.
        syscalls.mount("sojourn", str(root), "overlay", syscalls.MS_NODEV, options)
    except OSError as failed:
        raise SandboxFailed(f"The overlay at {root} can't be mounted: {failed.strerror}") from failed


# ── what lies below ──


def lower_of(image: str | None) -> tuple[list[str], str]:
    """The read-only layers of a session's `image`, the topmost first, and the image's own identity, the same on every
    node that has this image (empty for a folder). Raises Incompatible when this node lacks it."""
    if image is None:
        return ["/"], ""
    if image.startswith("/"):
        if not Path(image).is_dir():
            raise Incompatible(f"This node has no root folder {image}.", "Unpack it there, or choose another node.")
        return [image], ""
    return layers_of(image)


def find_in(lower: Iterable[str], paths: Iterable[str]) -> str | None:
    """The first of these absolute paths that a session will find in its root. An overlay does not reach into what is
    mounted below its layers."""
    layers = [Path(layer) for layer in lower]
    mounts = [mount for mount in mounts_below(Path("/")) if mount != Path("/")]
    for path in paths:
        for layer in layers:
            place = layer / path.lstrip("/")
            elsewhere = any(place.is_relative_to(mount) and not layer.is_relative_to(mount) for mount in mounts)
            if os.path.lexists(place) and not elsewhere:
                return path
    return None


def resolve_inside(root: Path, path: str) -> Path:
    """Where an absolute path of the sandbox lies on the node: symbolic links are followed as they would be inside."""
    place, rest = root, [part for part in reversed(path.split("/")) if part]
    for _ in range(1000):
        if not rest:
            return place
        part = rest.pop()
        if part in {".", ".."}:
            place = place if part == "." or place == root else place.parent
        elif (step := place / part).is_symlink():
            target = str(step.readlink())
            place = root if target.startswith("/") else place
            rest += [piece for piece in reversed(target.split("/")) if piece]
        else:
            place = step
    raise SandboxFailed(f"{path} in {root} goes round in symbolic links.")


def require_room(free_bytes: int, size_bytes: int, what: str, hint: str = "") -> None:
    """Whether so much more fits on a disk. Raises DoesNotFit."""
    if size_bytes > max(free_bytes - ROOM_LEFT_BYTES, 0):
        raise DoesNotFit(
            f"There is no room for {what}: {size_bytes / _MB:,.0f} MB, and {free_bytes / _MB:,.0f} MB are free.",
            hint or "Free some there, or choose another node.",
        )


# ── what is hidden ──


def hidden_folders() -> list[str]:
    """Where Sojourn keeps secrets and state on this machine: this user's settings and data, and every other user's."""
    folders = [settings.config_folder(), settings.data_folder(), settings.nodes_folder(), Path("/var/lib/sojourn")]
    people = [user for user in pwd.getpwall() if user.pw_uid == 0 or user.pw_uid >= _FIRST_PERSON]
    for home in {Path(user.pw_dir) for user in people if Path(user.pw_dir).is_dir()} - {Path("/")}:
        folders += [home / ".config/sojourn", home / ".local/share/sojourn"]
    return sorted({str(folder.absolute()) for folder in folders})


def hide(mask: Path, path: str) -> None:
    """Hide one path of the node's root. Of a path that does not exist, its first missing folder is hidden."""
    real = Path(os.path.realpath(path))
    place = mask
    for part in real.parts[1:]:
        place, below = place / part, Path("/", (place / part).relative_to(mask))
        if _is_whiteout(place):
            return
        if below == real or not below.is_dir():
            _remove(place)
            os.mknod(place, WHITEOUT, 0)
            return
        _mirror(below, place)


def empty(mask: Path, path: str) -> None:
    """Show a folder of the node's root, but nothing in it."""
    if not Path(path).is_dir() or os.path.realpath(path) != path:
        return
    place = mask / path.lstrip("/")
    _remove(place)
    _mirror(Path(path), place)
    os.setxattr(place, OPAQUE, b"y")


def _mirror(original: Path, copy: Path) -> None:
    """The topmost layer's owner, mode and time win where overlay merges folders: take over the original's."""
    there = original.stat()
    copy.mkdir(exist_ok=True)
    os.chown(copy, there.st_uid, there.st_gid)
    copy.chmod(stat.S_IMODE(there.st_mode))
    os.utime(copy, ns=(there.st_atime_ns, there.st_mtime_ns))


def _is_whiteout(path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(there.st_mode) and there.st_rdev == 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
