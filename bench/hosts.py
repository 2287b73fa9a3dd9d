"""Two hosts and a link of known speed and length between them: this machine, which is the node `here` and has the
controller and the clients, and a network namespace, which is the node `there`.

The kernel's token bucket (sch_tbf) shapes each direction. A link without delay is a veth pair; one with a delay is
carried by `bench.delay`. `there` has a /dev/shm of its own, so memory travels by the link as between machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from bench.links import limit, run
from sojourn.client import Client
from sojourn.errors import Refused
from sojourn.front.client import front_folder
from sojourn.sandbox.mounts import remove_tree
from sojourn.testing.parts import until

HERE, THERE = "here", "there"
NET = f"198.18.{os.getpid() % 250}"
"""For benchmarks of networks (RFC 2544), so nobody's."""
OUR_ADDRESS, THEIR_ADDRESS = f"{NET}.1", f"{NET}.2"
_MACHINE = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec sleep infinity"
_END_SECONDS = 20


@dataclass(frozen=True)
class Shape:
    """What a link is to be like."""

    gbit_s: float
    round_trip_ms: float = 0.0

    def __str__(self) -> str:
        return f"{self.gbit_s:g} Gbit/s, {self.round_trip_ms:g} ms"


class Wire:
    """The link, from this machine to a process with a network namespace of its own. `close` takes it down."""

    def __init__(self, shape: Shape, pid: int) -> None:
        """Raises Refused."""
        self.device, self._pid = f"sojourn{os.getpid()}", pid
        self._carrier: subprocess.Popen[bytes] | None = None
        if shape.round_trip_ms:
            self._carrier = self._carried(shape.round_trip_ms / 2000)
        else:
            run("ip", "link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._bring_up([], self.device, OUR_ADDRESS, shape)
        self._bring_up(["nsenter", "--target", str(pid), "--net", "--"], "eth0", THEIR_ADDRESS, shape)

    @property
    def crossed_bytes(self) -> int:
        """What has gone over it so far, in both directions, headers included."""
        counts = Path(f"/sys/class/net/{self.device}/statistics")
        return sum(int((counts / name).read_text()) for name in ("tx_bytes", "rx_bytes"))

    def close(self) -> None:
        if self._carrier:
            self._carrier.kill()
            self._carrier.wait()
        else:
            subprocess.run(["ip", "link", "delete", self.device], capture_output=True)

    def _carried(self, seconds: float) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "bench.delay", self.device, str(self._pid), "eth0", str(seconds)]
        carrier = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert carrier.stdout
        if carrier.stdout.readline() != b"ready\n":
            carrier.wait()
            raise Refused("No link with a delay can be made here.", "It needs /dev/net/tun, and root.")
        os.setpriority(os.PRIO_PROCESS, carrier.pid, -19)  # a wire waits for no core
        return carrier

    @staticmethod
    def _bring_up(where: list[str], device: str, address: str, shape: Shape) -> None:
        run(*where, "ip", "address", "add", f"{address}/30", "dev", device)
        run(*where, "ip", "link", "set", device, "up")
        limit(device, shape.gbit_s, *where)


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
        until(lambda: (self._folder / "data" / "controller" / "controller.json").exists(), "the controller")
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
                until(lambda: [node.status for node in client.nodes()] == ["online", "online"], "the nodes")
                yield made, client
        finally:
            made.end()
            remove_tree(folder)
