"""A trace replayed: from event to event, with nodes that cost money and people who wait.

People's cells begin when the trace says, however long they have waited before: a trace knows nothing of why its people
came when they came.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sojourn.model.nodes import Eviction
from sojourn.policies import Decision, Facts, NodeFacts, SessionFacts
from sojourn.savings.fleet import Fleet, Node, Terms
from sojourn.savings.prices import GIBI, HOURS_PER_MONTH, NodeKind, Prices
from sojourn.savings.regimes import Regime
from sojourn.savings.times import Times
from sojourn.savings.trace import Event

HOUR, GIGA = 3600.0, 1e9
CHUNK = 256 * 1024
"""Bytes of a chunk, each of which is one request to the store."""
KEPT = 2
"""Checkpoints kept for each session."""
LOOK_S = 300.0
"""Between two looks at everything, beside those at the moments at which an idle session is due."""
EVICTION_LOOK_S = 5.0
RERUN_SHARE = 2655 / 9207
"""Who has lost a session's state runs each cell of the last visit once. [JuNE] (see habits.py): 9,207 executions of
2,655 cells."""


@dataclass(eq=False)
class Stay:
    """A session, from its start on."""

    session: str
    user: str
    memory_bytes: int
    born_at: float
    node: Node | None = None
    """None: it sleeps, or is lost."""
    last_node: Node | None = None
    busy: str = ""
    """What it is in the middle of, as in `SessionFacts`."""
    life: int = 0
    """What was begun in an earlier life of it has no effect any more."""
    executing_since: float | None = None
    idle_since: float | None = None
    delay_s: float = 0.0
    """For how long the cell of the moment was waited for."""
    wanted_at: float | None = None
    """Somebody has waited since then for it to wake."""
    saved_at: float | None = None
    kept: tuple[int, ...] = ()
    """The bytes of its checkpoints."""
    worked_s: float = 0.0
    """Executed since it last came to life."""
    unsaved_s: float = 0.0
    """Executed since its newest checkpoint."""
    due: bool = False
    """A look at it is planned."""


@dataclass
class Outcome:
    """What a regime came to. Hours, seconds, and money in the prices' currency."""

    regime: str
    spot: bool
    compute: float = 0.0
    storage: float = 0.0
    node_hours: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    """For each time that somebody came to a session that was not awake: until it was as they had left it."""
    waits_for_nodes: int = 0
    """How many of them had to wait for a node to start."""
    rerun_hours: float = 0.0
    """Computing that was lost and had to be done again, or is lost for good."""
    suspended: int = 0
    moved: int = 0
    evictions: int = 0
    lost: int = 0
    """Sessions whose node was gone before they had left it."""

    @property
    def cost(self) -> float:
        return self.compute + self.storage

    def wait_s(self, share: float) -> float:
        """The longest wait of that share of all; 0 without any."""
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(frozen=True)
class Setting:
    """All that a regime's outcome depends on, beside trace and regime."""

    prices: Prices
    kind: NodeKind
    times: Times = field(default_factory=Times)
    terms: Terms = field(default_factory=Terms)
    seed: int = 1


def replay(trace: Sequence[Event], regime: Regime, setting: Setting, spot: bool = False) -> Outcome:
    """What it costs, from the first event of the trace to the last.

    Raises DoesNotFit for a session larger than a node.
    """
    return Replay(regime, setting, spot).run(trace)


