"""A session: one sandboxed process tree with an identity that outlives its place."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from sojourn.model.base import Word
from sojourn.model.images import Image
from sojourn.model.resources import Needs

SandboxKind = Literal["runc", "process"]
Cpu = Literal["node", "fleet"]
"""Which CPU a session may use: its node's with all it has, or only what the fleet's nodes have in common."""


class SessionStatus(StrEnum):
    PENDING = "pending"
    """Accepted; no node has begun."""
    STARTING = "starting"
    RUNNING = "running"
    MOVING = "moving"
    """A move is under way and the session is, or soon will be, frozen."""
    FILLING = "filling"
    """It runs while its last pages are on their way: from a source that stands frozen, or from a checkpoint."""
    SUSPENDING = "suspending"
    """Its state is being saved; it is, or soon will be, frozen, and nothing of it will run afterwards."""
    SUSPENDED = "suspended"
    """It sleeps in a checkpoint; nothing of it runs anywhere."""
    WAKING = "waking"
    """It is being brought back from its checkpoint; nothing runs yet."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    """It never ran, or its node said it can't."""
    LOST = "lost"
    """Its node died with it."""


class Program(Word):
    """What the rider starts. The environment is complete: nothing of the agent's leaks in."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    cwd: str = "/"
    uid: int = 0
    gid: int = 0


FolderMode = Literal["shared", "carried", "left"]


class Sight(Word):
    """What one machine sees of a folder, by which another one may know it (see `sandbox/canary.py`)."""

    of: str = Field("", pattern=r"^[\w.-]*$")
    """The name of a canary in it: the id of a move, or of a kernel that is to start."""
    canary: str | None = None
    """What that canary says."""
    id: str | None = None
    """The folder's own."""
    stands_for: tuple[str, ...] = ()
    """The ids of others that it is to be taken for."""
    inode: int = 0
    changed_ns: int = 0
    """When it was last changed, in nanoseconds since 1970."""
    entries: dict[str, int] = {}
    """Some of what lies in it, and its inode."""


class Mount(Word):
    """A folder of the node that the session sees at the same path.

    `shared`: the folder itself; a node that the session moves to must have the very same one, which is made sure before
    anything is frozen. `carried`: a copy in the session's own writable layer, which travels with it. `left`: the node's
    own, whichever that is: after a move the new node's folder of that path, or an empty one.
    """

    path: str
    mode: FolderMode = "shared"
    exclude: tuple[str, ...] = ()
    """Of a carried folder: what the copy is made without, in patterns as a .gitignore has them."""
    seen: Sight | None = None
    """Of a shared folder: what is seen of it where the session was asked for, until it has started. A node that sees
    another one does not start it."""


class Baseline(Word):
    """The CPU that a session was started for: less than its node's, so that it may go to other nodes too."""

    flags: tuple[str, ...]
    """The instructions it may use, as Linux names them; all that another node must have."""
    env: dict[str, str] = {}
    """What keeps its programs to them; it goes before their own environment."""


class Ground(Word):
    """What a session stands on that starts away from home: another node's root, in layers that were brought before."""

    root: str
    """The identity of that node's root."""
    python: str
    """The interpreter there that runs the rider."""
    layers: tuple[dict[str, Any], ...]
    """The topmost first, each with its `id` and its `part` (`environment.parts.Part`)."""


class SessionSpec(Word):
    name: str = ""
    program: Program
    files: dict[str, str] = {}
    """Private files (a connection file), absolute path inside the sandbox -> text; mode 0600, the program's owner."""
    needs: Needs = Needs()
    sandbox: SandboxKind | None = None
    """None: runc where the node has it, else a plain process."""
    image: str | None = None
    """A name that podman knows, or a folder that holds a root. None: the node's own root, read-only below the session's
    writable layer."""
    pinned: Image | None = None
    """What that name stood for when the session was started, and stands for wherever it goes. The controller sets it,
    whatever is asked."""
    environment: str | None = None
    """The node whose root the session starts on, wherever it starts. None: that of the node where it starts."""
    ground: Ground | None = None
    """What that root was when the session was started. The controller sets it, whatever is asked."""
    cpu: Cpu = "node"
    baseline: Baseline | None = None
    """With `cpu` "fleet": what that was when the session was started. The controller sets it, whatever is asked."""
    mounts: tuple[Mount, ...] = ()
    autostart: bool = True
    """Start the program with the sandbox, before any client comes."""
    ends_with_program: bool = False
    """The session stops when its program exits. A kernel's does not: Jupyter may restart it."""


class Place(Word):
    """Where a session's rider can be reached, and under which incarnation."""

    node: str
    address: str
    """host:port of the agent's data port; empty: only the controller's relay leads there."""
    ticket: str
    incarnation: int
    epoch: int
    """Streams go on while the epoch stays, and are reset when it grows (rollback, fork)."""
    authority: str = ""
    """Who vouches for the node (a certificate, PEM): what goes there is sealed, unless it stays on this machine. Empty:
    nothing is."""


class SessionView(Word):
    """A session as the API shows it."""

    id: str
    name: str
    owner: str
    status: SessionStatus
    node: str | None
    """Name of the node where it runs (the target, once thawed there)."""
    incarnation: int
    epoch: int
    sandbox: SandboxKind | None = None
    created_at: float
    move: str | None = None
    """The id of the move under way."""
    save: str | None = None
    """The id of the save under way."""
    checkpoint: str | None = None
    """What it sleeps in, or is waking from."""
    origin: str | None = None
    """The session that this one was forked from."""
    reason: str = ""
    """Why it failed, was lost, rolled back or went on from an older state; empty when all is well."""


class Folder(Word):
    """One of a session's folders, as a move would treat it."""

    path: str
    mode: FolderMode
    size_bytes: int = 0
    """Of a carried one: how much there is of it now. What the other node has kept of it since an earlier visit is not
    sent again."""


class Inspection(Word):
    """What the node that holds a session says of moving it, before anything is frozen."""

    memory_bytes: int = 0
    private_dirty_bytes: int = 0
    """What would travel as pages."""
    layer_bytes: int = 0
    """What would travel as files."""
    folders: tuple[Folder, ...] = ()
    processes: int = 0
    forked_sharing_bytes: int = 0
    """Memory shared copy-on-write between forks, which lazy pages would multiply."""
    outside_connections: tuple[str, ...] = ()
    """Connections that will be reset, as "tcp 10.0.0.1:5432"."""
    blockers: tuple[str, ...] = ()
    """Reasons why this session can't be frozen at all (a GPU device open, io_uring, a userfaultfd of its own)."""
