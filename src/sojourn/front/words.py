"""What crosses the front's own HTTP API (contract 6)."""

from __future__ import annotations

from typing import Any

from sojourn.front.connection import Connection
from sojourn.model import Program, SessionSpec, SessionStatus
from sojourn.model.base import Word


class ControllerAddress(Word):
    """The controller that a kernel's session belongs to. One front may host kernels of several."""

    url: str
    token: str


class OpenRequest(Word):
    """A kernel to start and host. `{connection_file}` in argv stands for the kernel's own connection file."""

    controller: ControllerAddress
    spec: SessionSpec
    connection: Connection
    """What the clients use."""
    language: str
    lease_seconds: float
    """Without a renewal for so long, and without a client attached, the kernel is stopped."""


class AdoptRequest(Word):
    """A session that runs or sleeps already, whose kernel is to be hosted here: a fork."""

    controller: ControllerAddress
    session: str
    language: str = ""
    """Of the kernel; empty: as its origin's, if that is hosted here, else python."""


class SignalRequest(Word):
    signum: int


class StartRequest(Word):
    """Start the program again. None: as it was."""

    program: Program | None = None
    connection: Connection | None = None


class LeaseRequest(Word):
    seconds: float


class KernelView(Word):
    session: str
    connection: dict[str, Any]
    running: bool
    """The kernel's program runs, or is on its way."""
    exit_code: int | None
    """As subprocess gives it: negative for a signal."""
    status: SessionStatus | None
    """None until the controller has said."""
    node: str | None
    move: str | None
    """The id of the move under way."""
    reason: str
    """Why the session failed or was lost, or the last words of a program that ended; empty when all is well."""
    attached: int
    """Clients that listen."""


class Card(Word):
    """front.json: where the front is, and what opens it."""

    url: str
    token: str
    pid: int