class Replay:
    """One run; not to be used again."""

    def __init__(self, regime: Regime, setting: Setting, spot: bool) -> None:
        self._regime, self._setting, self._times = regime, setting, setting.times
        self._chance = random.Random(setting.seed)
        self._fleet = Fleet(setting.kind, spot, setting.terms, self._times, self._chance, self._node_asked)
        self._stays: dict[str, Stay] = {}
        self._planned: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = count()
        self._now = 0.0
        self._settles_at = math.inf
        self._store = Store(setting.prices)
        self._outcome = Outcome(regime.name, spot)

    def run(self, trace: Sequence[Event]) -> Outcome:
        begin, end = trace[0].at, trace[-1].at
        self._now = self._store.now = begin
        self._plan(begin + LOOK_S, self._look_regularly)
        for event in trace:
            self._pass_until(event.at)
            self._happens(event)
            self._settle()
        return self._sum_up(end)

    # ── what happens ──

    def _happens(self, event: Event) -> None:
        if event.kind == "start":
            self._starts(event)
            return
        stay = self._stays[event.session]
        self._grow(stay, event.memory_bytes)
        match event.kind:
            case "busy":
                self._begins(stay)
            case "idle":
                self._ends(stay)
            case "stop":
                self._stops(stay)

    def _starts(self, event: Event) -> None:
        stay = Stay(event.session, event.user, event.memory_bytes, event.at, idle_since=event.at)
        self._stays[event.session] = stay
        stay.node = self._fleet.take(stay.session, stay.memory_bytes, self._now)
        self._expect(stay)

    def _begins(self, stay: Stay) -> None:
        stay.executing_since = self._now
        if stay.node is None:
            self._wake(stay, self._now)
        elif stay.busy == "being suspended":
            stay.wanted_at = self._now

    def _ends(self, stay: Stay) -> None:
        assert stay.executing_since is not None
        stay.worked_s += self._now - stay.executing_since
        stay.unsaved_s += self._now - max(stay.executing_since, stay.saved_at or 0.0)
        stay.executing_since = None
        stay.idle_since, stay.delay_s = self._now + stay.delay_s, 0.0
        self._expect(stay)

    def _stops(self, stay: Stay) -> None:
        stay.life += 1
        self._store.keep(self._now, -sum(stay.kept))
        if stay.node:
            self._fleet.leave(stay.node, stay.session, self._now)
        del self._stays[stay.session]

    def _grow(self, stay: Stay, memory_bytes: int) -> None:
        if memory_bytes != stay.memory_bytes:
            stay.memory_bytes = memory_bytes
            if stay.node:
                self._fleet.resize(stay.node, stay.session, memory_bytes)

    # ── sleeping and waking ──

    def _suspend(self, stay: Stay) -> None:
        self._outcome.suspended += 1
        if not self._regime.keeps_state:
            self._sleeps(stay)
            return
        stay.busy = "being suspended"
        if stay.executing_since is not None:
            stay.wanted_at = self._now
        self._plan(self._save_ends(stay), self._is_saved, stay, stay.life, self._now, self._sleeps)

    def _checkpoint(self, stay: Stay) -> None:
        stay.busy = "being saved"
        self._plan(self._save_ends(stay), self._is_saved, stay, stay.life, self._now, self._goes_on)

    def _save_ends(self, stay: Stay) -> float:
        assert stay.node
        stay.node.saving_until = max(self._now, stay.node.saving_until) + self._times.save_s(stay.memory_bytes)
        return stay.node.saving_until

    def _is_saved(self, stay: Stay, life: int, frozen_at: float, then: Callable[[Stay], None]) -> None:
        if life != stay.life:
            return
        kept = (*stay.kept, stay.memory_bytes)[-KEPT:]
        self._store.keep(self._now, sum(kept) - sum(stay.kept))
        self._store.put(stay.memory_bytes)
        stay.kept, stay.saved_at, stay.unsaved_s = kept, frozen_at, 0.0
        then(stay)

    def _goes_on(self, stay: Stay) -> None:
        stay.busy = ""

    def _sleeps(self, stay: Stay) -> None:
        """It is safe in the store, or, where states are not kept, gone."""
        assert stay.node
        self._fleet.leave(stay.node, stay.session, self._now)
        stay.last_node, stay.node, stay.busy = stay.node, None, ""
        stay.life += 1
        if stay.wanted_at is not None:
            self._wake(stay, stay.wanted_at)

    def _wake(self, stay: Stay, since: float) -> None:
        """Somebody has waited since then."""
        stay.wanted_at = None
        stay.node = self._fleet.take(stay.session, stay.memory_bytes, self._now, near=stay.last_node)
        from_store = self._regime.keeps_state and stay.kept
        ready = max(self._now, stay.node.ready_at)
        ready += self._from_store_s(stay) if from_store else self._from_scratch_s(stay)
        self._outcome.waits_s.append(ready - since)
        self._outcome.waits_for_nodes += stay.node.ready_at > self._now
        stay.delay_s = ready - self._now
        stay.busy = "waking"
        self._plan(ready, self._is_awake, stay, stay.life)

    def _from_store_s(self, stay: Stay) -> float:
        self._store.get(stay.memory_bytes)
        return self._times.wake_s(stay.node is not stay.last_node, self._chance)

    def _from_scratch_s(self, stay: Stay) -> float:
        again_s = RERUN_SHARE * stay.worked_s
        self._outcome.rerun_hours += again_s / HOUR
        stay.worked_s = 0.0
        return self._times.kernel_start_s + again_s

    def _is_awake(self, stay: Stay, life: int) -> None:
        if life == stay.life:
            stay.busy = ""
            self._expect(stay)

    # ── moving, and nodes that are taken away ──

    def _move(self, stay: Stay, target: str) -> None:
        node = next(node for node in self._fleet.nodes if node.name == target)
        node.rooms[stay.session] = max(stay.memory_bytes, self._setting.terms.session_bytes)
        node.empty_since = None
        stay.busy = f"on its way to {target}"
        ends = max(self._now, node.ready_at) + self._times.move_s(stay.memory_bytes)
        self._plan(ends, self._has_moved, stay, stay.life, node)

    def _has_moved(self, stay: Stay, life: int, target: Node) -> None:
        if life != stay.life or stay.node is None or target not in self._fleet.nodes:
            if stay.node is not target:
                self._fleet.leave(target, stay.session, self._now)
            return
        self._outcome.moved += 1
        self._fleet.leave(stay.node, stay.session, self._now)
        stay.node, stay.busy = target, ""

    def _node_asked(self, node: Node) -> None:
        if node.spot:
            self._plan(self._now + self._fleet.lifetime(), self._is_noticed, node)

    def _is_noticed(self, node: Node) -> None:
        if node in self._fleet.nodes:
            self._outcome.evictions += 1
            node.eviction = Eviction(at=self._now + self._times.eviction_notice_s, source="aws")
            self._plan(node.eviction.at, self._is_gone, node)
            self._leaves(node)

    def _leaves(self, node: Node) -> None:
        if node in self._fleet.nodes:
            self._look()
            self._plan(self._now + EVICTION_LOOK_S, self._leaves, node)

    def _is_gone(self, node: Node) -> None:
        for stay in [stay for stay in self._stays.values() if stay.node is node]:
            self._is_lost(stay)
        self._fleet.end(node, self._now)

    def _is_lost(self, stay: Stay) -> None:
        """Back to its newest checkpoint; without one, to nothing."""
        self._outcome.lost += 1
        lost_s = stay.unsaved_s if stay.kept else 0.0  # without a checkpoint, the wake says what has to be run again
        if stay.executing_since is not None:
            lost_s += self._now - max(stay.executing_since, stay.saved_at or 0.0)
            stay.wanted_at = stay.wanted_at or self._now
        self._outcome.rerun_hours += lost_s / HOUR
        self._sleeps(stay)

    # ── deciding ──

    def _expect(self, stay: Stay) -> None:
        """Plan the look at it for when it is due."""
        if stay.due or stay.idle_since is None:
            return
        at = self._regime.due(stay.user, stay.session, stay.idle_since)
        if math.isfinite(at):
            stay.due = True
            self._plan(max(at, self._now), self._look_at, stay)

    def _look_at(self, stay: Stay) -> None:
        stay.due = False
        if stay.node is None or stay.executing_since is not None or self._stays.get(stay.session) is not stay:
            return  # it is looked at again when it is idle again
        if self._regime.due(stay.user, stay.session, stay.idle_since or 0.0) <= self._now:
            self._look()
        else:
            self._expect(stay)

    def _look_regularly(self) -> None:
        self._look()
        self._plan(self._now + LOOK_S, self._look_regularly)

    def _look(self) -> None:
        for decision in self._regime.decide(self._facts, self._now):
            self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        stay = self._stays[decision.session]
        if decision.kind == "suspend":
            self._suspend(stay)
        elif decision.kind == "checkpoint":
            self._checkpoint(stay)
        elif decision.kind == "move" and decision.target:
            self._move(stay, decision.target)

    def _facts(self) -> Facts:
        ready = tuple(node.name for node in self._fleet.open())
        awake = [stay for stay in self._stays.values() if stay.node]
        return Facts(
            tuple(self._node_facts(node) for node in self._fleet.nodes),
            tuple(_session_facts(stay, ready, self._now) for stay in awake),
        )

    def _node_facts(self, node: Node) -> NodeFacts:
        return NodeFacts(
            name=node.name,
            memory_bytes=node.kind.memory_bytes,
            free_bytes=max(0, node.free_bytes(self._fleet.terms)) if node.places(self._fleet.terms, 1) else 0,
            cores=node.kind.cores,
            online=node.ready_at <= self._now,
            price=node.price,
            spot=node.spot,
            eviction=node.eviction,
            save_bytes_per_s=GIBI / self._times.save_s_per_gb,
            link_bytes_per_s=GIBI / self._times.move_s_per_gb,
        )

    # ── time ──

    def _plan(self, at: float, what: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self._planned, (at, next(self._numbers), what, about))

    def _pass_until(self, at: float) -> None:
        while self._planned and self._planned[0][0] <= at:
            self._now, _, what, about = heapq.heappop(self._planned)
            what(*about)
            self._settle()
        self._now = at

    def _settle(self) -> None:
        again = self._fleet.settle(self._now)
        if again is not None and again != self._settles_at:
            self._settles_at = again
            self._plan(again, self._settle)

    def _sum_up(self, end: float) -> Outcome:
        outcome = self._outcome
        outcome.node_hours = self._fleet.paid_s(end) / HOUR
        outcome.compute = outcome.node_hours * self._fleet.price
        outcome.storage = self._store.bill(end)
        return outcome


