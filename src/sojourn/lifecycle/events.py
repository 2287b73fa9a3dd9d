"""What the law hears, and what it tells. What agents report stands in `wire.py`; the rest is here."""

from __future__ import annotations

from dataclasses import dataclass

from sojourn import wire
from sojourn.lifecycle.state import Session
from sojourn.model import Strategy
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


@dataclass(frozen=True)
class MoveCancelled:
    """Whoever wanted the move has thought better of it."""

    move: str


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


@dataclass(frozen=True)
class Tell:
    """An instruction for a node. If the node can't be reached it is forgotten: `NodeReturned` brings it up again."""

    node: str
    instruction: wire.Instruction | DepartTo


Decision = tuple[Session, list[Tell]]
