"""What this node can do, found out once per boot and per set of programs, and kept on disk."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sojourn import __version__, movers
from sojourn.agent import machine
from sojourn.errors import DoesNotFit, SojournError
from sojourn.model import Capabilities, SandboxKind
from sojourn.sandbox.criu_path import find_criu
from sojourn.sandbox.way_out import no_way_out
from sojourn.settings import write_private

log = logging.getLogger(__name__)

Choice = Literal["auto", "runc", "process"]


def capabilities(kept: Path, choice: Choice) -> Capabilities:
    """From the file `kept` when it was written on this boot for the same programs, else found out (a second or so).

    Raises DoesNotFit when only runc sandboxes are wanted and there can be none.
    """
    circumstances = _circumstances(choice)
    try:
        body = json.loads(kept.read_text())
        if body["circumstances"] == circumstances:
            return Capabilities.model_validate(body["capabilities"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        pass
    found = _find(choice)
    write_private(kept, {"circumstances": circumstances, "capabilities": found.model_dump(mode="json")})
    return found


def _find(choice: Choice) -> Capabilities:
    processor = machine.processor()
    missing = "Turned off with --sandbox process." if choice == "process" else _why_no_runc()
    strategies, refusals = ((), dict.fromkeys(("runc", "lazy", "copy"), missing)) if missing else _probed()
    if not missing and (closed := no_way_out()):
        refusals = {**refusals, "network": closed}
    return Capabilities(
        os=platform.system().lower(),
        arch=platform.machine(),
        kernel=platform.release(),
        python=platform.python_version(),
        sojourn=__version__,
        machine_id=machine.machine_id(),
        root_id=machine.root_id(),
        cpu_model=processor.model,
        cpu_flags=processor.flags,
        xsave_bytes=processor.xsave_bytes,
        criu=_criu_version(),
        runc=_runc_version(),
        sandboxes=sandbox_kinds(choice, refusals),
        strategies=strategies,
        refusals=refusals,
    )


def _why_no_runc() -> str | None:
    if sys.platform != "linux":
        return "runc needs Linux"
    from sojourn.sandbox.runc import runc_missing  # imports what only Linux has

    return runc_missing()


def _probed() -> tuple[tuple[str, ...], dict[str, str]]:
    """A probe that fails in a way nobody thought of costs the node its moves, not its sessions."""
    try:
        return movers.probe()
    except Exception as failed:
        log.exception("could not find out how sessions can move from here")
        return (), dict.fromkeys(("lazy", "copy"), f"the probe failed: {failed!r}")


def _criu_path() -> str | None:
    try:
        return find_criu()[0]
    except SojournError:
        return None


def _criu_version() -> str | None:
    try:
        return ".".join(map(str, find_criu()[1]))
    except SojournError:
        return None


def _runc_version() -> str | None:
    try:
        said = subprocess.run(["runc", "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.partition("\n")[0].removeprefix("runc version ").strip() or None


def sandbox_kinds(choice: Choice, refusals: dict[str, str]) -> tuple[SandboxKind, ...]:
    """The kinds a node makes, the preferred one first."""
    if choice == "process" or (choice == "auto" and "runc" in refusals):
        return ("process",)
    if "runc" in refusals:
        raise DoesNotFit(
            f"This node can't make runc sandboxes: {refusals['runc']}",
            "Leave --sandbox out to use plain processes, or see `sojourn doctor`.",
        )
    return ("runc",) if choice == "runc" else ("runc", "process")


def _circumstances(choice: Choice) -> dict[str, Any]:
    """What the answer depends on, as JSON gives it back."""
    return {
        "boot": machine.boot_id(),
        "sojourn": __version__,
        "choice": choice,
        "user": os.geteuid() if hasattr(os, "geteuid") else 0,
        "programs": [_stamp(_criu_path()), _stamp(shutil.which("runc")), _stamp(shutil.which("pasta"))],
    }


def _stamp(program: str | None) -> list[str | int] | None:
    """Changes when the program is replaced by another."""
    try:
        return [program, Path(program).stat().st_mtime_ns] if program else None
    except OSError:
        return None
