"""What a switchboard joins, and what it needs of those around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sojourn.front.connection import Connection
from sojourn.model import Place

ControlHandler = Callable[[dict[str, Any]], None]
StateHandler = Callable[[str, str], None]


class NearEnd(Protocol):
    """What the switchboard needs of its anchor (contract 3)."""

    on_cut: Callable[[str, str], None]
    """Called with the endpoint of a stream that the far side gave up, and why."""

    @property
    def state(self) -> str: ...
    def place(self, place: Place | None) -> None: ...
    def expect(self, place: Place | None) -> None: ...
    def listen(self, target: str) -> str: ...
    def control(self, message: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Errands(Protocol):
    """What the switchboard asks of its front, from its own thread; none may block."""

    def move(self, session: str, place: str) -> None:
        """Have the session moved and call `Switchboard.move_ended`."""

    def cancel_move(self, session: str) -> None: ...

    def wake(self, session: str, place: str | None) -> None:
        """Have the session woken, at `place` or where it sleeps, and call `Switchboard.wake_ended`. Asked again while
        that is under way, it is the same wish."""

    def discard(self, session: str) -> None:
        """End a session that sleeps."""

    def activity(self, session: str, executing: bool, at: float) -> None:
        """Whether the kernel executes, and when a person last did something (seconds since the epoch)."""


@dataclass(frozen=True)
class Line:
    """What a switchboard joins: the clients' connection, the kernel's own, and how the kernel is spoken to."""

    session: str
    outer: Connection
    inner: Connection
    language: str
    identity: str
    """Ours towards the kernel. The same after a crash of the front, so that pending replies come through."""
