"""What the law hears, and what it tells. What agents report stands in `wire.py`; the rest is here."""

from __future__ import annotations

from dataclasses import dataclass

from sojourn import wire
from sojourn.lifecycle.state import Session
from sojourn.model import CheckpointKind, SessionSpec, Shipment, Strategy
from sojourn.wire import Held


@dataclass(frozen=True)
class SessionWanted:
    """A person wants the pending session to run."""


@dataclass(frozen=True)
class StopWanted:
    """A person wants it gone."""


@dataclass(frozen=True)
class MoveWanted:
    """A person, or the session itself, wants it elsewhere; everything that can be checked was checked."""

    move: str
    target: str
    strategy: Strategy
    connections_reset: tuple[str, ...] = ()
    memory_bytes: int = 0
    """What was asked for it there: a session with a lower limit gets this one."""
    shipments: tuple[Shipment, ...] = ()
    """What went ahead of it."""
    may_lose: tuple[str, ...] = ()
    """Of a move by objects: names that may stay behind."""


@dataclass(frozen=True)
class MoveCancelled:
    """Whoever wanted the move has thought better of it."""

    move: str


@dataclass(frozen=True)
class SuspendWanted:
    """A person, or a policy, wants it to sleep in the store."""

    save: str
    """The id of the save, and of the checkpoint that comes of it."""


@dataclass(frozen=True)
class CheckpointWanted:
    """Its state is wanted in the store while it runs on."""

    save: str
    kind: CheckpointKind
    name: str = ""


@dataclass(frozen=True)
class ResumeWanted:
    """A person, or a request of a client, wants it awake, at a node that can be reached."""

    wake: str
    node: str


@dataclass(frozen=True)
class RestoreWanted:
    """A person wants it taken back to one of its checkpoints; what it did since is given up."""

    checkpoint: str
    wake: str
    node: str


@dataclass(frozen=True)
class CheckpointDamaged:
    """Somebody looked: this checkpoint can't be used."""

    checkpoint: str
    problem: str
    """A sentence, or several."""


@dataclass(frozen=True)
class CheckpointFound:
    """The store was looked at after a save was given up with its node: its checkpoint is whole."""

    checkpoint: str


@dataclass(frozen=True)
class CheckpointsDropped:
    """These are to be deleted. Refused when it needs one of them."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class ControllerStarted:
    """The controller was away: no node is known to be reachable, and no silence so far counts."""


@dataclass(frozen=True)
class NodeLeft:
    """The line to an agent is down; its sessions may be well."""

    node: str


@dataclass(frozen=True)
class NodeReturned:
    """An agent said hello, and this is what it holds of the session."""

    node: str
    held: tuple[Held, ...]


@dataclass(frozen=True)
class NodeDied:
    """A node was away for so long that nobody should wait for it."""

    node: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class ClockJumped:
    """The clock was set, or the machine slept, and nobody could have answered meanwhile."""

    seconds: float


@dataclass(frozen=True)
class Reported:
    """What an agent reports of the session."""

    node: str
    event: wire.Event


Event = (
    SessionWanted
    | StopWanted
    | MoveWanted
    | MoveCancelled
    | SuspendWanted
    | CheckpointWanted
    | ResumeWanted
    | RestoreWanted
    | CheckpointDamaged
    | CheckpointFound
    | CheckpointsDropped
    | ControllerStarted
    | NodeLeft
    | NodeReturned
    | NodeDied
    | Tick
    | ClockJumped
    | Reported
)


@dataclass(frozen=True)
class DepartTo:
    """`wire.Depart` before it has an address and a ticket, which only the controller can give it."""

    move: str
    session: str
    incarnation: int
    strategy: Strategy
    target: str
    may_lose: tuple[str, ...] = ()


@dataclass(frozen=True)
class SaveTo:
    """`wire.SaveSession` before it has its `StorePass`, which only the controller can give it."""

    save: str
    session: str
    incarnation: int
    keep: bool


@dataclass(frozen=True)
class WakeFrom:
    """`wire.WakeSession` before it has its `StorePass`."""

    wake: str
    session: str
    incarnation: int
    epoch: int
    checkpoint: str
    spec: SessionSpec


@dataclass(frozen=True)
class Tell:
    """An instruction for a node. If the node can't be reached it is forgotten: `NodeReturned` brings it up again."""

    node: str
    instruction: wire.SessionInstruction | DepartTo | SaveTo | WakeFrom


Decision = tuple[Session, list[Tell]]
