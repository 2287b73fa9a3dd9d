"""Where CRIU is (docs/contracts.md, section 8)."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from sojourn.errors import Incompatible


def oldest_for(kernel: str) -> tuple[int, int]:
    """The oldest CRIU that works on a kernel, given its release (`6.18.44-…`).

    Before 4.1 the vDSO of new kernels is not understood; Linux 6.16 stopped answering SO_PASSCRED for TCP sockets,
    which CRIU asked for until 4.2.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", kernel)[:2])
    return (4, 2) if numbers >= (6, 16) else (4, 1)


OLDEST = oldest_for(platform.release())
PRIVATE = Path("/opt/sojourn/criu/criu")


def find_criu() -> tuple[str, tuple[int, ...]]:
    """CRIU's path and version. Raises Incompatible when there is none, or none new enough."""
    path = _candidate()
    if path is None:
        raise Incompatible("CRIU is not installed on this node.", "Run `sojourn doctor`: it names the command.")
    version = _version(path)
    if version < OLDEST:
        shown = ".".join(map(str, version)) or "unknown"
        raise Incompatible(
            f"CRIU at {path} is version {shown}; {OLDEST[0]}.{OLDEST[1]} or newer is needed.",
            "Run `sojourn doctor`: it names the command.",
        )
    return path, version


def _candidate() -> str | None:
    chosen = os.environ.get("SOJOURN_CRIU")
    if chosen and Path(chosen).exists():
        return chosen
    return str(PRIVATE) if PRIVATE.exists() else shutil.which("criu")


@cache
def _version(path: str) -> tuple[int, ...]:
    """() for a program that does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"Version:\s*v?(\d+(?:\.\d+)+)", said)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()
