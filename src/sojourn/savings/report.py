"""Regimes beside each other, and what their order depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sojourn.policies import Rules
from sojourn.savings.regimes import AlwaysOn, Cull, Policies
from sojourn.savings.replay import HOUR, Outcome, Setting, replay
from sojourn.savings.trace import Event

IDLE_MINUTES = (5, 10, 15, 30, 60, 120, 240)
EVICTIONS_PER_DAY = (0.0, 1.0, 4.0)
"""Of each spot node."""
DISCOUNTS = tuple(tenth / 10 for tenth in range(9))
SPARE_SESSIONS = (0, 1, 2, 4, 8, 16)
WAKE_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Comparison:
    """The same sessions under each regime; the first is what the others are measured against."""

    outcomes: tuple[Outcome, ...]

    def factor(self, outcome: Outcome) -> float:
        """How many times cheaper than the first."""
        return self.outcomes[0].cost / outcome.cost

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row for each regime."""
        return [self._row(outcome) for outcome in self.outcomes]

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "regime": outcome.regime,
            "spot": outcome.spot,
            "cost": round(outcome.cost, 2),
            "compute": round(outcome.compute, 2),
            "storage": round(outcome.storage, 2),
            "factor": round(self.factor(outcome), 2),
            "node_hours": round(outcome.node_hours, 1),
            "waits": len(outcome.waits_s),
            "wait_s": {"median": round(outcome.wait_s(0.5), 3), "p99": round(outcome.wait_s(0.99), 3)},
            "waited_hours": round(sum(outcome.waits_s) / HOUR, 2),
            "waits_for_nodes": outcome.waits_for_nodes,
            "rerun_hours": round(outcome.rerun_hours, 1),
            "suspended": outcome.suspended,
            "moved": outcome.moved,
            "evictions": outcome.evictions,
            "lost": outcome.lost,
        }


def compare(trace: Sequence[Event], setting: Setting, rules: Rules) -> Comparison:
    """Both baselines, the policies on nodes at the full price, and the policies on spot nodes."""
    return Comparison(
        (
            replay(trace, AlwaysOn(), setting),
            replay(trace, Cull(), setting),
            replay(trace, Policies("suspend", rules), setting),
            replay(trace, Policies("suspend, spot", rules), setting, spot=True),
        )
    )


@dataclass(frozen=True)
class Sensitivity:
    """How many times cheaper than always on, and how long people wait, as one thing at a time is changed."""

    idle: dict[int, tuple[float, float]]
    """Minutes until an idle session is suspended -> the factor on nodes at the full price, and on spot nodes."""
    spot: dict[float, dict[float, float]]
    """Evictions of each node a day -> discount of spot nodes -> factor."""
    eviction_rerun_hours: dict[float, float]
    """Evictions of each node a day -> hours of computing lost."""
    wake: dict[float, tuple[float, float]]
    """Median seconds of a wake -> the 99th percentile of waits, and what it is without room to spare."""
    spare: dict[int, tuple[float, float]]
    """Sessions there is always room for -> as for `idle`."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def vary(trace: Sequence[Event], setting: Setting, rules: Rules) -> Sensitivity:
    baseline = replay(trace, AlwaysOn(), setting).cost
    evicted = {rate: _evicted(trace, setting, rules, rate) for rate in EVICTIONS_PER_DAY}
    return Sensitivity(
        idle={minutes: _idle(trace, setting, rules, minutes, baseline) for minutes in IDLE_MINUTES},
        spot={
            rate: {discount: baseline / _discounted(outcome, setting, discount) for discount in DISCOUNTS}
            for rate, outcome in evicted.items()
        },
        eviction_rerun_hours={rate: outcome.rerun_hours for rate, outcome in evicted.items()},
        wake={seconds: _waking(trace, setting, rules, seconds) for seconds in WAKE_SECONDS},
        spare={sessions: _with_spare(trace, setting, rules, sessions) for sessions in SPARE_SESSIONS},
    )


def _idle(trace: Sequence[Event], setting: Setting, rules: Rules, minutes: int, baseline: float) -> tuple[float, float]:
    after = Rules.read({**rules.table, "idle": {**rules.table.get("idle", {}), "after": f"{minutes}m"}})
    return _factors(trace, setting, after, baseline)


def _factors(trace: Sequence[Event], setting: Setting, rules: Rules, baseline: float) -> tuple[float, float]:
    full, spot = (replay(trace, Policies("suspend", rules), setting, spot=spot) for spot in (False, True))
    return baseline / full.cost, baseline / spot.cost


def _with_spare(trace: Sequence[Event], setting: Setting, rules: Rules, sessions: int) -> tuple[float, float]:
    spared = _spared(setting, sessions)
    return _factors(trace, spared, rules, replay(trace, AlwaysOn(), spared).cost)


def _spared(setting: Setting, sessions: int) -> Setting:
    return replace(setting, terms=replace(setting.terms, spare_sessions=sessions))


def _evicted(trace: Sequence[Event], setting: Setting, rules: Rules, rate_per_day: float) -> Outcome:
    kind = replace(setting.kind, evictions_per_s=rate_per_day / 24 / HOUR)
    return replay(trace, Policies("suspend", rules), replace(setting, kind=kind), spot=True)


def _discounted(outcome: Outcome, setting: Setting, discount: float) -> float:
    """What it costs at another price: a price changes nothing of what happens."""
    return outcome.node_hours * setting.kind.on_demand * (1 - discount) + outcome.storage


def _waking(trace: Sequence[Event], setting: Setting, rules: Rules, seconds: float) -> tuple[float, float]:
    slower = seconds / setting.times.wake_median_s
    times = replace(
        setting.times,
        wake_median_s=seconds,
        wake_p95_s=setting.times.wake_p95_s * slower,
        wake_elsewhere_s=setting.times.wake_elsewhere_s * slower,
    )
    slow = replace(setting, times=times)
    with_room, without = (replay(trace, Policies("suspend", rules), one) for one in (slow, _spared(slow, 0)))
    return with_room.wait_s(0.99), without.wait_s(0.99)
