"""A sandbox that is none: the rider as a plain process of this user. For any OS, without root.

It cannot be moved, frozen safely or hidden from; it outlives its agent and is found again from its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil

from sojourn.errors import Incompatible, SandboxFailed, Unreachable
from sojourn.sandbox import spec as specs
from sojourn.sandbox.base import Sandbox, end_of, own_python, write_json
from sojourn.sandbox.layer import Layer
from sojourn.sandbox.mounts import remove_tree

START_SECONDS = 15.0
KILL_SECONDS = 10.0
FREEZE_SECONDS = 5.0
MARK = "SOJOURN_SANDBOX"
"""In the environment of every process of the sandbox: by it those are found that have left the rider's tree."""

_LONGEST_SOCKET_PATH = 100
"""sun_path holds 108 bytes on Linux, 104 on macOS."""
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP")
"""What an interpreter may need to start; everything else of the agent's environment stays with the agent."""
_DETACHED = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
"""Windows' way of outliving the parent."""


class ProcessSandbox(Sandbox):
    """See the module."""

    _child: subprocess.Popen[bytes] | None = None

    # ── making it ──

    def create(self, mount: bool = True) -> None:
        if not mount:
            raise _immovable()
        if self.plan.spec.program.uid not in {0, _own("uid")}:
            raise Incompatible("A plain process can't run as another user.", "Start the session on a node with runc.")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.facts.setdefault("secret", secrets.token_urlsafe(24))
        self.record()
        (self.folder / "spool").mkdir(exist_ok=True, mode=0o700)
        (self.folder / "rider.pyz").write_bytes(Path(self.plan.rider).read_bytes())
        for path, text in self.plan.spec.files.items():
            self._write_file(self._real(path), self._with_own_ports(text))
        write_json(self._config, self._rider_config())

    def mount(self) -> None:
        """Nothing to mount."""

    def _write_file(self, place: Path, text: str) -> None:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    def _with_own_ports(self, text: str) -> str:
        """A kernel's connection file, with ports that are free here: those it names may be taken, as by the kernel that
        this one takes the place of. Any other file as it is."""
        try:
            connection = json.loads(text)
        except ValueError:
            return text
        if not isinstance(connection, dict) or "shell_port" not in connection:
            return text
        names = [name for name in connection if name.endswith("_port")]
        if "ports" not in self.facts:
            self.facts["ports"] = dict(
                zip((str(connection[name]) for name in names), _free_ports(len(names)), strict=True)
            )
            self.record()
        return json.dumps(connection | {name: self.facts["ports"][str(connection[name])] for name in names})

    def _real(self, path: str) -> Path:
        """Where a private file of the session lies: below the folder, as the session has no root of its own."""
        parts = [part for part in path.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
        return self.folder.joinpath("files", *(part.replace(":", "_") for part in parts))

    def _rider_config(self) -> dict[str, Any]:
        return {
            "session": self.plan.session,
            "listen": self._listening_address("rider.sock"),
            "secret": self.secret,
            "announce": str(self._announcement),
            "socket": self._listening_address("verbs.sock"),
            "program": self._program(),
            "ports": self.facts.get("ports", {}),
            "paths": {path: str(self._real(path)) for path in sorted(self.plan.spec.files, key=len, reverse=True)},
            "autostart": self.plan.spec.autostart,
            "spool": specs.spool_config(str(self.folder / "spool")),
            "log": str(self.folder / "program.log"),
        }

    def _listening_address(self, name: str) -> str:
        """A Unix socket in the folder, which only this user can enter; loopback where its path would be too long."""
        path = str(self.folder / name)
        has_unix = hasattr(socket, "AF_UNIX") and sys.platform != "win32"
        return path if has_unix and len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH else "127.0.0.1:0"

    def _program(self) -> dict[str, Any]:
        """The program as this user. The rider tells it the real paths of its files, at this start and at any other."""
        program = specs.program_config(self.plan.spec.program)
        program["env"] |= self._mark
        return program | {"uid": _own("uid"), "gid": _own("gid")}

    @property
    def _mark(self) -> dict[str, str]:
        return {MARK: str(self.folder)}

    @property
    def _config(self) -> Path:
        return self.folder / "rider.json"

    @property
    def _announcement(self) -> Path:
        return self.folder / "rider.address"

    # ── its life ──

    def start(self) -> None:
        self._announcement.unlink(missing_ok=True)
        command = [own_python(), "-I", "-S", "-B", str(self.folder / "rider.pyz"), str(self._config)]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | self._mark
        with (self.folder / "rider.log").open("ab") as notes:
            self._child = subprocess.Popen(
                command,
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=notes,
                stderr=notes,
                start_new_session=True,
                creationflags=_DETACHED,
            )
        self.facts |= {"root_pid": self._child.pid, "root_started": psutil.Process(self._child.pid).create_time()}
        self.record()
        self._await_rider()

    def _await_rider(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._address():
            if not self.alive() or time.monotonic() > deadline:
                raise SandboxFailed(f"The rider of {self.plan.session} does not listen: {self.log(2000)}")
            time.sleep(0.005)

    def _address(self) -> str:
        with contextlib.suppress(OSError):
            return self._announcement.read_text().strip()
        return ""

    @property
    def secret(self) -> str | None:
        kept: str = self.facts["secret"]
        return kept

    @property
    def passes_descriptors(self) -> bool:
        return self._address().startswith("/")

    def connect(self) -> socket.socket:
        address = self._address()
        try:
            if address.startswith("/"):
                handle = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                handle.connect(address)
                return handle
            host, _, port = address.rpartition(":")
            return socket.create_connection((host, int(port)), timeout=5)
        except (OSError, ValueError) as failed:
            raise Unreachable(
                f"The rider of {self.plan.session} does not answer at {address or 'any address'}."
            ) from failed

    def kill(self) -> None:
        deadline = time.monotonic() + KILL_SECONDS
        while processes := self._processes():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.01)
            if time.monotonic() > deadline:
                raise SandboxFailed(f"Processes {[process.pid for process in processes]} do not die.")

    def remove(self) -> None:
        self.kill()
        remove_tree(self.folder)

    # ── what it is doing ──

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes()]

    def root_pid(self) -> int | None:
        root = self._root()
        return root.pid if root else None

    def _root(self) -> psutil.Process | None:
        if self._child:
            self._child.poll()  # reaps it
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            root = psutil.Process(self.facts["root_pid"])
            # The start tells the rider from a later process that got its number.
            if root.create_time() == self.facts["root_started"] and root.status() != psutil.STATUS_ZOMBIE:
                return root
        return None

    def _processes(self) -> list[psutil.Process]:
        """The rider's tree and whoever carries its mark."""
        found = {process for process in psutil.process_iter() if _is_marked(process, str(self.folder))}
        if root := self._root():
            found.add(root)
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update(root.children(recursive=True))
        return [process for process in found if _is_running(process)]

    def log(self, tail_bytes: int) -> str:
        texts = [end_of(self.folder / name, tail_bytes) for name in ("program.log", "rider.log")]
        return "\n".join(text for text in texts if text)

    # ── what movers would want ──

    def adopt(self, root_pid: int) -> None:
        raise _immovable()

    def freeze(self) -> None:
        """Until all stand still: a stop takes effect when a process is next scheduled, and a fork may outrun it."""
        deadline = time.monotonic() + FREEZE_SECONDS
        while running := [process for process in self._processes() if not _stands_still(process)]:
            if time.monotonic() > deadline:
                raise SandboxFailed(f"Process {running[0].pid} of session {self.plan.session} does not stop.")
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            time.sleep(0.001)

    def thaw(self) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def hold(self) -> None:
        raise _immovable()

    def release(self) -> None:
        raise _immovable()

    @property
    def layer(self) -> Layer:
        raise _immovable()

    def restless_files(self) -> Collection[str]:
        raise _immovable()


def _free_ports(count: int) -> list[int]:
    """Of the loopback interface."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


def _own(kind: str) -> int:
    """This process's "uid" or "gid"; 0 on an OS without."""
    ask: Callable[[], int] = getattr(os, f"get{kind}", int)
    return ask()


def _stands_still(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def _immovable() -> Incompatible:
    return Incompatible(
        "This session runs as a plain process, which can't move.",
        "Start it on nodes with runc and CRIU (`sojourn doctor`).",
    )


def _is_marked(process: psutil.Process, folder: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return bool(process.environ().get(MARK) == folder)
    return False


def _is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
