"""The parts of a Sojourn, to be stopped, killed and started again at will.

Each node is a machine of its own as far as memory goes: a mount namespace with a /dev/shm of its own, so the agents
can't hand memory over and it travels by their connections. Nothing in the product knows that this is a drill: a move
stands still because CRIU, which the agents find at SOJOURN_CRIU, waits at a `Gate`, or because a part is stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import psutil

from sojourn.client import Client
from sojourn.errors import Unreachable
from sojourn.front.client import ensure as ensure_front
from sojourn.front.client import front_folder
from sojourn.movers.connections import borrow
from sojourn.sandbox.cgroups import Hierarchies
from sojourn.sandbox.criu_path import find_criu
from sojourn.sandbox.mounts import remove_tree
from sojourn.settings import Controller, data_folder

WAIT_SECONDS = 40.0
_MACHINE = "mount -t tmpfs tmpfs /dev/shm && echo ready && exec sleep infinity"
_GATED_CRIU = """#!/bin/sh
case "$(pwd -P)" in *.out) gate={folder}/dump ;; *.in) gate={folder}/restore ;; *) gate={folder}/none ;; esac
if [ -e "$gate.shut" ]; then
    echo $$ >"$gate.new" && mv "$gate.new" "$gate.waiting"
    while [ -e "$gate.shut" ]; do sleep 0.02; done
fi
exec {criu} "$@"
"""

Found = TypeVar("Found")


def until(look: Callable[[], Found | None], what: str, seconds: float = WAIT_SECONDS) -> Found:
    """What `look` finds, once it is neither None nor False. Raises AssertionError, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)
    return found


class Gate:
    """Where CRIU waits before it begins: `dump` (the session is about to be frozen, or is) or `restore`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._shut, self._waiting = folder / f"{name}.shut", folder / f"{name}.waiting"

    def shut(self) -> None:
        self._shut.touch()

    def open(self) -> None:
        self._shut.unlink(missing_ok=True)
        self._waiting.unlink(missing_ok=True)

    def visitor(self) -> int | None:
        """The PID of who waits there."""
        return int(self._waiting.read_text()) if self._waiting.exists() else None


class Parts:
    """Made by `parts()`. A part is named `controller`, `front`, or like the node whose agent it is."""

    def __init__(self, folder: Path, machines: dict[str, subprocess.Popen[bytes]], limits: Mapping[str, float]) -> None:
        self.folder, self.machines = folder, machines
        self.gates = {name: Gate(folder / "gates", name) for name in ("dump", "restore")}
        self._limits = limits
        self._address = f"127.0.0.1:{_free_port()}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[int] = set()
        self._read: dict[str, int] = {}

    @property
    def controller(self) -> Controller:
        card = self._card()
        return Controller(card["url"], card["token"])

    # ── starting and ending ──

    def start(self, name: str) -> None:
        """Start a part that does not run, on what the one before it left; returns when it serves."""
        if name == "front":
            ensure_front(self.controller)
        elif name == "controller":
            limits = [word for limit in self._limits.items() for word in ("--limit", "{}={}".format(*limit))]
            self._spawn(name, "sojourn.controller", "--listen", self._address, *limits)
            until(self._answers, "the controller")
        else:
            argv = (
                "--controller",
                self.controller.url,
                "--name",
                name,
                "--eviction",
                f"file:{self._notice(name)}",
            )
            self._spawn(name, "sojourn.agent", *argv)
            until(partial(self._is_online, name), f"node {name}")

    def await_nodes(self) -> None:
        """Until all agents that run have found the controller (again)."""
        for node in self.machines.keys() & self._running.keys():
            until(partial(self._is_online, node), f"node {node}")

    def kill(self, name: str) -> None:
        """SIGKILL."""
        _kill(self.pid(name))
        if process := self._running.pop(name, None):
            process.wait()

    def crash(self, node: str) -> None:
        """A machine loses its power: all that ran there is gone at once, its mounts and its memory too."""
        namespace = str(Path(f"/proc/{self.machines[node].pid}/ns/mnt").readlink())
        there = [one.pid for one in self.processes() if _lies_in(one.pid, namespace)]
        for pid in [self.pid(node), *there, *processes_of(node)]:
            _kill(pid)
        self._running.pop(node).wait()
        self.machines[node].kill()
        self.machines[node].wait()
        self.machines[node] = _machine()

    def evict(self, node: str, seconds: float) -> None:
        """Give notice: the node's provider will take it away in so many seconds."""
        draft = self.folder / f"{node}.draft"
        draft.write_text(str(time.time() + seconds))
        draft.rename(self._notice(node))

    def pid(self, name: str) -> int:
        if name == "front":
            return int(json.loads((front_folder() / "front.json").read_text())["pid"])
        return self._running[name].pid

    def alive(self, name: str) -> bool:
        return name == "front" or name in self._running

    # ── stopping for a while ──

    def stop(self, pid: int) -> None:
        """SIGSTOP."""
        os.kill(pid, signal.SIGSTOP)
        self._stopped.add(pid)

    def resume(self, pid: int) -> None:
        """SIGCONT, once: a task that is traced by then takes a further one for an interruption, and CRIU gives up."""
        self._stopped.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def slowed(self, pid: int) -> Iterator[None]:
        """The process runs a tenth of the time, and then stands still."""
        over = threading.Event()

        def slow() -> None:
            while not over.wait(0.002):
                self.stop(pid)
                time.sleep(0.02)
                self.resume(pid)

        slowing = threading.Thread(target=slow)
        slowing.start()
        try:
            yield
        finally:
            over.set()
            slowing.join()
            self.stop(pid)

    def go_on(self) -> None:
        """Let go on all that was stopped and lives, and open the gates."""
        for pid in list(self._stopped):
            self.resume(pid)
        for gate in self.gates.values():
            gate.open()

    # ── the parts of parts ──

    def pagers(self, end: str) -> list[int]:
        """The processes of one end of the pager, `source` or `target`."""
        return [one.pid for one in self.processes() if f"sojourn.movers.pager.{end}" in command_of(one)]

    def processes(self) -> list[psutil.Process]:
        """All that the parts have started, and they themselves; not what runs in sandboxes."""
        return [one for one in psutil.process_iter() if one.pid != os.getpid() and self._is_ours(one)]

    def data_port(self, node: str) -> int:
        with Client(self.controller.url, self.controller.token) as client:
            address = next(view.address for view in client.nodes() if view.name == node)
        return int((address or "").rpartition(":")[2])

    def _is_ours(self, process: psutil.Process) -> bool:
        mark = f"SOJOURN_HOME={self.folder}\0".encode()
        try:
            return mark in Path(f"/proc/{process.pid}/environ").read_bytes() + b"\0"
        except OSError:
            return False

    def log(self) -> str:
        """What the parts have written since the last time that this was asked."""
        said = ""
        for path in sorted(self.folder.glob("*.log")):
            text = path.read_bytes()
            said += f"── {path.stem} ──\n{text[self._read.get(path.name, 0) :].decode(errors='replace')}"
            self._read[path.name] = len(text)
        return said

    # ── inside ──

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        argv = [sys.executable, "-m", module, *arguments]
        environment = dict(os.environ)
        if name in self.machines:
            environment["SOJOURN_JOIN_TOKEN"] = self._card()["join_token"]
            argv = ["nsenter", "--target", str(self.machines[name].pid), "--mount", "--", *argv]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(argv, env=environment, cwd="/", stdout=log, stderr=log)

    def _notice(self, node: str) -> Path:
        return self.folder / f"{node}.notice"

    def _card(self) -> dict[str, str]:
        card: dict[str, str] = json.loads((data_folder() / "controller" / "controller.json").read_text())
        return card

    def _answers(self) -> bool:
        with contextlib.suppress(FileNotFoundError, Unreachable), self._client() as client:
            return bool(client.version())
        return False

    def _is_online(self, name: str) -> bool:
        with self._client() as client:
            return any(node.name == name and node.status == "online" for node in client.nodes())

    def _client(self) -> Client:
        return Client(self.controller.url, self.controller.token)

    def end(self) -> None:
        """All of them, and whatever they have started. Sessions should have ended before."""
        self.go_on()
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(30)
        for one in self.processes():
            _kill(one.pid)
        for machine in self.machines.values():
            machine.kill()
            machine.wait()


