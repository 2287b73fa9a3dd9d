"""What crosses the controller's API beside the models."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from sojourn.model import MovePlan, MoveView, Needs, Place, SessionSpec, SessionView, Strategy
from sojourn.model.base import Word

TokenKind = Literal["join", "api"]
Until = Literal["accepted", "thawed", "filled"]
"""When a move's answer is wanted: at once, when the session runs at the target, when every page is there."""


class StartRequest(Word):
    spec: SessionSpec


class MoveRequest(Word):
    to: Needs | str
    """A place as an expression ("there", "gpu", "mem>=64G cores>=8"), or needs."""
    strategy: Strategy | Literal["auto"] = "auto"
    dry_run: bool = False
    """Only plan."""
    wait: Until = "thawed"


class Moved(Word):
    """What became of a wish to move."""

    session: SessionView
    move: MoveView | None
    """None: nothing was moved, because it was there already or because this was a dry run."""
    plan: MovePlan


class Watched(Word):
    """A session as a watcher sees it: at once, and after each change."""

    session: SessionView
    place: Place | None
    """Where clients find it now."""
    next_place: Place | None
    """Where clients may already knock and wait for the thaw."""
    move: MoveView | None
    """The move under way, else the last one."""


class LogText(Word):
    text: str


class Version(Word):
    version: str
    protocol: int


class TokenRequest(Word):
    kind: TokenKind
    name: str
    """Of an api token: whose it is, and so the owner of the sessions started with it."""
    admin: bool = False
    """Of an api token: may see and do everything."""
    expires_in_seconds: float | None = None
    uses: int | None = None
    """Of a join token: how many nodes may join with it; None: any number."""


class TokenRow(TypedDict):
    """A token, without its secret."""

    id: str
    kind: str
    name: str
    admin: bool
    created_at: float
    expires_at: float | None
    uses_left: int | None


class TokenShown(TokenRow):
    """A new token with its secret, which is shown this once."""

    token: str
