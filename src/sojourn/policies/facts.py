"""What the policies are told: nodes and sessions as they are at one moment. Bytes, seconds since the epoch, cores."""

from __future__ import annotations

from dataclasses import dataclass

from sojourn.model.nodes import Eviction
from sojourn.model.sessions import SessionStatus


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    memory_bytes: int = 0
    """All it has."""
    free_bytes: int = 0
    """What nothing uses, and no session on its way there will."""
    cores: float = 1.0
    labels: tuple[str, ...] = ()
    online: bool = True
    machine: str = ""
    """The same for nodes that share one machine, and so its memory; empty: one of its own."""
    price: float | None = None
    """Per hour; None where nobody has said."""
    spot: bool = False
    """Its provider may take it away."""
    eviction: Eviction | None = None
    draining: str = ""
    """Why nothing is brought there any more; empty: open."""
    drain_by: float | None = None
    """When it is to be empty; None: no hurry."""
    save_bytes_per_s: float = 0.0
    """How fast it has lately saved sessions into the store; 0: nothing is known."""
    link_bytes_per_s: float = 0.0
    """How fast pages have lately left it for another node; 0: nothing is known."""


@dataclass(frozen=True, slots=True)
class SessionFacts:
    id: str
    node: str
    owner: str = ""
    name: str = ""
    status: SessionStatus = SessionStatus.RUNNING
    busy: str = ""
    """What it is in the middle of ("on its way to big", "being saved"); empty: something can be done with it."""
    precious: float = 1.0
    """Its weight when not everything can be rescued: the greater, the earlier."""
    born_at: float = 0.0
    memory_bytes: int = 0
    private_bytes: int | None = None
    """What would travel as pages; None: take it for all of its memory."""
    needs_bytes: int = 0
    """What it asked for, and must find free where it goes, though it may use less."""
    limit_bytes: int | None = None
    """Where its node kills it."""
    growth_bytes_per_s: float = 0.0
    peak_bytes: int = 0
    """The most it has used while it was watched."""
    pressure: float = 0.0
    """Share of the last seconds in which it waited for memory, 0 to 1."""
    cores_used: float = 0.0
    """Over the last minute."""
    busiest_cores: float = 0.0
    """Over its busiest ten minutes while it was watched."""
    watched_s: float = 0.0
    """For how long it has been watched on this node."""
    executing: bool | None = None
    """Whether a cell runs; None: nobody says."""
    idle_since: float | None = None
    """The newest of the last cell's end, traffic to the outside above a trickle, what a person or a widget did, and
    work without a cell; None: nobody says."""
    saved_at: float | None = None
    """When its newest whole checkpoint was taken."""
    can_move_to: tuple[str, ...] = ()
    """Nodes that have what it needs and can restore it, room apart."""
    blocked: str = ""
    """Why it can be neither moved nor saved; empty: it can."""

    @property
    def at_rest(self) -> bool:
        return self.status is SessionStatus.RUNNING and not self.busy

    @property
    def travel_bytes(self) -> int:
        """What has to leave a node before the session is safe elsewhere."""
        return self.memory_bytes if self.private_bytes is None else self.private_bytes

    @property
    def room_bytes(self) -> int:
        """What must be free where it goes."""
        return max(self.memory_bytes, self.needs_bytes)

    @property
    def seconds_to_limit(self) -> float | None:
        """Until it has grown to its limit at its present pace; None: never."""
        if self.limit_bytes is None or self.growth_bytes_per_s <= 0:
            return None
        return max(0.0, (self.limit_bytes - self.memory_bytes) / self.growth_bytes_per_s)


@dataclass(frozen=True, slots=True)
class Facts:
    nodes: tuple[NodeFacts, ...]
    sessions: tuple[SessionFacts, ...]
