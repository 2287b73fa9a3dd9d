"""Two hosts and a link of known speed and length between them: this machine, which is the node `here` and has the
controller and the clients, and a network namespace, which is the node `there`.

`there` has a /dev/shm of its own, so memory travels by the link (`sojourn.compare.wire`) as between machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from sojourn.client import Client
from sojourn.compare.wire import OUR_ADDRESS, THEIR_ADDRESS, Shape, Wire
from sojourn.errors import Unreachable
from sojourn.front.client import front_folder
from sojourn.sandbox.mounts import remove_tree

HERE, THERE = "here", "there"
_MACHINE = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec sleep infinity"
_START_SECONDS, _END_SECONDS = 40.0, 20.0


class Hosts:
    """Both of them, with a controller, and an agent each. Made by `hosts()`."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._folder = folder
        self._programs: list[subprocess.Popen[bytes]] = []
        command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _MACHINE]
        self._machine = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._machine.stdout
        assert self._machine.stdout.readline() == b"ready\n"
        try:
            self.wire = Wire(shape, self._machine.pid)
        except BaseException:
            self._machine.kill()
            raise

    @property
    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self._folder / "data" / "controller" / "controller.json").read_text())
        return card

    def inside(self, *argv: str) -> list[str]:
        """The words that run a command on the other host."""
        return ["nsenter", "--target", str(self._machine.pid), "--mount", "--net", "--", *argv]

    def start(self) -> None:
        self._start("controller", [], "sojourn.controller", "--listen", "0.0.0.0:0")
        _until(lambda: (self._folder / "data" / "controller" / "controller.json").exists(), "the controller")
        os.environ |= {"SOJOURN_CONTROLLER": self.card["url"], "SOJOURN_TOKEN": self.card["token"]}
        port = self.card["url"].rpartition(":")[2]
        for name, before, address in ((HERE, [], OUR_ADDRESS), (THERE, self.inside(), THEIR_ADDRESS)):
            url = f"https://{OUR_ADDRESS}:{port}"
            self._start(name, before, "sojourn.agent", "--controller", url, "--name", name, "--listen", f"{address}:0")

    def _start(self, name: str, before: list[str], module: str, *arguments: str) -> None:
        environment = dict(os.environ)
        if name in (HERE, THERE):
            environment["SOJOURN_JOIN_TOKEN"] = self.card["join_token"]
        with (self._folder / f"{name}.log").open("ab") as log:
            argv = [*before, sys.executable, "-m", module, *arguments]
            self._programs.append(subprocess.Popen(argv, env=environment, cwd="/", stdout=log, stderr=log))

    def end(self) -> None:
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            _end(psutil.Process(int(json.loads((front_folder() / "front.json").read_text())["pid"])))
        for program in reversed(self._programs):
            _end(psutil.Process(program.pid))
            program.wait()
        self.wire.close()
        self._machine.kill()
        self._machine.wait()


def _until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise Unreachable(
                f"For {_START_SECONDS:g} s {what} did not answer.", "Try again when this machine has less to do."
            )
        time.sleep(0.01)


def _end(process: psutil.Process) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except psutil.TimeoutExpired:  # on a busy machine
        process.kill()


@contextmanager
def hosts(shape: Shape) -> Iterator[tuple[Hosts, Client]]:
    """Both hosts, and a client here. SOJOURN_HOME points to their folder meanwhile. Raises Refused."""
    folder = Path(tempfile.mkdtemp(prefix="sojourn-link-"))
    with patch.dict(os.environ, {"SOJOURN_HOME": str(folder)}):
        made = Hosts(folder, shape)
        try:
            made.start()
            with Client(made.card["url"], made.card["token"]) as client:
                _until(lambda: [node.status for node in client.nodes()] == ["online", "online"], "the nodes")
                yield made, client
        finally:
            made.end()
            remove_tree(folder)
