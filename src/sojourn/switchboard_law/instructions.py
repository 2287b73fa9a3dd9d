"""What the law asks for, in the imperative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sojourn.switchboard_law.kinds import Request


@dataclass(frozen=True, slots=True)
class Forward:
    """Send it to the kernel."""

    request: Request


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the kernel's reply to its client."""

    message: Any


@dataclass(frozen=True, slots=True)
class Abort:
    """Answer with `aborted`, and busy/idle, as the kernel would have."""

    request: Request


@dataclass(frozen=True, slots=True)
class Fail:
    """Answer with an error, as the kernel would have; what gets no reply fails on stderr."""

    request: Request
    name: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AnswerEmpty:
    request: Request


@dataclass(frozen=True, slots=True)
class Recall:
    """Answer as the kernel did last."""

    request: Request


@dataclass(frozen=True, slots=True)
class Tell:
    """Write to the cell's stderr."""

    request: Request
    text: str


@dataclass(frozen=True, slots=True)
class Move:
    """Ask for the session to be moved; MoveEnded must follow."""

    place: str


@dataclass(frozen=True, slots=True)
class CancelMove:
    """Take back the last Move if that is still possible; MoveEnded follows all the same."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Have the session woken, at this place or wherever it sleeps; WakeEnded must follow."""

    place: str | None


@dataclass(frozen=True, slots=True)
class PassInterrupt:
    """As the client's message, or as a signal; it is heard when the session runs."""

    message: Any


@dataclass(frozen=True, slots=True)
class ConfirmInterrupt:
    """Tell the client it is done."""

    message: Any


@dataclass(frozen=True, slots=True)
class PassShutdown:
    message: Any


@dataclass(frozen=True, slots=True)
class Discard:
    """Reply as a kernel that shuts down, and let the session go without waking it."""

    message: Any


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the kernel something that changes nothing wherever it may have something to say; KernelHeard follows when
    that is answered. A probe that is under way already counts no more."""


@dataclass(frozen=True, slots=True)
class SayYielded:
    """Say to who asked for it that the kernel owes nothing, and is asked nothing."""


Instruction = (
    Forward
    | Deliver
    | Abort
    | Fail
    | AnswerEmpty
    | Recall
    | Tell
    | Move
    | CancelMove
    | Wake
    | PassInterrupt
    | ConfirmInterrupt
    | PassShutdown
    | Discard
    | Probe
    | SayYielded
)
