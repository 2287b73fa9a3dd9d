"""The folders of anchors' Unix sockets: in the system's place for temporary files, because their paths must be short.

A front that is killed leaves its folders; the next one removes them.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path

_PREFIX = "sojourn-anchor-"


def make_socket_folder() -> Path:
    """A new folder that this user alone may enter; its name tells whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def remove_orphaned_folders() -> None:
    """Those of this user whose process is gone and whose sockets nobody answers at: a process in a container may share
    the folders and yet not be seen."""
    if sys.platform == "win32":  # which has no such sockets
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if _is_ours(folder) and not _is_alive(folder) and not any(map(_answers, folder.iterdir())):
                shutil.rmtree(folder)
        except OSError:  # somebody else's, or gone meanwhile
            continue


def _is_ours(folder: Path) -> bool:
    there = folder.lstat()
    return stat.S_ISDIR(there.st_mode) and there.st_uid == os.geteuid() and stat.S_IMODE(there.st_mode) == 0o700


def _is_alive(folder: Path) -> bool:
    found = re.match(rf"{_PREFIX}(\d+)-", folder.name)
    if found is None:
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _answers(path: Path) -> bool:
    """Also when it is no socket: then somebody has put it there."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return not stat.S_ISSOCK(path.lstat().st_mode)
        except OSError:
            return True
    return True
