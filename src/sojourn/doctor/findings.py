"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    """Sojourn works, with less: `detail` says what is lost."""
    MISSING = "missing"
    """Sessions cannot move live on this machine until this is cured."""


@dataclass(frozen=True)
class Cure:
    """The command that cures a finding, as a line for a shell."""

    command: str
    needs_root: bool = True
    automatic: bool = True
    """Whether `--fix` may run it: it needs no decision."""
    downloads: bool = False
    """Whether the package manager's lists have to be fresh."""

    def line(self, is_root: bool) -> str:
        """What a person types: with sudo where they are not root."""
        return f"sudo {self.command}" if self.needs_root and not is_root else self.command


@dataclass(frozen=True)
class Finding:
    name: str
    state: State
    detail: str
    cure: Cure | None = None


def ok(name: str, detail: str) -> Finding:
    return Finding(name, State.OK, detail)


def degraded(name: str, detail: str, cure: Cure | None = None) -> Finding:
    return Finding(name, State.DEGRADED, detail, cure)


def missing(name: str, detail: str, cure: Cure | None = None) -> Finding:
    return Finding(name, State.MISSING, detail, cure)
