"""Nodes that are to be empty: because somebody has drained them, or because it is the time."""

from __future__ import annotations

from collections.abc import Iterator

from sojourn.policies.decisions import Decision
from sojourn.policies.evacuation import evacuate
from sojourn.policies.round import Round, scheduled


def clear(round_: Round) -> Iterator[Decision]:
    """Everything moves away; what fits nowhere is suspended."""
    for node in round_.nodes.values():
        reason = node.draining or scheduled(node, round_.rules, round_.now)
        if reason and node.online and not node.eviction:
            concerned = [one for one in round_.left(node.name) if round_.turn(round_.chosen(one).drain)]
            why = f"{node.name} is drained: {reason}"
            yield from evacuate(round_, node, concerned, "drain", why, node.drain_by)
