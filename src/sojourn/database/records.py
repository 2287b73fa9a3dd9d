"""What stands in the database beside sessions and what they are doing, which is the law's own (`lifecycle`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sojourn.model import Capabilities, CheckpointKind, CheckpointView, NodeView, SaveReport, SessionSpec


@dataclass(frozen=True)
class Node:
    """A node that has joined. Its view in the database is always offline: who is online, only the controller knows."""

    view: NodeView
    token_hash: str
    key: str
    """Signs the tickets shown at this node; hexadecimal."""

    @property
    def name(self) -> str:
        return self.view.name


@dataclass(frozen=True)
class Token:
    """A token; of its secret only the hash is kept."""

    id: str
    kind: Literal["join", "api"]
    name: str
    secret_hash: str
    admin: bool
    created_at: float
    expires_at: float | None = None
    uses_left: int | None = None

    def valid(self, now: float) -> bool:
        expired = self.expires_at is not None and self.expires_at < now
        return not expired and self.uses_left != 0


@dataclass(frozen=True)
class Verb:
    """Something that a program asked through its rider; `ok` is None until it is answered."""

    session: str
    verb: str
    name: str
    arguments: dict[str, Any]
    asked_at: float
    ok: bool | None = None
    body: dict[str, Any] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, and what must be known of it to wake from it, though its session and node are gone."""

    id: str
    session: str
    session_name: str
    owner: str
    kind: CheckpointKind
    name: str
    node: str
    created_at: float
    report: SaveReport
    spec: SessionSpec
    facts: Capabilities
    """What the node was that it was taken on: where it wakes must do as well."""
    store: str
    """The identity of the store it lies in."""
    incarnation: int
    epoch: int
    problem: str = ""

    def view(self) -> CheckpointView:
        return CheckpointView(**{name: getattr(self, name) for name in CheckpointView.model_fields})
