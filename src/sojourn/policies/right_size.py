"""Sessions on a node of the wrong size: too small for what they will soon be, or larger than they need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sojourn.policies.decisions import Decision, Kind
from sojourn.policies.evacuation import Pace
from sojourn.policies.facts import NodeFacts, SessionFacts
from sojourn.policies.quantities import write_duration, write_size
from sojourn.policies.round import Round
from sojourn.policies.rules import RightSizeRule

RISING = 0.5
"""Of its limit: a session that uses less is on its way up, as when it imports what it needs, and not at its end."""
CLOSE = 0.9
"""Of its limit: where waiting for memory means that it is reached."""


@dataclass(frozen=True, slots=True)
class End:
    """Of a session's memory. Seconds from now on; infinite: none is in sight."""

    seconds: float
    what: str
    own: bool
    """It is the session's own limit, not the end of what its node has."""

    def said(self) -> str:
        return f"{self.what} in {self.seconds:.0f} s" if self.seconds else self.what


def before_memory_ends(round_: Round) -> Iterator[Decision]:
    """A session about to hit its limit, or to use up its node, is moved to where there is room, not killed."""
    for node in round_.nodes.values():
        resting = sorted(round_.resting(node.name), key=lambda one: (-one.growth_bytes_per_s, one.id))
        growing, free = [one for one in resting if one.growth_bytes_per_s > 0], node.free_bytes
        for session in resting:
            rule = round_.turn(round_.chosen(session).right_size)
            if rule is None:
                continue
            end = _end(session, node, _seconds_to_full(growing, free), rule)
            if end.seconds > _lead(session, node, rule, round_):
                continue
            decision = _way_out(session, node, rule, round_, end)
            if decision is None:
                continue
            yield decision
            if decision.kind == "move":
                growing = [one for one in growing if one.id != session.id]
                free += session.memory_bytes


def propose(round_: Round) -> Iterator[Decision]:
    """A session that has long used little may be had cheaper."""
    for session in round_.resting():
        rule = round_.turn(round_.chosen(session).right_size)
        home = round_.nodes.get(session.node)
        if rule is None or home is None or session.watched_s < rule.low_for or rule.low_for == math.inf:
            continue
        if target := _cheaper(session, home, rule, round_):
            used = f"{write_size(session.peak_bytes)}B and {session.busiest_cores:.1f} cores at most"
            why = f"for {write_duration(session.watched_s // 60 * 60)} it has used {used}; {_cost(home, target)}"
            kind: Kind = "move" if rule.act else "propose"
            yield Decision(kind, session.id, home.name, target.name, "right_size", why)


def _seconds_to_full(growing: list[SessionFacts], free: float) -> float:
    """Until those that grow have used up their node; never, if their limits come first."""
    growth = sum(one.growth_bytes_per_s for one in growing)
    appetite = sum(one.limit_bytes - one.memory_bytes if one.limit_bytes else math.inf for one in growing)
    return max(free, 0.0) / growth if growing and appetite > free else math.inf


def _end(session: SessionFacts, node: NodeFacts, to_full: float, rule: RightSizeRule) -> End:
    limit, used = session.limit_bytes, session.memory_bytes
    if limit and used >= CLOSE * limit and session.pressure >= rule.pressure:
        return End(0.0, f"it waits for memory, with {write_size(used)}B of {write_size(limit)}B used", own=True)
    to_limit = session.seconds_to_limit if limit and used >= RISING * limit else None
    if limit and to_limit is not None and to_limit <= to_full:
        return End(to_limit, f"it reaches its limit of {write_size(limit)}B", own=True)
    return End(to_full if session.growth_bytes_per_s > 0 else math.inf, f"{node.name} has no memory left", own=False)


def _lead(session: SessionFacts, node: NodeFacts, rule: RightSizeRule, round_: Round) -> float:
    """How long before the end a move is begun: what it takes, with a margin."""
    takes = Pace.of(node, round_.chosen(session).spot).seconds(session, moves=True)
    return max(rule.at_least, rule.safety * takes)


def _wanted(session: SessionFacts, rule: RightSizeRule) -> int:
    """Room to go on growing, so that it need not move again at once."""
    most = max(session.memory_bytes, session.limit_bytes or 0)
    return max(session.room_bytes, min(int(most * rule.grow), rule.most))


def _elsewhere(session: SessionFacts, home: NodeFacts, round_: Round, end: End) -> Iterator[str]:
    """Another node of the same machine has no memory of its own, though it may give a session more of it."""
    for name in session.can_move_to:
        node = round_.nodes.get(name)
        if node and (end.own or not home.machine or node.machine != home.machine):
            yield name


def _way_out(session: SessionFacts, home: NodeFacts, rule: RightSizeRule, round_: Round, end: End) -> Decision | None:
    """To where there is room; else, what it is now is kept at least, but not again and again while it lasts."""
    wanted = _wanted(session, rule)
    if target := round_.room.best(session, _elsewhere(session, home, round_, end), wanted):
        limit = wanted if session.limit_bytes else 0
        why = f"{end.said()}; {target} has room for {write_size(wanted)}B"
        return Decision("move", session.id, home.name, target, "right_size", why, True, limit)
    if session.saved_at is not None and round_.now - session.saved_at <= 2 * rule.at_least:
        return None
    why = f"{end.said()}; no node has room for {write_size(wanted)}B, so it is saved as it is"
    return Decision("checkpoint", session.id, home.name, None, "right_size", why, True)


def _cheaper(session: SessionFacts, home: NodeFacts, rule: RightSizeRule, round_: Round) -> NodeFacts | None:
    """The cheapest with `grow` times the most it has used; the margins keep it from coming back soon."""
    nodes = [round_.nodes[name] for name in session.can_move_to if name in round_.nodes]
    roomy = [
        node
        for node in nodes
        if _saves(home, node, rule)
        and node.memory_bytes >= session.peak_bytes * rule.grow
        and node.cores >= session.busiest_cores * rule.grow
        and round_.room.best(session, (node.name,), int(session.peak_bytes * rule.grow))
    ]
    return min(roomy, key=lambda node: (node.price or 0.0, node.memory_bytes, node.name), default=None)


def _saves(home: NodeFacts, node: NodeFacts, rule: RightSizeRule) -> bool:
    """By price where both have one, else by size; a spot node is not cheaper, it is another bargain."""
    if node.spot and not home.spot:
        return False
    if home.price is not None and node.price is not None:
        return node.price <= home.price * (1 - rule.saving) and node.price < home.price
    return node.memory_bytes <= home.memory_bytes * (1 - rule.saving) and node.cores <= home.cores


def _cost(home: NodeFacts, node: NodeFacts) -> str:
    if home.price is not None and node.price is not None:
        return f"{node.name} costs {node.price:g} an hour, {home.name} {home.price:g}"
    return f"{node.name} has {write_size(node.memory_bytes)}B, {home.name} {write_size(home.memory_bytes)}B"