SomeParts = TypeVar("SomeParts", bound=Parts)


@contextmanager
def parts(nodes: tuple[str, ...] = ("here", "there"), **limits: float) -> Iterator[Parts]:
    """A controller with these `lifecycle.Limits`, and nodes on machines of their own. SOJOURN_HOME points to it
    meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="sojourn-drill-"))
    with serving(Parts(folder, {name: _machine() for name in nodes}, limits)) as made:
        yield made


@contextmanager
def serving(made: SomeParts) -> Iterator[SomeParts]:
    """Start them all; at the end nothing of them is left."""
    settings = {"SOJOURN_HOME": str(made.folder), "SOJOURN_CRIU": str(_gated_criu(made.folder))}
    with patch.dict(os.environ, settings):
        try:
            made.start("controller")
            os.environ |= {"SOJOURN_CONTROLLER": made.controller.url, "SOJOURN_TOKEN": made.controller.token}
            for name in made.machines:
                made.start(name)
            yield made
        finally:
            made.end()
            remove_tree(made.folder)


def _gated_criu(folder: Path) -> Path:
    criu = folder / "gates" / "criu"
    criu.parent.mkdir()
    criu.write_text(_GATED_CRIU.format(folder=criu.parent, criu=find_criu()[0]))
    criu.chmod(0o755)
    return criu


def cut(pid: int, ports: set[int]) -> int:
    """Break a process's TCP connections from or to these ports, as a network that resets them does; how many."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
        handle, broken = os.pidfd_open(pid), 0
    except (ProcessLookupError, psutil.NoSuchProcess):  # it ended with a connection that was cut before
        return 0
    try:
        for connection in connections:
            ends = {connection.laddr.port, connection.raddr.port} if connection.raddr else set()
            if ends & ports and connection.status == psutil.CONN_ESTABLISHED:
                with contextlib.suppress(OSError), socket.socket(fileno=borrow(handle, connection.fd)) as found:
                    found.shutdown(socket.SHUT_RDWR)
                    broken += 1
    finally:
        os.close(handle)
    return broken


def _machine() -> subprocess.Popen[bytes]:
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MACHINE]
    machine = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert machine.stdout
    assert machine.stdout.readline() == b"ready\n"
    return machine


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing for one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def _lies_in(pid: int, namespace: str) -> bool:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/mnt").readlink()) == namespace
    return False


def processes_of(node: str, session: str = "") -> list[int]:
    """The processes of a node's sandboxes, or of those of one session."""
    mounted = Hierarchies.mounted()
    root = mounted.v1.get("freezer") or mounted.v2
    assert root
    lists = root.glob(f"sojourn/{node}/{session}*/box/cgroup.procs")
    return [int(pid) for file in lists for pid in file.read_text().split()]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port: int = trial.getsockname()[1]
    return port


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
