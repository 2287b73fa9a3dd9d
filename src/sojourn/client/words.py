"""What crosses the controller's API beside the models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from sojourn.model import (
    Carrier,
    Image,
    MovePlan,
    MoveView,
    Needs,
    Place,
    SaveView,
    SessionSpec,
    SessionView,
    Strategy,
    WakeView,
)
from sojourn.model.base import Word

TokenKind = Literal["join", "api"]
Until = Literal["accepted", "thawed", "filled"]
"""When a move's or a wake's answer is wanted: at once, when the session runs there, when every page is there."""
UntilDone = Literal["accepted", "done"]
"""When a save's answer is wanted: at once, or when the checkpoint is whole."""


class StartRequest(Word):
    spec: SessionSpec


class MoveRequest(Word):
    to: Needs | str
    """A place as an expression ("there", "gpu", "mem>=64G cores>=8"), or needs."""
    strategy: Strategy | Literal["auto"] = "auto"
    """"objects": as `carrier`."""
    carrier: Carrier | Literal["auto"] = "auto"
    """What carries it; auto: CRIU where that can, else objects, if nothing would be lost."""
    may_lose: tuple[str, ...] = ()
    """Of a move by objects: names that may stay behind; "*": any that can't travel."""
    dry_run: bool = False
    """Only plan."""
    wait: Until = "thawed"


class Moved(Word):
    """What became of a wish to move."""

    session: SessionView
    move: MoveView | None
    """None: nothing was moved, because it was there already or because this was a dry run."""
    plan: MovePlan


class SuspendRequest(Word):
    wait: UntilDone = "done"
    force: bool = False
    """Also in the middle of a cell, which then goes on at the wake."""


class ResumeRequest(Word):
    to: Needs | str | None = None
    """A place; None: where it was, if there is room, else anywhere."""
    wait: Until = "thawed"


class CheckpointRequest(Word):
    name: str = Field(default="", max_length=255)
    """To call it by; no other checkpoint of the session may have it."""
    wait: UntilDone = "done"


class RestoreRequest(Word):
    checkpoint: str
    """An id, a unique beginning of one, or a name."""
    to: Needs | str | None = None
    wait: Until = "thawed"


class ForkRequest(Word):
    to: Needs | str | None = None
    count: int = Field(default=1, ge=1, le=64)
    name: str = Field(default="", max_length=200)
    """Of the new session; several get a number. Empty: NAME-fork-1, …"""
    checkpoint: str | None = None
    """From this state; None: from that of now, or the one it sleeps in."""
    wait: Until = "thawed"


class VerifyRequest(Word):
    deep: bool = True
    """Read every chunk; else only look whether it is there."""


class Verified(Word):
    checkpoint: str
    problems: tuple[str, ...]
    """Each names a chunk and what uses it; none: it is whole."""


class GcRequest(Word):
    dry_run: bool = False


class Collected(Word):
    """What was, or with `dry_run` would be, removed from the store."""

    dropped: tuple[str, ...]
    """Checkpoints: unfinished ones, and those that nothing may wake from any more."""
    bytes: int
    """In a dry run, without those of the checkpoints that would go."""
    used_bytes: int
    """What checkpoints need."""
    slack_bytes: int
    """What stays beside that, in packs that they need a part of. What a checkpoint needs of a worn pack is written anew
    by the next save, so this is seldom more than what is used."""
    busy: int
    """Owners of whom a checkpoint is being written just now: what is theirs waits for the next time."""


class DrainRequest(Word):
    dry_run: bool = False
    deadline_s: float | None = Field(default=None, gt=0)
    """The node ends in so many seconds: what can't be moved by then is suspended."""
    reason: str = Field(default="", max_length=255)


class Activity(Word):
    """What a front knows of a kernel: whether it executes, and when a person last did something."""

    executing: bool
    at: float
    """Seconds since the epoch."""


class Decided(Word):
    """What a policy did, or would do now."""

    kind: str
    """"suspend", "move", "checkpoint", "propose"; "wait" where something would be done, but can't be yet."""
    session: str
    node: str
    target: str | None = None
    rule: str
    why: str
    urgent: bool = False
    dry_run: bool = False
    """Its rule only says what it would do."""
    at: float | None = None
    """When it was begun; None: it would be done now."""
    ended_at: float | None = None
    error: dict[str, str] | None = None
    """What it failed with, as SojournError.to_wire()."""


class Drained(Word):
    decisions: tuple[Decided, ...]


class Policies(Word):
    rules: dict[str, Any]
    """As the file of settings has them, with the defaults."""
    decisions: tuple[Decided, ...]
    """What they would do now."""
    done: tuple[Decided, ...] = ()
    """What they did lately, the newest first."""
    forecasts: tuple[str, ...] = ()
    """For each node that may be taken away: would everything there be safe in time, and by which sum."""
    problem: str = ""
    """Why the file of settings could not be understood; the rules then stay as they were."""


class ImageView(Word):
    """An image, and where it is."""

    image: Image
    nodes: tuple[str, ...]
    sessions: tuple[str, ...]
    """Those of yours that are from it, by name."""


class PullRequest(Word):
    reference: str = Field(min_length=1, max_length=255)
    nodes: tuple[str, ...] | None = None
    """None: every node that can start sessions from images."""
    own: Image | None = None
    """What whoever asks has of that name, and will bring to the place that the answer gives."""


class TransferPlace(Word):
    """Where whoever asked is to bring an image."""

    address: str
    """host:port of the node's data port; empty: only the controller's relay leads there."""
    ticket: str
    authority: str = ""
    """As in Place."""


class Transfer(Word):
    """An image on its way to a node."""

    id: str
    reference: str
    node: str
    image: str = ""
    """Its id; empty while that is not known."""
    way: str
    """"registry", the node that it comes from, or empty: whoever asked brings it."""
    step: str = ""
    """What is done just now, in a few words."""
    done_bytes: int = 0
    total_bytes: int = 0
    """0: not known."""
    began_at: float
    ended_at: float | None = None
    """None: it is under way."""
    error: dict[str, str] | None = None
    """Why it is not there, as SojournError.to_wire()."""
    place: TransferPlace | None = None


class ImagesRemoved(Word):
    nodes: dict[str, dict[str, str] | None]
    """Node -> why it keeps the image, as SojournError.to_wire(); None: it is gone there."""


class Watched(Word):
    """A session as a watcher sees it: at once, and after each change."""

    session: SessionView
    place: Place | None
    """Where clients find it now."""
    next_place: Place | None
    """Where clients may already knock and wait for the thaw."""
    move: MoveView | None
    """The move under way, else the last one."""
    save: SaveView | None = None
    """The save under way, else the last one."""
    wake: WakeView | None = None
    """The wake under way, else the last one."""


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
