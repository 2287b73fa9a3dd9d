"""Mount points and the removal of folders, which must never reach through one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from sojourn.errors import SandboxFailed


def mounts_below(folder: Path) -> list[Path]:
    """The mount points at or below a folder, as this process sees them, outer before inner."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            path = Path(_unescape(line.split()[4]))
            if path.is_relative_to(folder):
                found.append(path)
    return found


def remove_tree(folder: Path) -> None:
    """Remove a folder and all below it. Raises SandboxFailed, having removed nothing, when anything is mounted there:
    what lies behind a mount is somebody else's."""
    if mounts := mounts_below(folder.absolute()):
        raise SandboxFailed(f"{folder} holds mounts: {', '.join(map(str, mounts))}", "Unmount them, then try again.")
    if folder.exists():
        shutil.rmtree(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each with the owner of the one it lies in: it may be in somebody's home."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.parent.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)


def _unescape(field: bytes) -> str:
    """mountinfo writes blanks and backslashes as three octal digits."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field))
