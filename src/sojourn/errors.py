"""Every error Sojourn raises, in one tree.

A message says what happened and to which object; `hint` says what to do next. `code` is the stable name under
which an error crosses the HTTP API and the agents' WebSocket: both ends raise the same class.

    SojournError
    ├── Refused                 nothing was changed
    │   ├── Unknown             no such node, session, move
    │   ├── Busy                the object is in the middle of something else
    │   ├── DoesNotFit          no room, or the node lacks what the session needs
    │   ├── Incompatible        other CPU, architecture, version, root
    │   ├── Immovable           the session holds something that cannot travel (a GPU, io_uring, …)
    │   ├── Unauthorized        wrong, missing or expired token or ticket
    │   └── Invalid             input that means nothing
    ├── Unreachable             the other side does not answer
    ├── MoveFailed              the session is where it was
    ├── SandboxFailed           runc, an overlay, a namespace, a cgroup
    ├── CriuFailed              CRIU ended with an error; the message quotes its log
    ├── SaveFailed              the session runs where it was; no checkpoint came of it
    ├── WakeFailed              the session sleeps on
    ├── StoreFailed             the chunk store does not answer, is full, or is another one
    │   └── Damaged             a checkpoint, or a chunk of it, is missing or not what it was
    ├── TunnelFailed            the two ends of a tunnel can't go on
    └── SessionLost             the session is gone; the message says why
"""

from __future__ import annotations

from typing import Any, ClassVar


class SojournError(Exception):
    """The root of the tree."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def to_wire(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "hint": self.hint}


class Refused(SojournError):
    """The request was turned down before anything was changed."""

    code = "refused"
    http_status = 409


class Unknown(Refused):
    code = "unknown"
    http_status = 404


class Busy(Refused):
    code = "busy"
    http_status = 409


class DoesNotFit(Refused):
    code = "does_not_fit"
    http_status = 409


class Incompatible(Refused):
    code = "incompatible"
    http_status = 409


class Immovable(Refused):
    code = "immovable"
    http_status = 409


class Unauthorized(Refused):
    code = "unauthorized"
    http_status = 401


class Invalid(Refused):
    code = "invalid"
    http_status = 422


class Unreachable(SojournError):
    """The other side does not answer; nothing is known of what it did."""

    code = "unreachable"
    http_status = 503


class MoveFailed(SojournError):
    """A move ended early; the session is alive where it was."""

    code = "move_failed"
    http_status = 502


class SandboxFailed(SojournError):
    code = "sandbox_failed"
    http_status = 502


class CriuFailed(SojournError):
    code = "criu_failed"
    http_status = 502


class SaveFailed(SojournError):
    """A save ended early; the session is alive where it was, and no checkpoint is visible."""

    code = "save_failed"
    http_status = 502


class WakeFailed(SojournError):
    """The session could not be woken; it sleeps on, in the same checkpoint or, if that is damaged, in an older one."""

    code = "wake_failed"
    http_status = 502


class StoreFailed(SojournError):
    code = "store_failed"
    http_status = 502


class Damaged(StoreFailed):
    """A checkpoint can't be used: the message names the chunk, and what is wrong with it."""

    code = "damaged"
    http_status = 502


class TunnelFailed(SojournError):
    code = "tunnel_failed"
    http_status = 502


class SessionLost(SojournError):
    code = "session_lost"
    http_status = 410


def _tree(root: type[SojournError]) -> dict[str, type[SojournError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_wire(body: dict[str, Any]) -> SojournError:
    """The error that `to_wire` described; an unknown code becomes a plain SojournError."""
    kind = _tree(SojournError).get(str(body.get("code")), SojournError)
    return kind(str(body.get("message", "unknown error")), str(body.get("hint", "")))