class Store:
    """What is kept in the store, and asked of it."""

    def __init__(self, prices: Prices) -> None:
        self.now = 0.0
        self._prices = prices
        self._bytes, self._byte_seconds, self._puts, self._gets = 0, 0.0, 0, 0

    def keep(self, now: float, more: int) -> None:
        self._byte_seconds += self._bytes * (now - self.now)
        self.now, self._bytes = now, self._bytes + more

    def put(self, size: int) -> None:
        """A save: as if no chunk were there already, and none could be compressed."""
        self._puts += math.ceil(size / CHUNK) + 1

    def get(self, size: int) -> None:
        self._gets += math.ceil(size / CHUNK) + 1

    def bill(self, now: float) -> float:
        self.keep(now, 0)
        months = self._byte_seconds / GIGA / HOURS_PER_MONTH / HOUR
        requests = self._puts * self._prices.put_per_1000 + self._gets * self._prices.get_per_1000
        return months * self._prices.per_gb_month + requests / 1000


def _session_facts(stay: Stay, can_move_to: tuple[str, ...], now: float) -> SessionFacts:
    assert stay.node
    return SessionFacts(
        id=stay.session,
        node=stay.node.name,
        owner=stay.user,
        busy=stay.busy,
        born_at=stay.born_at,
        memory_bytes=stay.memory_bytes,
        needs_bytes=stay.node.rooms[stay.session],
        executing=stay.executing_since is not None,
        idle_since=stay.idle_since,
        saved_at=stay.saved_at,
        can_move_to=can_move_to,
    )
