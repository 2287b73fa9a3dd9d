"""Nodes that are taken away: leave in time; and while there is no notice, keep checkpoints young."""

from __future__ import annotations

from collections.abc import Iterator

from sojourn.policies.decisions import Decision
from sojourn.policies.evacuation import Forecast, Pace, evacuate, plan
from sojourn.policies.facts import NodeFacts, SessionFacts
from sojourn.policies.quantities import write_duration
from sojourn.policies.round import Round
from sojourn.policies.rules import SpotRule

NOTICE_SECONDS = 120.0
"""What providers give at least, as a rule: AWS 120 s; GCP and Azure only 30 s."""


def leave(round_: Round) -> Iterator[Decision]:
    """On an eviction notice everything leaves the node within its deadline, the most precious first."""
    for node in round_.nodes.values():
        if node.eviction:
            concerned = [one for one in round_.left(node.name) if round_.turn(round_.chosen(one).spot)]
            why = f"{node.eviction.source} takes {node.name} away in {node.eviction.at - round_.now:.0f} s"
            yield from evacuate(round_, node, concerned, "spot", why, node.eviction.at)


def bound_loss(round_: Round) -> Iterator[Decision]:
    """On a spot node no session's checkpoint gets older than is allowed, unless nothing has happened since."""
    for node in round_.nodes.values():
        if node.spot and not node.eviction:
            for session in round_.resting(node.name):
                if rule := round_.turn(round_.chosen(session).spot):
                    yield from _due(session, rule, round_.now)


def would_make_it(round_: Round, node: NodeFacts, notice_s: float | None = None) -> Forecast:
    """Whether everything there would be safe in time, at the node's measured bandwidth: before its eviction or the time
    by which it is to be empty, or, where there is neither, if a notice came now that gave `notice_s` (seconds)."""
    ends_at = node.eviction.at if node.eviction else node.drain_by
    left = NOTICE_SECONDS if ends_at is None else ends_at - round_.now
    pace = Pace.of(node, round_.rules.everybody.spot)
    return plan(node, round_.resting(node.name), round_.room, pace, left if notice_s is None else notice_s)


def _due(session: SessionFacts, rule: SpotRule, now: float) -> Iterator[Decision]:
    saved = session.saved_at
    age = now - (session.born_at if saved is None else saved)
    if age < rule.checkpoint_every or _unchanged(session):
        return
    what = "it has no checkpoint yet" if saved is None else f"its newest checkpoint is {write_duration(age // 1)} old"
    why = f"{what}; {session.node} is a spot node, where it may be {write_duration(rule.checkpoint_every)}"
    yield Decision("checkpoint", session.id, session.node, None, "spot", why)


def _unchanged(session: SessionFacts) -> bool:
    """Nothing was executed and nobody spoke to it since its checkpoint."""
    return (
        session.saved_at is not None
        and session.executing is False
        and session.idle_since is not None
        and session.idle_since <= session.saved_at
    )
