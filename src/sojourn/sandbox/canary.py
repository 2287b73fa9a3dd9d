"""Whether a folder on one node is the very folder that another node has at the same path, and not just its namesake.

Both ends of a move look at the folder in the same way, and what they see is compared; the first of these that the
source has seen decides:

    canary   a file with a random text, which the source has put there a moment before; it is gone a moment later
    id       `.sojourn/id`: the folder's own random id, put there by the first save of a session that uses it, for a
             wake has no source. It names its own inode, so a copy of the folder (rsync, a backup) is not taken for it;
             a copy that is to stand in for the folder says so in `.sojourn/stands-for`, one id per line
    inodes   of the folder and of what lies in it: all there is where a session's user may not write

A network file system gives all its clients the same inode numbers; disks that were copied block by block have the same
too, which is why they come last. Nothing is written where the session's user could not write: all is done with that
user's rights, which is also what a server that trusts no foreign root goes by.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from sojourn.errors import Incompatible, Unreachable
from sojourn.model.sessions import Sight
from sojourn.sandbox import syscalls

PREFIX = ".sojourn-canary-"
PLACE = ".sojourn"
STALE_SECONDS = 3600.0
"""A canary that old was left behind by an agent that was killed and never came back."""
PATIENCE_SECONDS = 10.0
_MOST_ENTRIES = 32
_MOST_LISTED = 20_000
_LONGEST = 4096
_NO_TRAPS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

Result = TypeVar("Result")


Sights = Mapping[str, Sight]
"""Of each shared folder."""


@dataclass(frozen=True)
class User:
    """By whose rights files are looked at."""

    uid: int
    gid: int

    def does(self, work: Callable[[], Result], what: str) -> Result:
        """Do something as this user, in a thread of its own; raises what it raises, and Unreachable when the file
        system does not answer."""
        done: list[Result] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                if sys.platform == "linux" and os.geteuid() == 0:
                    syscalls.act_as(self.uid, self.gid)
                done.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="folders", daemon=True)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        if failed:
            raise failed[0]
        if not done:
            raise Unreachable(f"{what} does not answer.", "Is its file server there?")
        return done[0]


# ── what the two ends do ──


@contextmanager
def canaries(folders: Iterable[str], move: str, user: User) -> Iterator[dict[str, Sight]]:
    """Put a canary into each folder; gives what is then seen of them. They are gone afterwards."""
    folders = list(folders)
    try:
        put(folders, move, user)
        yield look(folders, user, move)
    finally:
        forget(folders, move, user)


def put(folders: Iterable[str], move: str, user: User) -> None:
    """Where the user may. To be taken away by `forget`."""
    for folder in folders:
        user.does(partial(_put, Path(folder), move), folder)


def forget(folders: Iterable[str], move: str, user: User) -> None:
    """Take a move's canaries away, and those that others left behind. Right any number of times."""
    for folder in folders:
        with contextlib.suppress(OSError, Unreachable):
            user.does(partial(_sweep, Path(folder), move), folder)


def look(folders: Iterable[str], user: User, move: str = "") -> dict[str, Sight]:
    """What is seen of each; `move`: whose canary to look for."""
    return {folder: user.does(partial(_see, Path(folder), move), folder) for folder in folders}


def named(folders: Iterable[str], user: User) -> dict[str, Sight]:
    """What to know each by when it is met again: an id, which is given to a folder that has none."""
    folders = list(folders)
    for folder in folders:
        with contextlib.suppress(OSError):
            user.does(partial(_give_id, Path(folder)), folder)
    return look(folders, user)


def require_same(known: Sights, here: str, seen: Sights, there: str) -> None:
    """`here`, `there`: in words ("node here"). Raises Incompatible, naming the first folder that is another one there.
    On one and the same node a folder that has lost its id is known by its inode."""
    for path, folder in known.items():
        found = seen.get(path, Sight())
        if not (is_same(folder, found) or (here == there and folder.inode == found.inode != 0)):
            raise Incompatible(
                f"{path} of {there} is another folder than {path} of {here}, which the session shares.",
                _cure(path, folder),
            )


def is_same(known: Sight, seen: Sight) -> bool:
    """Whether the two were seen of one folder."""
    if known.canary:
        return seen.canary == known.canary
    if known.id:
        return known.id in {seen.id, *seen.stands_for}
    if known.inode != seen.inode or not known.inode:
        return False
    if not known.entries:
        return not seen.entries and known.changed_ns == seen.changed_ns
    common = known.entries.keys() & seen.entries.keys()
    return bool(common) and all(known.entries[name] == seen.entries[name] for name in common)


def _cure(path: str, folder: Sight) -> str:
    hint = "Mount the same one there, or have such sessions carry it, or leave it (`left`: each node's own)."
    if folder.id and not folder.canary:
        place = f"{path}/{PLACE}"
        hint += f" If the one there is to stand in for it: mkdir -p {place}; echo {folder.id} >>{place}/stands-for"
    return hint


# ── in one folder, with its user's rights ──


def _put(folder: Path, move: str) -> None:
    with contextlib.suppress(OSError):  # who may not write is recognised by what else is seen
        _write(folder / f"{PREFIX}{move}", secrets.token_hex(16), 0o600)


def _sweep(folder: Path, move: str) -> None:
    now = time.time()
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, _MOST_LISTED):
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    if entry.name == PREFIX + move or entry.stat(follow_symlinks=False).st_mtime < now - STALE_SECONDS:
                        Path(entry.path).unlink()


def _see(folder: Path, move: str) -> Sight:
    try:
        there = folder.stat()
    except OSError:
        return Sight()
    if move and (canary := _read(folder / f"{PREFIX}{move}")):
        return Sight(of=move, canary=canary)
    return Sight(
        of=move,
        id=_own_id(folder),
        stands_for=tuple((_read(folder / PLACE / "stands-for") or "").split()),
        inode=there.st_ino,
        changed_ns=there.st_ctime_ns,
        entries=_entries(folder),
    )


def _entries(folder: Path) -> dict[str, int]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        listed = [entry for entry in itertools.islice(entries, _MOST_LISTED) if not entry.name.startswith(PREFIX)]
        some = sorted(listed, key=lambda entry: entry.name)[:_MOST_ENTRIES]
        return {entry.name: entry.inode() for entry in some}
    return {}


def _own_id(folder: Path) -> str | None:
    """None for a copy: it still names the inode of the file that it was copied from."""
    path = folder / PLACE / "id"
    with contextlib.suppress(OSError):
        words = (_read(path) or "").split()
        if len(words) == 2 and words[1] == str(path.stat(follow_symlinks=False).st_ino):
            return words[0]
    return None


def _give_id(folder: Path) -> None:
    if _own_id(folder):
        return
    place = folder / PLACE
    place.mkdir(mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        _write(place / ".gitignore", "*\n", 0o644)
    draft = place / f"id.{secrets.token_hex(8)}"
    _write(draft, "", 0o644)
    try:
        with draft.open("w") as file:
            file.write(f"{secrets.token_hex(16)} {draft.stat().st_ino}\n")
        if (place / "id").exists():  # a copy's
            draft.rename(place / "id")
        else:
            with contextlib.suppress(FileExistsError):  # somebody else was quicker
                (place / "id").hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)


def _read(path: Path) -> str | None:
    """Whose folder it is may put anything there: a link is not followed, nor is a FIFO waited for."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_TRAPS), "rb") as file:
            return file.read(_LONGEST).decode()
    except (OSError, ValueError):
        return None
