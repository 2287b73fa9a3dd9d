"""The nodes that are paid for. Sessions are packed by first fit; nodes come and go as an autoscaler has them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sojourn.errors import DoesNotFit
from sojourn.model.nodes import Eviction
from sojourn.savings.prices import GIBI, NodeKind
from sojourn.savings.times import Times


@dataclass(frozen=True)
class Terms:
    """What a session is given at least, and when nodes come and go."""

    session_bytes: int = 2 * 10**9
    session_cores: float = 0.5
    """Set aside for each. JupyterHub's documentation, "Capacity planning": "a sensible starting point"."""
    spare_sessions: int = 4
    """For so many more there is always room, so that hardly anybody waits for a node. Zero to JupyterHub's
    documentation, "Optimizations": `userPlaceholder.replicas: 4`."""
    system_bytes: int = GIBI
    """What of a node's memory is not for sessions."""
    linger_s: float = 600.0
    """A node that is not needed is given back after so long. Kubernetes' cluster autoscaler's default of
    `scale-down-unneeded-time`."""


@dataclass(eq=False)
class Node:
    name: str
    kind: NodeKind
    spot: bool
    asked_at: float
    ready_at: float
    rooms: dict[str, int] = field(default_factory=dict)
    """Session -> the bytes set aside for it."""
    empty_since: float | None = None
    eviction: Eviction | None = None
    saving_until: float = 0.0
    """Saves of one node come one after the other: they share its bandwidth."""

    @property
    def price(self) -> float:
        return self.kind.spot if self.spot else self.kind.on_demand

    def free_bytes(self, terms: Terms) -> int:
        return self.kind.memory_bytes - terms.system_bytes - sum(self.rooms.values())

    def places(self, terms: Terms, room: int) -> int:
        """For how many more sessions there is room that want this much memory each."""
        cores = self.kind.cores - len(self.rooms) * terms.session_cores
        return max(0, min(self.free_bytes(terms) // room, int(cores / terms.session_cores)))


class Fleet:
    """All nodes of one kind. `asked` hears of each new one."""

    def __init__(
        self,
        kind: NodeKind,
        spot: bool,
        terms: Terms,
        times: Times,
        chance: random.Random,
        asked: Callable[[Node], None],
    ) -> None:
        self.nodes: list[Node] = []
        self.terms = terms
        self._kind, self._spot, self._times, self._chance, self._asked = kind, spot, times, chance, asked
        self._count = 0
        self._paid_s = 0.0

    def take(self, session: str, memory_bytes: int, now: float, near: Node | None = None) -> Node:
        """Set room aside for a session: at `near` if there is any, else on the first node that has it, else on a new
        one."""
        room = self._room(memory_bytes)
        if near not in self.nodes or not near.places(self.terms, room) or near.eviction:
            near = next((node for node in self.open() if node.places(self.terms, room)), None) or self._ask(now)
        near.rooms[session] = room
        near.empty_since = None
        return near

    def resize(self, node: Node, session: str, memory_bytes: int) -> None:
        """It holds more now. It may then have more than there is; nothing is brought there until somebody has left."""
        node.rooms[session] = self._room(memory_bytes)

    def leave(self, node: Node, session: str, now: float) -> None:
        node.rooms.pop(session, None)
        if not node.rooms:
            node.empty_since = now

    def lifetime(self) -> float:
        """Seconds until a spot node of this kind is taken away."""
        return self._chance.expovariate(self._kind.evictions_per_s) if self._kind.evictions_per_s else float("inf")

    def open(self) -> Iterator[Node]:
        return (node for node in self.nodes if not node.eviction)

    def settle(self, now: float) -> float | None:
        """Ask for nodes until there is enough room to spare, and give back those nobody needs. When to come again: None
        if nothing is left to give back."""
        while self._spare() < self.terms.spare_sessions:
            self._ask(now)
        again = None
        for node in [node for node in self.open() if node.empty_since is not None]:
            over_at = (node.empty_since or 0.0) + self.terms.linger_s
            if self._spare() - node.places(self.terms, self.terms.session_bytes) < self.terms.spare_sessions:
                continue
            if over_at <= now:
                self.end(node, now)
            else:
                again = min(over_at, again or over_at)
        return again

    def end(self, node: Node, now: float) -> None:
        self._paid_s += now - node.asked_at
        self.nodes.remove(node)

    def paid_s(self, now: float) -> float:
        """Seconds of nodes, from when each was asked for."""
        return self._paid_s + sum(now - node.asked_at for node in self.nodes)

    @property
    def price(self) -> float:
        return self._kind.spot if self._spot else self._kind.on_demand

    def _room(self, memory_bytes: int) -> int:
        room = max(self.terms.session_bytes, memory_bytes)
        if room > (most := self._kind.memory_bytes - self.terms.system_bytes):
            raise DoesNotFit(
                f"A session of {room / GIBI:.1f} GiB fits no {self._kind.name}, which has {most / GIBI:.1f}.",
                "Choose a larger node with --kind.",
            )
        return room

    def _spare(self) -> int:
        return sum(node.places(self.terms, self.terms.session_bytes) for node in self.open())

    def _ask(self, now: float) -> Node:
        self._count += 1
        node = Node(f"{self._kind.name}-{self._count}", self._kind, self._spot, now, now + self._times.node_start_s)
        node.empty_since = now
        self.nodes.append(node)
        self._asked(node)
        return node
