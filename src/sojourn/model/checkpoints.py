"""A checkpoint: a session's saved state, and what it took to save it or to wake from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from sojourn.model.base import Word

CheckpointKind = Literal["suspend", "named", "background"]
"""suspend: the state a session sleeps in. named: taken by a person, kept until deleted. background: taken by a
policy, so that the loss of a node costs minutes; only the newest are kept."""


class SavePhase(StrEnum):
    SAVING = "saving"
    """The state is on its way into the store; frozen, or about to be."""
    RELEASING = "releasing"
    """The checkpoint is whole; what stands frozen is being removed."""
    ROLLING_BACK = "rolling_back"
    """It failed, and the session is being let go on where it stands."""
    DONE = "done"
    FAILED = "failed"
    """The session runs where it was; nothing of the checkpoint is visible."""


class SaveReport(Word):
    """What a save cost. Seconds and bytes; zero until known."""

    frozen_s: float = 0.0
    """How long the session stood still; for a suspend, until its state was whole."""
    total_s: float = 0.0
    memory_bytes: int = 0
    """Pages with something in them."""
    image_bytes: int = 0
    layer_bytes: int = 0
    stored_bytes: int = 0
    """What had to be written to the store: compressed, and without what it had already."""
    chunks: int = 0
    new_chunks: int = 0
    timeline: dict[str, float] = {}
    """Step -> seconds since the freeze."""


class SaveView(Word):
    """A save under way, or the last one of a session. Its id is the checkpoint's."""

    id: str
    session: str
    node: str
    kind: CheckpointKind
    name: str = ""
    phase: SavePhase
    done_bytes: int = 0
    total_bytes: int = 0
    report: SaveReport = SaveReport()
    error: dict[str, str] | None = None
    started_at: float
    ended_at: float | None = None


class WakePhase(StrEnum):
    WAKING = "waking"
    """The sandbox is being made and the state fetched; nothing runs yet."""
    FILLING = "filling"
    """It runs; its pages are on their way from the store."""
    ABANDONING = "abandoning"
    """It failed, and what had come is being removed."""
    DONE = "done"
    FAILED = "failed"
    """The session sleeps again."""


class WakeView(Word):
    id: str
    session: str
    node: str
    checkpoint: str
    exact: bool
    """Streams go on; else they are reset, because the state is older than what clients have seen."""
    phase: WakePhase
    done_bytes: int = 0
    total_bytes: int = 0
    error: dict[str, str] | None = None
    started_at: float
    thawed_at: float | None = None
    ended_at: float | None = None


class CheckpointView(Word):
    """A whole checkpoint, as the API shows it."""

    id: str
    session: str
    """Whose state it is; the session may have ended since."""
    session_name: str = ""
    owner: str
    kind: CheckpointKind
    name: str = ""
    node: str
    """Where it was taken; where it wakes fastest, for that node may have its chunks at hand."""
    created_at: float
    report: SaveReport = SaveReport()
    problem: str = ""
    """Why it can't be used: what `verify`, or a wake, found missing or damaged. Empty: whole."""


class StorePass(Word):
    """Where chunks are kept, and what opens them. Travels in instructions; never shown."""

    url: str
    """A folder (file:), a bucket (s3:) or memory (memory:, for tests), as `chunks.open_store` takes it."""
    identity: str
    """The store says who it is (a random id in its root), so that a folder of the same path on another machine is not
    taken for it."""
    key: str = Field(repr=False)
    """The owner's, 32 bytes in hexadecimal."""
