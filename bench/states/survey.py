"""The survey: every state by every way, what became of each, and how quick the ways are that carry it at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.states.races import Time, race
from bench.states.stage import Found
from bench.states.state import State
from bench.states.trials import InterpreterTrial, Trial, reference
from bench.states.verdicts import Outcome, Verdict

OURS = "objects"
RIVALS = ("cloudpickle", "dill")
"""The ways whose times are compared with ours."""
LARGE_BYTES = 100_000_000
ALLOWED_SHARE, ALLOWED_MB = 1.1, 64.0
"""A way may need this much of the largest single buffer, and this much besides, as extra memory."""


@dataclass
class Row:
    """What is known of one state. `skipped`: why nothing is."""

    state: State
    before: Found = field(default_factory=Found)
    skipped: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    times: dict[str, Time] = field(default_factory=dict)

    def speedup(self, rival: str) -> float | None:
        """How many times as long the rival took to save and restore; None where one of the two does not carry it."""
        ours, theirs = self.times.get(OURS), self.times.get(rival)
        return theirs.seconds / ours.seconds if ours and theirs else None

    def cold_speedup(self, rival: str) -> float | None:
        """The same of one carrying into a fresh interpreter, imports and all."""
        ours, theirs = self.outcomes.get(OURS), self.outcomes.get(rival)
        if not (ours and theirs and ours.carried and theirs.carried):
            return None
        return theirs.cold_s / ours.cold_s

    @property
    def is_large(self) -> bool:
        return max((time.size_bytes for time in self.times.values()), default=0) > LARGE_BYTES


def survey(states: Iterable[State], ways: Sequence[str], rounds: int) -> Iterator[Row]:
    """Try each state by each way; race those ways that are compared by time, if `rounds` is not 0."""
    trials = [InterpreterTrial(way) for way in ways]
    for state in states:
        row = examined(state, trials)
        racing = [way for way in (OURS, *RIVALS) if way in row.outcomes and row.outcomes[way].carried]
        if rounds and OURS in racing and len(racing) > 1:
            row.times = race(state, racing, row.before.modules, rounds)
        yield row


def examined(state: State, trials: Sequence[Trial]) -> Row:
    """One state by each way."""
    if missing := state.missing():
        return Row(state, skipped=f"needs {', '.join(missing)}")
    before = reference(state)
    if before.answers is None:
        return Row(state, before, skipped=before.failure)
    return Row(state, before, outcomes={trial.way: trial(state, before) for trial in trials})


def in_a_line(row: Row) -> str:
    """For whoever waits."""
    outcomes = ", ".join(f"{way}: {_in_words(outcome)}" for way, outcome in row.outcomes.items())
    return f"{row.state.name}: {row.skipped or outcomes}"


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """One JSON-ready object; docs/measuring.md says what each figure means."""
    tried = [row for row in rows if not row.skipped]
    ways = list(dict.fromkeys(way for row in tried for way in row.outcomes))
    ours = [row.outcomes[OURS] for row in tried if OURS in row.outcomes]
    return {
        "bench": "objects",
        "states": len(tried),
        "skipped": {row.state.name: row.skipped for row in rows if row.skipped},
        "probes": sum(len(row.before.answers or ()) for row in tried),
        "not_examined": sum(len(row.state.unexamined) for row in tried),
        "silent_losses": sum(len(outcome.silent) for outcome in ours),
        "silent": {outcome.state: outcome.silent for outcome in ours if outcome.silent},
        "refused": {outcome.state: outcome.failure for outcome in ours if outcome.failure},
        "harmed": {outcome.state: list(outcome.harmed) for outcome in ours if outcome.harmed},
        "alarms": {outcome.state: list(outcome.alarms) for outcome in ours if outcome.alarms},
        "survival": {way: _survival(row.outcomes[way] for row in tried if way in row.outcomes) for way in ways},
        **_speeds(tried),
        "peak_extra": _peak_extra(tried),
    }


def _survival(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many probes, and whole states, ended how."""
    known = list(outcomes)
    probes = Counter[str]()
    for outcome in known:
        probes.update(outcome.counts())
    whole = sum(outcome.verdict is Verdict.IDENTICAL for outcome in known)
    return {"whole_states": whole, "nothing_carried": sum(not outcome.carried for outcome in known)} | {
        verdict.value: probes[verdict.value] for verdict in Verdict
    }


def _speeds(rows: Sequence[Row]) -> dict[str, Any]:
    """Theirs over ours, at the median of the states that both carry: above 1 ours is faster."""
    large = [row for row in rows if row.is_large]
    return {
        "speedup": {rival: _median(row.speedup(rival) for row in rows) for rival in RIVALS},
        "speedup_large": {rival: _median(row.speedup(rival) for row in large) for rival in RIVALS},
        "speedup_with_imports": {rival: _median(row.cold_speedup(rival) for row in rows) for rival in RIVALS},
        "worst": {rival: _worst(rows, rival) for rival in RIVALS},
    }


def _worst(rows: Iterable[Row], rival: str) -> Mapping[str, Any] | None:
    """Where ours is slowest beside the rival: how many times its time, and by how many milliseconds."""
    known = [(speedup, row) for row in rows if (speedup := row.speedup(rival)) is not None]
    if not known:
        return None
    speedup, row = min(known, key=lambda pair: pair[0])
    behind_s = row.times[OURS].seconds - row.times[rival].seconds
    return {"ratio": round(1 / speedup, 3), "state": row.state.name, "behind_ms": round(1000 * behind_s, 2)}


def _peak_extra(rows: Iterable[Row]) -> dict[str, Any]:
    """The most extra memory of ours, saving and restoring; and by how much the worst state is over what it may need."""
    known = [(row, row.outcomes[OURS]) for row in rows if OURS in row.outcomes and row.outcomes[OURS].carried]
    over = [
        (_extra_mb(outcome) - ALLOWED_SHARE * row.state.largest_mb - ALLOWED_MB, row.state.name)
        for row, outcome in known
    ]
    worst_mb, state = max(over, default=(0.0, ""))
    return {
        "save_mb": round(max((outcome.save_extra_mb or 0.0 for _, outcome in known), default=0.0), 1),
        "restore_mb": round(max((outcome.restore_extra_mb or 0.0 for _, outcome in known), default=0.0), 1),
        "beyond_allowed_mb": round(worst_mb, 1),
        "state": state,
    }


def _extra_mb(outcome: Outcome) -> float:
    return max(outcome.save_extra_mb or 0.0, outcome.restore_extra_mb or 0.0)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def _in_words(outcome: Outcome) -> str:
    return "nothing carried" if outcome.failure else str(outcome.verdict)
