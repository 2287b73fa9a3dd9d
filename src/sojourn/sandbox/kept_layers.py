"""The writable layers of sessions that have left a node: kept for a day, so that one that comes back brings only
what has changed since.

    <folder>/<session>/<move>/    the layer as it was at the freeze of the move by which the session left

A layer that arrived is remembered together with the move that brought it, in its sandbox's folder: the index of what
came. When the session leaves again, for a node that has kept what left it by that very move, the delta begins there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from sojourn.sandbox.layer import Index
from sojourn.sandbox.mounts import remove_tree

KEPT_SECONDS = 24 * 3600.0
LEAST_FREE = 0.1
"""Of the disk: below that, nothing is kept."""
_CAME = "came.json"


class KeptLayers:
    """Those of one node. The folder may be missing; it lies on the disk of the sandboxes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, session: str, move: str, upper: Path) -> None:
        """Take over the layer of a session that is gone from here. Right any number of times."""
        if not upper.is_dir() or is_in_memory(upper):
            return
        self.drop(session)
        (self._folder / session).mkdir(parents=True, mode=0o700)
        upper.rename(self._folder / session / move)

    def take(self, session: str, move: str, upper: Path) -> bool:
        """Begin the layer of a session that comes back with what left by this move. False, and nothing kept any longer,
        when that is not here."""
        kept = self._folder / session / move
        found = move.isalnum() and kept.is_dir()  # the name comes from another node, which need not be believed
        if found:
            upper.rmdir()
            kept.rename(upper)
        self.drop(session)
        return found

    def drop(self, session: str) -> None:
        remove_tree(self._folder / session)

    def sweep(self, now: float) -> None:
        """Drop what is too old, or all when the disk fills up. `now`: seconds since 1970."""
        if not self._folder.is_dir():
            return
        disk = shutil.disk_usage(self._folder)
        for session in list(self._folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # it comes back in this very moment
                if disk.free < disk.total * LEAST_FREE or session.stat().st_mtime < now - KEPT_SECONDS:
                    self.drop(session.name)


def remember(folder: Path, move: str, came: Index) -> None:
    """Note in a sandbox's folder what came, and by which move."""
    draft = folder / f".{_CAME}"
    draft.write_text(json.dumps({"move": move, "index": came}))
    draft.rename(folder / _CAME)


def remembered(folder: Path) -> tuple[str, Index]:
    """The move, and the index of what it brought; an empty one, and "", where nothing came by a move."""
    try:
        said = json.loads((folder / _CAME).read_text())
    except FileNotFoundError:
        return "", {}
    return said["move"], {path: tuple(stamp) for path, stamp in said["index"].items()}


def is_in_memory(folder: Path) -> bool:
    """Whether a folder lies in a tmpfs, where a file may change by its mapping and keep its time."""
    there = folder.stat().st_dev
    device = f"{os.major(there)}:{os.minor(there)}"
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return any(fields[2] == device and fields[fields.index("-") + 1] == "tmpfs" for fields in lines)
