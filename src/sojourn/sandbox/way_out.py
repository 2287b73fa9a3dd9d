"""The way out of a sandbox's network namespace: pasta, a network in user mode.

Every sandbox has the same address on every node, so a connection can be restored anywhere; the other end of one that
led outside is gone after a move, and it is reset. Nothing leads in, and the node's own loopback cannot be reached.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

NAMESERVER = "169.254.250.3"
"""What pasta answers as the node's own first nameserver."""

_START_SECONDS = 5.0
_END_SECONDS = 5.0
_ADDRESS, _PREFIX, _GATEWAY = "169.254.250.2", "24", "169.254.250.1"
_OPTIONS = (
    *("--config-net", "--ipv4-only", "--ns-ifname", "eth0", "--quiet"),
    *("--address", _ADDRESS, "--netmask", _PREFIX, "--gateway", _GATEWAY, "--dns-forward", NAMESERVER),
    *("--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"),
)


def no_way_out() -> str:
    """Why no sandbox of this node has a network; "" when one can have."""
    return "" if shutil.which("pasta") else "pasta is not installed"


class WayOut:
    """The pasta of one namespace, told by its command line. Without it a sandbox has its loopback and nothing else."""

    def __init__(self, netns: Path) -> None:
        self._netns = netns
        self._starting: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start it; `finish` waits. In between other things can be made ready."""
        if not no_way_out():
            # Without --runas it would become nobody, who may not enter a namespace of root's.
            self._starting = subprocess.Popen(
                ["pasta", "--netns", str(self._netns), *_OPTIONS, "--runas", "0"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )

    def finish(self) -> str:
        """Wait until it is open. Returns why it is not; "" when all is well."""
        starting, self._starting = self._starting, None
        if starting is None:
            return no_way_out()
        try:
            _, words = starting.communicate(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            starting.kill()
            words = "pasta did not start in time"
        return words.strip() if starting.wait() else ""

    def close(self) -> None:
        """End it. Looked for again until none is found: one that is just starting forks."""
        deadline = time.monotonic() + _END_SECONDS
        while (found := self._processes()) and time.monotonic() < deadline:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)

    def _processes(self) -> list[int]:
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_ours(entry)]

    def _is_ours(self, process: Path) -> bool:
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            return words[0] == b"pasta" and os.fsencode(self._netns) in words
        return False
