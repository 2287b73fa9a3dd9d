"""A node: a machine that runs an agent."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from sojourn.model.base import Word
from sojourn.model.resources import Resources

Traffic = Literal["sealed", "local", "open"]
"""What a node and other machines say to each other: sealed by TLS; none, or none that is not led through something else
(as ssh); or open for anybody on the way to read."""


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


class SessionLoad(Word):
    """What a session uses on its node, as its cgroup and its network namespace count."""

    session: str
    memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    memory_pressure: float = 0.0
    """Share of the last ten seconds in which something of it waited for memory, 0 to 1 (psi, "some avg10")."""
    cpu_seconds: float = 0.0
    """Used since it came to this node; it grows."""
    network_bytes: int = 0
    """To and from the outside, since it came to this node; it grows."""
    no_network: str = ""
    """Why it has no way to the outside; empty: it has one."""


class Eviction(Word):
    """The node is about to be taken away, as its provider says."""

    at: float
    """Seconds since the epoch when it ends."""
    source: str
    """Who said so: "aws", "gcp", "azure", "signal", "file"."""


class Load(Word):
    cpu_share: float = 0.0
    """Busy share of all cores, 0 to 1."""
    memory_free_bytes: int = 0
    sessions: int = 0
    used: tuple[SessionLoad, ...] = ()
    """For each session in a sandbox of its own."""
    eviction: Eviction | None = None
    save_bytes_per_s: float = 0.0
    """How fast this node has lately saved or sent sessions; 0: nothing is known yet."""


class NodeView(Word):
    """A node as the API shows it."""

    id: str
    name: str
    status: NodeStatus
    labels: tuple[str, ...] = ()
    capacity: Resources
    capabilities: Capabilities
    load: Load
    draining: str = ""
    """Why no session is brought there any more ("asked by ada", "aws takes it away"); empty: open."""
    address: str | None = None
    """host:port where the agent listens for tunnels and moves; None when it only dials out: the controller relays."""
    traffic: Traffic = "local"
    seen_at: float
    """Seconds since the epoch of its last sign of life."""
