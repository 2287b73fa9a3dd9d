"""What a sandbox is, whatever it is made of: the container that holds one session on one node.

A sandbox belongs to one `(session, incarnation)` and one folder. Everything it makes can be found again from that
folder, so `open_sandbox(folder).remove()` works after a crash of anything, any number of times.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sojourn.errors import SandboxFailed
from sojourn.model.base import Word
from sojourn.model.sessions import SandboxKind, SessionSpec
from sojourn.sandbox.layer import Layer


class SandboxPlan(Word):
    """All that the agent says about a sandbox before it exists."""

    kind: SandboxKind
    node: str
    """The node's name; part of the cgroups' paths, which two nodes of one machine share."""
    session: str
    incarnation: int
    spec: SessionSpec
    rider: str
    """The rider's zipapp on the node (`sojourn.rider.build.build_rider`); `create` copies it in."""
    hidden: tuple[str, ...] = ()
    """Folders of the node that a session must not see, beside those Sojourn knows of (see `rootfs.hidden_folders`)."""
    kept: str | None = None
    """The node's folder for layers of sessions that have left (`kept_layers`); None: none is kept."""
    prefixes: tuple[str, ...] = ()
    """Of a session that is born: folders that its program runs from, and that it takes along although they lie in one
    that it leaves."""
    root: str = ""
    """The identity of the node's own root file system (`Capabilities.root_id`)."""
    depot: str | None = None
    """The node's folder for environments (`sojourn.environment`); None: sessions of other roots can't be taken in."""


class Sandbox(ABC):
    """One sandbox. All methods block; the agent calls them in threads. They raise SandboxFailed."""

    def __init__(self, folder: Path, plan: SandboxPlan) -> None:
        self.folder = folder.absolute()
        self.plan = plan
        self.facts: dict[str, Any] = {}
        """What was found out while making it: kept in sandbox.json."""

    # ── its life, as the agent drives it ──

    @abstractmethod
    def create(self, mount: bool = True) -> None:
        """Make everything but the processes. `mount=False`: for an arrival, whose writable layer is still to come;
        `layer.apply` and `mount` follow."""

    @abstractmethod
    def mount(self) -> None:
        """Put the root file system together. From here on the layer may be read but not applied."""

    @abstractmethod
    def start(self) -> None:
        """Start the rider; returns when it listens."""

    @abstractmethod
    def adopt(self, root_pid: int) -> None:
        """Called by a mover after a restore: this process, as the node numbers it, is the rider now."""

    @abstractmethod
    def connect(self) -> socket.socket:
        """A new connection to the rider, before its first line; raises Unreachable when none listens."""

    @property
    def secret(self) -> str | None:
        """What the first line of a connection must carry; None where the rider knows the agent by its credentials."""
        return None

    @property
    def passes_descriptors(self) -> bool:
        """Whether a client's socket can be handed to the rider over `connect()`."""
        return True

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to all, frozen or not; returns when they are gone."""

    @abstractmethod
    def remove(self) -> None:
        """Kill, then undo everything, the folder included. Right after a crash at any step, any number of times."""

    # ── what it is doing ──

    @abstractmethod
    def pids(self) -> list[int]:
        """Every process in it, as the node numbers them."""

    @abstractmethod
    def root_pid(self) -> int | None:
        """The rider, as the node numbers it; None when it does not run."""

    def alive(self) -> bool:
        return self.root_pid() is not None

    @abstractmethod
    def log(self, tail_bytes: int) -> str:
        """The end of what the program wrote to stdout and stderr, and of the rider's own notes."""

    # ── for movers ──

    @abstractmethod
    def freeze(self) -> None:
        """Stop every process; returns when all stand still. Raises SandboxFailed (and thaws) after two seconds."""

    @abstractmethod
    def thaw(self) -> None:
        """Undo `freeze`."""

    @abstractmethod
    def hold(self) -> None:
        """Freeze a level above, where CRIU does not thaw."""

    @abstractmethod
    def release(self) -> None:
        """Undo `hold`."""

    @property
    @abstractmethod
    def layer(self) -> Layer:
        """The writable layer."""

    @abstractmethod
    def restless_files(self) -> Collection[str]:
        """Paths in the layer that may change without a new stamp (mapped shared and writable): every delta must carry
        them."""

    # ── its record ──

    def record(self) -> None:
        """Write sandbox.json. Not synced: after a power cut nothing runs anyway."""
        body = {"plan": self.plan.model_dump(mode="json"), "facts": self.facts}
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.folder / "sandbox.json", body)


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Replace a file in one step, readable by this user alone."""
    draft = path.with_name(f".{path.name}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(body, file)
    draft.replace(path)


def end_of(path: Path, size: int) -> str:
    """The last `size` bytes of a regular file as text; "" without one. A link or pipe that a session has put in its
    place is not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return ""
    return end_of_open(descriptor, size)


def end_of_open(descriptor: int, size: int) -> str:
    """The same of a descriptor, which is closed."""
    with os.fdopen(descriptor, "rb") as file:
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode):
            return ""
        file.seek(max(0, there.st_size - size))
        return file.read(size).decode(errors="replace")


def own_python() -> str:
    """The interpreter below any virtual environment: known to be new enough for the rider."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def make_sandbox(folder: Path, plan: SandboxPlan) -> Sandbox:
    """The sandbox of a plan; nothing is made before `create`."""
    from sojourn.sandbox.process import ProcessSandbox  # both build on this module

    if plan.kind == "process":
        return ProcessSandbox(folder, plan)
    from sojourn.sandbox.runc import RuncSandbox

    return RuncSandbox(folder, plan)


def open_sandbox(folder: Path) -> Sandbox:
    """The sandbox that was made in a folder, by this agent or one before it. Raises SandboxFailed when the folder has
    no readable sandbox.json; `mounts.remove_tree(folder)` is then all that is left to do."""
    try:
        body = json.loads((folder / "sandbox.json").read_text())
        sandbox = make_sandbox(folder, SandboxPlan.model_validate(body["plan"]))
    except (OSError, ValueError, KeyError, ValidationError) as wrong:
        raise SandboxFailed(f"{folder} holds no sandbox that can be opened: {wrong}") from wrong
    sandbox.facts = body["facts"]
    return sandbox
