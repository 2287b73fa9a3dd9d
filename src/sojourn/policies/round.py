"""One look at everything: what is decided already, and what room that leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from sojourn.model.sessions import SessionStatus
from sojourn.policies.decisions import Decision
from sojourn.policies.facts import Facts, NodeFacts, SessionFacts
from sojourn.policies.hours import said, within
from sojourn.policies.rules import Chosen, Rule, Rules

R = TypeVar("R", bound=Rule)

SCHEDULED = "scheduled"
"""How the reason begins why a node is drained by its schedule."""
_ASLEEP = frozenset({
    SessionStatus.PENDING, SessionStatus.SUSPENDED, SessionStatus.STOPPING,
    SessionStatus.STOPPED, SessionStatus.FAILED, SessionStatus.LOST,
})  # fmt: skip
"""Nothing of it is on its node, or soon will be."""


class Room:
    """What is free on the nodes that sessions may be brought to, less what has been promised."""

    def __init__(self, free: dict[str, int]) -> None:
        self._free = free

    def best(self, session: SessionFacts, among: Iterable[str], room_bytes: int = 0) -> str | None:
        """The one with the most room for it; None if it fits nowhere."""
        wanted = max(room_bytes, session.room_bytes)
        fitting = [name for name in among if name != session.node and self._free.get(name, -1) >= wanted]
        return max(fitting, key=lambda name: (self._free[name], name), default=None)

    def take(self, node: str, room_bytes: int) -> None:
        self._free[node] -= room_bytes

    def copy(self) -> Room:
        return Room(dict(self._free))


def scheduled(node: NodeFacts, rules: Rules, now: float) -> str:
    """Why its schedule wants a node empty just now; empty: it does not."""
    week = rules.node(node.name, node.labels).drain if rules.nodes else ()
    drains = rules.everybody.drain.on and not rules.everybody.drain.dry_run
    if not week or not drains or not within(week, now, rules.everybody.schedule.zone):
        return ""
    return f"{SCHEDULED} to be empty {said(week)}"


class Round:
    """The policies take turns, the most urgent first. Each decides on what the ones before it have left."""

    def __init__(self, facts: Facts, rules: Rules, now: float) -> None:
        self.facts, self.rules, self.now = facts, rules, now
        self.nodes = {node.name: node for node in facts.nodes}
        self.room = Room({node.name: node.free_bytes for node in facts.nodes if not self.closed(node)})
        self.decisions: list[Decision] = []
        self.dry = False
        """Now the rules have their turn that only say what they would do."""
        self._decided: set[str] = set()

    def closed(self, node: NodeFacts) -> str:
        """Why nothing is brought there; empty: it is open."""
        if not node.online:
            return "it is offline"
        if node.eviction:
            return f"{node.eviction.source} takes it away"
        return node.draining or scheduled(node, self.rules, self.now)

    def left(self, node: str | None = None) -> Iterator[SessionFacts]:
        """The sessions nothing is decided of yet, those in the middle of something included; of one node, or all."""
        for session in self.facts.sessions:
            if node is not None and session.node != node:
                continue
            if session.id not in self._decided and session.status not in _ASLEEP:
                yield session

    def resting(self, node: str | None = None) -> Iterator[SessionFacts]:
        """Those of them with which something can be done now."""
        return (session for session in self.left(node) if session.at_rest and not session.blocked)

    def chosen(self, session: SessionFacts) -> Chosen:
        return self.rules.of(session.owner, session.name or session.id)

    def turn(self, rule: R) -> R | None:
        """The rule, if this is its turn."""
        return rule if rule.on and rule.dry_run is self.dry else None

    def take(self, decisions: Iterable[Decision]) -> None:
        """Book each as it comes, so that the next one knows."""
        for decision in decisions:
            self.decisions.append(replace(decision, dry_run=True) if self.dry else decision)
            self._decided.add(decision.session)
            if decision.kind == "move" and decision.target:
                session = next(one for one in self.facts.sessions if one.id == decision.session)
                self.room.take(decision.target, max(decision.memory_bytes, session.room_bytes))
