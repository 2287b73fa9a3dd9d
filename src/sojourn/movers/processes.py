"""Processes that outlive the agent that started them, told apart from whatever may get their number later."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_END_SECONDS = 5.0


@dataclass(frozen=True)
class Lasting:
    """A process by its PID and the moment it was born (clock ticks since boot, proc_pid_stat(5))."""

    pid: int
    born: int

    @staticmethod
    def of(pid: int) -> Lasting:
        return Lasting(pid, _born(pid) or 0)

    @staticmethod
    def noted(note: Any) -> Lasting | None:
        """From what `to_note` gave; None for None."""
        return Lasting(*note) if note else None

    def to_note(self) -> list[int]:
        return [self.pid, self.born]

    def alive(self) -> bool:
        return _born(self.pid) == self.born

    def end(self, seconds: float) -> None:
        """Give it so long to end by itself, then kill it."""
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and its group; returns when it is gone."""
        deadline = time.monotonic() + _END_SECONDS
        while self.alive() and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.001)


def start_module(module: str, arguments: Sequence[str], descriptors: Sequence[int], folder: Path) -> Lasting:
    """Run one of our modules as a process of its own session; what it says of its end lies in `folder`/pager.log."""
    with (folder / "pager.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    threading.Thread(target=process.wait, name="reaper", daemon=True).start()
    return Lasting.of(process.pid)


def _born(pid: int) -> int | None:
    """None for what is gone, or dead and not yet waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
