"""What the law is told, in the past tense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sojourn.errors import SojournError
from sojourn.switchboard_law.kinds import Request


@dataclass(frozen=True, slots=True)
class RequestCame:
    request: Request


@dataclass(frozen=True, slots=True)
class ReplyCame:
    """The kernel answered the request `id` on shell."""

    id: str
    failed: bool
    message: Any = None


@dataclass(frozen=True, slots=True)
class CellBegan:
    """The kernel said that it runs the execute `id`."""

    id: str


@dataclass(frozen=True, slots=True)
class InputCame:
    """A person answered what a cell had asked; the answer is on its way to the kernel."""


@dataclass(frozen=True, slots=True)
class InterruptCame:
    """`message`: the client's interrupt_request; None when it came as a signal."""

    message: Any = None


@dataclass(frozen=True, slots=True)
class ShutdownCame:
    """The program is about to be ended or restarted by its owner. `message`: the client's shutdown_request; None when
    it came as a signal."""

    message: Any = None


@dataclass(frozen=True, slots=True)
class ProgramExited:
    """The kernel's process ended: what it had been asked will never be answered."""


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """`moving`: a move is under way. `frozen`: nothing of the session runs. `asleep`: it sleeps, is falling asleep, or
    has not woken entirely. `rewound`: it went on from an older state than clients have seen, or without some of its
    folders, in words for them."""

    node: str | None
    moving: bool
    frozen: bool
    asleep: bool = False
    rewound: str = ""


@dataclass(frozen=True, slots=True)
class MoveEnded:
    """The move the law asked for. `moved` is False when the session was at the place already."""

    moved: bool
    error: SojournError | None = None


@dataclass(frozen=True, slots=True)
class WakeEnded:
    """The wake the law asked for. Without an error the session runs, and SessionChanged will tell, or has told."""

    error: SojournError | None = None


@dataclass(frozen=True, slots=True)
class DebtsFound:
    """These went to the kernel in an earlier life of the front; it may have answered them since."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class AnswersLost:
    """What is still pending of these will not be answered any more. None: of all; the streams were reset because the
    session went on from an older state, or is gone."""

    error: SojournError
    requests: tuple[Request, ...] | None = None


@dataclass(frozen=True, slots=True)
class YieldAsked:
    """Another kernel may come in the place of this one: nobody is to ask it anything any more. May be repeated."""


@dataclass(frozen=True, slots=True)
class KernelHeard:
    """All that the kernel had to say to what it was asked before the last Probe is with the clients."""


@dataclass(frozen=True, slots=True)
class GoneOn:
    """Clients need not yield any longer: this kernel goes on, or another one has come after a reset (AnswersLost), and
    it can be heard."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline of `next_deadline` may have come."""


Event = (
    RequestCame
    | ReplyCame
    | CellBegan
    | InputCame
    | InterruptCame
    | ShutdownCame
    | ProgramExited
    | SessionChanged
    | MoveEnded
    | WakeEnded
    | DebtsFound
    | AnswersLost
    | YieldAsked
    | KernelHeard
    | GoneOn
    | TimePassed
)
