"""A node: a machine that runs an agent."""

from __future__ import annotations

from enum import StrEnum

from sojourn.model.base import Word
from sojourn.model.resources import Resources


class NodeStatus(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"


class Capabilities(Word):
    """What a node can do, as its agent found it. `refusals` says why something is missing: "lazy" -> reason."""

    os: str
    arch: str
    kernel: str
    python: str
    sojourn: str
    machine_id: str
    """The same on two nodes of one machine."""
    root_id: str
    """The identity of the root file system sessions see when they name no image."""
    cpu_model: str = ""
    cpu_flags: tuple[str, ...] = ()
    xsave_bytes: int = 0
    criu: str | None = None
    runc: str | None = None
    sandboxes: tuple[str, ...] = ()
    """Of "runc", "process"."""
    strategies: tuple[str, ...] = ()
    """The ways a live session can be carried to or from here: of "lazy", "copy"."""
    refusals: dict[str, str] = {}


class Load(Word):
    cpu_share: float = 0.0
    """Busy share of all cores, 0 to 1."""
    memory_free_bytes: int = 0
    sessions: int = 0


class NodeView(Word):
    """A node as the API shows it."""

    id: str
    name: str
    status: NodeStatus
    labels: tuple[str, ...] = ()
    capacity: Resources
    capabilities: Capabilities
    load: Load
    address: str | None = None
    """host:port where the agent listens for tunnels and moves; None when it only dials out."""
    seen_at: float
    """Seconds since the epoch of its last sign of life."""
