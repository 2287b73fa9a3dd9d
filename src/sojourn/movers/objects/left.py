"""What of a session is no object, and stays behind in a move by objects: it is named, never left in silence."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from sojourn.model import LostName, Luggage
from sojourn.sandbox.base import Sandbox
from sojourn.sandbox.layer import Index

_NOBODYS = (
    *("run/sojourn", "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf"),
    *("root/.ipython", "root/.cache", "root/.config"),
)
"""What sandboxes are furnished with, and where a kernel writes by itself."""
_NAMED = 5


@dataclass(frozen=True)
class Behind:
    """`lost`: the folders that the session carries. `notes`: of other files that it has written inside its sandbox."""

    lost: tuple[LostName, ...]
    notes: tuple[str, ...]

    def beside(self, luggage: Luggage) -> Luggage:
        """The luggage, with all of it."""
        both = {"lost": (*luggage.lost, *self.lost), "notes": (*luggage.notes, *self.notes)}
        return luggage.model_copy(update=both)


def left_behind(sandbox: Sandbox) -> Behind:
    """Found by looking through the sandbox's layer: to be done while the session runs."""
    carried = tuple(
        LostName(name=mount.path, path=mount.path, why="a folder that the session carries; objects bring no folders")
        for mount in sandbox.plan.spec.mounts
        if mount.mode == "carried"
    )
    files = list(_written(sandbox.layer.index())) if sandbox.plan.kind == "runc" else []
    files = [path for path in files if not any(_is_below(path, lost.path) for lost in carried)]
    note = f"{len(files)} files that it wrote stay behind: {_some(files)}"
    return Behind(carried, (note,) if files else ())


def _written(index: Index) -> Iterator[str]:
    for path, stamp in index.items():
        parts = PurePosixPath(path).parts
        if stat.S_ISREG(stamp[0]) and "__pycache__" not in parts and not any(_is_below(path, own) for own in _NOBODYS):
            yield f"/{path}"


def _is_below(path: str, folder: str) -> bool:
    return PurePosixPath("/", path).is_relative_to(PurePosixPath("/", folder))


def _some(files: list[str]) -> str:
    return ", ".join(files[:_NAMED]) + (", …" if len(files) > _NAMED else "")
