"""The agent's folder: locked, so that two agents never hold the same sandboxes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from sojourn.errors import Busy

_lock: Callable[[IO[str]], None]
if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        # One byte far behind the text, so that the PID stays readable for others.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        # A record lock, because a process forked from the agent (a pager) must not inherit the claim.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Folder:
    """One agent's folder, held until `release()` or the end of the process.

    Raises Busy, naming the process that holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.sandboxes = self.path / "sandboxes"
        self.journal = self.path / "journal.sqlite"
        self.node_file = self.path / "node.json"
        self.capabilities_file = self.path / "capabilities.json"
        self._claim = self._hold(self.path / "lock")

    def release(self) -> None:
        self._claim.close()

    def _hold(self, path: Path) -> IO[str]:
        file = path.open("a+")
        try:
            _lock(file)
        except OSError as held:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise Busy(
                f"An agent (process {holder}) already works in {self.path}.",
                "Stop that one first, or give this one another --folder.",
            ) from held
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file
