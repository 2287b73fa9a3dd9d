"""What became of each probe of a state, by comparing portraits from before and after; pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.states.state import names_in
from sojourn.compare.inside.portraits import Portrait, in_brief
from sojourn.compare.inside.ways import Loss

ROOT_NAME = re.compile(r"[^\W\d]\w*")
"""What a loss speaks of: `config["db"].conn` is of config."""


class Verdict(StrEnum):
    """What became of one probe."""

    IDENTICAL = "identical"
    TOLD = "told"
    """Changed or gone, and the way said so."""
    CHANGED = "changed"
    """Another value than before, without a word."""
    SILENT = "silent"
    """No value at all, without a word."""


@dataclass(frozen=True)
class Outcome:
    """What one way made of one state. `differences`: what each probe that is not identical showed before, and after.
    `harmed`: probes that saving itself changed in the source. `alarms`: names that were told as lost and are all there.
    `failure`: why nothing was carried at all; times are seconds, of which `restore_cold_s` contains imports."""

    state: str
    way: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    differences: Mapping[str, str] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()
    failure: str = ""
    harmed: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    save_s: float = 0.0
    restore_cold_s: float = 0.0
    size_bytes: int = 0
    save_extra_mb: float | None = None
    restore_extra_mb: float | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of all its probes."""
        return max(self.verdicts.values(), key=list(Verdict).index, default=Verdict.TOLD)

    @property
    def cold_s(self) -> float:
        """Seconds to save, and to restore in a fresh interpreter."""
        return self.save_s + self.restore_cold_s

    @property
    def carried(self) -> bool:
        """Whether anything came over."""
        return not self.failure

    @property
    def silent(self) -> list[str]:
        return [probe for probe, verdict in self.verdicts.items() if verdict in (Verdict.CHANGED, Verdict.SILENT)]

    def counts(self) -> dict[str, int]:
        return dict(Counter(map(str, self.verdicts.values())))


def judge(before: Mapping[str, Portrait], after: Mapping[str, Portrait], losses: Iterable[Loss]) -> dict[str, Verdict]:
    """The verdict on each probe. A loss speaks for every probe that mentions its name."""
    told = {_root(loss) for loss in losses}
    return {probe: _judged(probe, before[probe], after.get(probe, ["raised", "not asked"]), told) for probe in before}


def _judged(probe: str, before: Portrait, after: Portrait, told: set[str]) -> Verdict:
    if before == after:
        return Verdict.IDENTICAL
    if told & mentioned(probe):
        return Verdict.TOLD
    return Verdict.SILENT if is_raised(after) and not is_raised(before) else Verdict.CHANGED


def _root(loss: Loss) -> str:
    found = ROOT_NAME.match(loss.name)
    return found[0] if found else ""


def mentioned(probe: str) -> set[str]:
    """The names in a probe."""
    return names_in(probe)


def is_raised(answer: Any) -> bool:
    """Whether a probe raised an error instead of giving a value that can be looked at."""
    return _is(answer, "raised") or is_undrawn(answer)


def is_undrawn(answer: Any) -> bool:
    """Whether there was a value, but no portrait of it."""
    return _is(answer, "undrawn")


def _is(answer: Any, kind: str) -> bool:
    return isinstance(answer, list) and len(answer) == 2 and answer[0] == kind


def differences(before: Mapping[str, Portrait], after: Mapping[str, Portrait]) -> dict[str, str]:
    """For each probe that is not the same: what was seen before and what after, in brief."""
    return {
        probe: f"{in_brief(before[probe])} → {in_brief(after.get(probe))}"
        for probe in before
        if before[probe] != after.get(probe)
    }


def false_alarms(verdicts: Mapping[str, Verdict], losses: Iterable[Loss]) -> tuple[str, ...]:
    """Names told as lost though every probe that mentions them is identical."""
    alarms = []
    for loss in losses:
        name = _root(loss)
        spoken_of = [verdict for probe, verdict in verdicts.items() if name in mentioned(probe)]
        if spoken_of and set(spoken_of) == {Verdict.IDENTICAL}:
            alarms.append(name)
    return tuple(dict.fromkeys(alarms))
