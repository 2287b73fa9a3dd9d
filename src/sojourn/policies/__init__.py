"""The law of what is done with sessions unasked: `decide(facts, rules, now) -> decisions`.

Each policy looks at the same facts and decides on the sessions that more urgent ones have left, so there is one
decision for a session at most, and no room is promised twice:

1. spot: a node is about to be taken away: everything leaves it, the most precious first;
2. drain: a node is to be empty, by a person's wish or by its schedule;
3. right size, for memory: a session is moved before its memory ends;
4. schedule: outside working hours, what nobody uses is suspended soon;
5. idle: what nobody uses is suspended;
6. spot, without a notice: checkpoints are kept young;
7. right size: a cheaper node would do.

Rules that only rehearse (`dry_run`) decide on what those in earnest have left. Facts and rules are values, time is an
argument: the same call serves the controller, its dry run, and the replay of a trace.
"""

from __future__ import annotations

from sojourn.policies import drain, idle, right_size, spot
from sojourn.policies.decisions import Decision
from sojourn.policies.evacuation import Forecast, Leg, Pace
from sojourn.policies.facts import Facts, NodeFacts, SessionFacts
from sojourn.policies.history import History, Sample
from sojourn.policies.round import SCHEDULED, Round, scheduled
from sojourn.policies.rules import Chosen, Rules

__all__ = [
    "SCHEDULED",
    "Chosen",
    "Decision",
    "Facts",
    "Forecast",
    "History",
    "Leg",
    "NodeFacts",
    "Pace",
    "Rules",
    "Sample",
    "SessionFacts",
    "decide",
    "forecasts",
    "scheduled",
    "would_make_it",
]

POLICIES = (
    spot.leave,
    drain.clear,
    right_size.before_memory_ends,
    idle.close,
    idle.suspend,
    spot.bound_loss,
    right_size.propose,
)
"""The most urgent first."""


def decide(facts: Facts, rules: Rules, now: float) -> list[Decision]:
    """What is to be done now, in this order; at most one decision for a session. `now`: seconds since the epoch."""
    round_ = Round(facts, rules, now)
    for round_.dry in (False, True) if rules.rehearses else (False,):
        for policy in POLICIES:
            round_.take(policy(round_))
    return round_.decisions


def forecasts(facts: Facts, rules: Rules, now: float) -> list[Forecast]:
    """For each node that is being taken away, or may be, or has to be empty by some time: would it make it?"""
    round_ = Round(facts, rules, now)
    concerned = [node for node in facts.nodes if node.online and (node.spot or node.eviction or node.drain_by)]
    return [spot.would_make_it(round_, node) for node in concerned]


def would_make_it(facts: Facts, rules: Rules, now: float, node: str, notice_s: float | None = None) -> Forecast:
    """The same for one node; with `notice_s`, as if it ended in so many seconds. Raises KeyError for an unknown one."""
    round_ = Round(facts, rules, now)
    return spot.would_make_it(round_, round_.nodes[node], notice_s)
