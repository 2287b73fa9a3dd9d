"""Carry out the cures that need no decision, telling each command before it runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

from sojourn.doctor.checks import examine
from sojourn.doctor.findings import Cure, Finding, State
from sojourn.doctor.machine import Machine
from sojourn.doctor.packages import UPDATE


def cure(machine: Machine, tell: Callable[[str], None], node: bool = False) -> list[Finding]:
    """Cure what can be cured without asking; the findings afterwards.

    `tell` gets each command before it runs, and what went wrong with it. A cure that fails does not stop the others.
    `node`: see `examine`.
    """
    findings = examine(machine, prove=False, node=node)
    if any(remedy.downloads for remedy in automatic(findings)):
        _update_lists(machine, tell)
        # With fresh lists another cure may be right: the distribution's criu may be new enough after all.
        findings = examine(machine, prove=False, node=node)
    for remedy in automatic(findings):
        _carry_out(machine, remedy, tell)
    return examine(machine, node=node)


def automatic(findings: list[Finding]) -> list[Cure]:
    """The cures that --fix may run, each once, in the order of the findings."""
    sick = [finding for finding in findings if finding.state is not State.OK and finding.cure]
    return list(dict.fromkeys(finding.cure for finding in sick if finding.cure and finding.cure.automatic))


def _update_lists(machine: Machine, tell: Callable[[str], None]) -> None:
    if command := UPDATE.get(machine.distribution.family):
        _carry_out(machine, Cure(command), tell)


def _carry_out(machine: Machine, remedy: Cure, tell: Callable[[str], None]) -> None:
    line = remedy.line(machine.is_root)
    if remedy.needs_root and not machine.is_root and shutil.which("sudo") is None:
        tell(f"As root, run: {remedy.command}")
        return
    tell(f"$ {line}")
    done = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        tell(f"That failed (exit code {done.returncode}).")
