"""The folders of a node that a session sees: which of them make sense, which lie in which, what a copy leaves out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from sojourn.errors import Incompatible, Invalid
from sojourn.model.sessions import Mount

Excludes = Callable[[str, bool], bool]
"""Of a path below a folder, and whether it is a folder itself: is it left out?"""

RESERVED = ("/", "/proc", "/sys", "/dev", "/run")
OWN = ("/proc/", "/sys/", "/dev/", "/run/sojourn")
"""What a sandbox has of its own, whatever the node has there."""


def check(mounts: Iterable[Mount], files: Iterable[str]) -> None:
    """Whether a session may have these folders, beside its private files. Raises Invalid, naming the folder."""
    files, seen = list(files), set[str]()
    for mount in mounts:
        _check_path(mount.path)
        if mount.path in seen:
            raise Invalid(f"The folder {mount.path} is named twice.", "A folder is shared, carried or left.")
        seen.add(mount.path)
        inside = [path for path in files if mount.mode != "carried" and is_inside(path, mount.path)]
        if inside:
            raise Invalid(
                f"The private file {inside[0]!r} would lie in the {mount.mode} folder {mount.path}.",
                "Put it elsewhere.",
            )
        check_excludes(mount)


def _check_path(path: str) -> None:
    if os.path.normpath(path) != path or not path.startswith("/"):
        raise Invalid(f"{path!r} can't be mounted: it is not a plain absolute path.")
    if path in RESERVED or path.startswith(OWN):
        raise Invalid(f"{path!r} can't be mounted: a sandbox has its own.", "Name the folder with your files.")


def check_excludes(mount: Mount) -> None:
    """Raises Invalid where something is excluded that is not carried, or a pattern means nothing."""
    if not mount.exclude:
        return
    if mount.mode != "carried":
        raise Invalid(
            f"Nothing can be excluded from {mount.path}: it is {mount.mode}.", "Carry it, or exclude nothing."
        )
    excluding(mount)


def require(mounts: Iterable[Mount], node: str, born: bool) -> None:
    """Whether the node has what it must have of them. `born`: the session starts here, and what it is to carry is here.
    Raises Incompatible."""
    needed = [mount for mount in mounts if mount.mode == "shared" or (mount.mode == "carried" and born)]
    for mount in needed:
        if not Path(mount.path).is_dir():
            ways = "mount it there, or name it `left`" if born else "mount it there, or start sessions that carry it"
            raise Incompatible(f"Node {node} has no folder {mount.path}.", f"Choose another node; {ways}.")


def excluding(mount: Mount) -> Excludes:
    """Raises Invalid for a pattern that means nothing."""
    from pathspec import GitIgnoreSpec  # only where something is carried

    try:
        spec = GitIgnoreSpec.from_lines(mount.exclude)
    except ValueError as wrong:
        raise Invalid(
            f"What {mount.path} is to be carried without makes no sense: {wrong}", "Write patterns as in a .gitignore."
        ) from wrong
    takes_back = any(pattern.lstrip().startswith("!") for pattern in mount.exclude)

    def excludes(path: str, is_folder: bool) -> bool:
        if is_folder:  # one that is left out is not looked into, so what a later pattern takes back is not found
            return not takes_back and spec.match_file(f"{path}/")
        return spec.match_file(path)

    return excludes


# ── which lie in which ──


def standing(mounts: Iterable[Mount]) -> list[Mount]:
    """Outer before inner, without those that add nothing: a shared folder in a shared one is there anyway, and a mount
    in a covered folder would have no place to be restored at."""
    kept: list[Mount] = []
    for mount in sorted(mounts, key=lambda mount: mount.path):
        around = enclosing(mount.path, kept)
        if around is None or around.mode != mount.mode or mount.mode == "carried":
            kept.append(mount)
    return kept


def enclosing(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The innermost of the folders that a path lies in, other than itself."""
    around = [mount for mount in mounts if mount.path != path and is_inside(path, mount.path)]
    return max(around, key=lambda mount: len(mount.path), default=None)


def is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


# ── what stays behind ──


def make_for(path: Path, uid: int, gid: int) -> None:
    """Make a folder that the node lacks, and those above it, for a session's user."""
    if not path.is_dir():
        make_for(path.parent, uid, gid)
        path.mkdir(mode=0o755, exist_ok=True)
        os.chown(path, uid, gid)


def own_of(node_folders: Iterable[Mount]) -> tuple[str, ...]:
    """The folders that were left, in a person's words: what a session finds there instead."""
    left = [mount.path for mount in node_folders if mount.mode == "left"]
    return tuple(f"{path} (empty there)" if _is_empty(path) else path for path in left)


def _is_empty(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return True
