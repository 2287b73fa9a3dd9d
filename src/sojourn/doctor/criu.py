"""Which CRIU this machine has, whether it is new enough, and how it gets one that is.

How new it must be depends on the kernel (`sandbox.criu_path`). Where the distribution's is older, `private_criu` puts a
newer one into a folder of its own.
"""

from __future__ import annotations

import re
import shlex
import sys

from sojourn.doctor.findings import Cure, Finding, degraded, missing, ok
from sojourn.doctor.machine import Machine
from sojourn.doctor.packages import install, offered_version
from sojourn.sandbox.criu_path import OLDEST, PRIVATE


def find_criu(machine: Machine) -> str | None:
    """The criu that Sojourn's parts use (docs/contracts.md, section 8)."""
    chosen = machine.environment("SOJOURN_CRIU")
    candidates = [path for path in (chosen, str(PRIVATE)) if path and machine.exists(path)]
    return candidates[0] if candidates else machine.find("criu")


def version_in(text: str) -> tuple[int, ...]:
    """The first dotted number in a text; () without one. Debian's epochs and revisions are left out."""
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def check_version(machine: Machine) -> Finding:
    path = find_criu(machine)
    if path is None:
        return missing("criu", "not installed: sessions can't move live", cure_for(machine))
    answer = machine.run(path, "--version")
    version = version_in(answer.output)
    if not version:
        return missing("criu", f"{path} does not say its version: {_last_line(answer.output)}", cure_for(machine))
    shown, needed = (".".join(map(str, number)) for number in (version, OLDEST))
    if version < OLDEST:
        return missing("criu", f"{shown} at {path} is too old for this kernel, which takes {needed}", cure_for(machine))
    return ok("criu", f"{shown} at {path}")


def check_kernel(machine: Machine) -> Finding:
    """`criu check`: whether this kernel has what CRIU needs."""
    path = find_criu(machine)
    if path is None:
        return missing("criu check", "needs criu", None)
    if not machine.is_root:
        return degraded("criu check", "only root can ask", Cure(f"{path} check", automatic=False))
    answer = machine.run(path, "check")
    if answer.code == 0:
        return ok("criu check", _last_line(answer.output) or "looks good")
    return missing(
        "criu check", f"{path} check: {_reason(answer.output)}", cure_for(machine) if _old(machine) else None
    )


def cure_for(machine: Machine) -> Cure:
    """The distribution's package where it is new enough, else a newer one in a private folder."""
    offered = offered_version(machine, "criu")
    if machine.distribution.family == "debian" and (offered is None or version_in(offered) < OLDEST):
        return Cure(f"{shlex.quote(sys.executable)} -m sojourn.doctor.private_criu", downloads=True)
    return install(machine, "criu")


def _old(machine: Machine) -> bool:
    return check_version(machine).cure is not None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _reason(text: str) -> str:
    errors = [line.strip() for line in text.splitlines() if "Error" in line]
    return errors[0] if errors else _last_line(text)
