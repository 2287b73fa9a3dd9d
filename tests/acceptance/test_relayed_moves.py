"""Hosts are network namespaces joined by veth: nodes that nobody can dial, and a kernel that moves between them. All
that they say to each other is sealed: somebody reads along on the links.

The controller, the front and the client are on this machine's own network, to which each host has a link of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from tests.acceptance.conftest import why_no_live_move

from sojourn.client import Client
from sojourn.front.client import front_folder
from sojourn.sandbox.mounts import remove_tree
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

NET = f"198.18.{os.getpid() % 250}"
"""For benchmarks of networks (RFC 2544), so nobody's."""
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
FETCHING = b'{"sojourn":1,"call":"'
SECRET = os.urandom(16).hex()
MACHINE = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec sleep infinity"


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@dataclass
class Host:
    """A machine with its own network, and its own /dev/shm, so that memory must travel by the network. It ends with
    its one process, and so do its links."""

    name: str
    number: int
    machine: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", MACHINE]
        self.machine = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.machine.stdout
        assert self.machine.stdout.readline() == b"ready\n"

    @property
    def address(self) -> str:
        return f"{NET}.{4 * self.number + 2}"

    @property
    def gateway(self) -> str:
        """This machine, as the host sees it."""
        return f"{NET}.{4 * self.number + 1}"

    @property
    def link(self) -> str:
        return f"sojourn{os.getpid() % 10000}.{self.number}"

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", "--target", str(self.machine.pid), "--mount", "--net", "--", *argv]

    def connect(self) -> None:
        """To this machine, and to nothing else: there is no route to other hosts."""
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.machine.pid))
        run("ip", "address", "add", f"{self.gateway}/30", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        run(*self.inside("ip", "address", "add", f"{self.address}/30", "dev", "eth0"))
        run(*self.inside("ip", "link", "set", "eth0", "up"))

    def introduce(self, other: Host) -> None:
        """A cable between the two, by which this one reaches the other's address."""
        ours, theirs = f"{NET}.201", f"{NET}.202"
        names = ("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable")
        run(*self.inside(*names, "netns", str(other.machine.pid)))
        for host, address in ((self, ours), (other, theirs)):
            run(*host.inside("ip", "address", "add", f"{address}/30", "dev", "cable"))
            run(*host.inside("ip", "link", "set", "cable", "up"))
        run(*self.inside("ip", "route", "add", other.address, "via", theirs))

    def end(self) -> None:
        self.machine.kill()
        self.machine.wait()
        with suppress(subprocess.CalledProcessError):  # it went with its other end
            run("ip", "link", "delete", self.link)


class Eavesdropper:
    """Reads along on links, as anybody on the way can, and looks for words."""

    def __init__(self, links: list[str], *words: bytes) -> None:
        self.words, self.read = words, set[bytes]()
        self.bytes = 0
        self._over = False
        self._ears = [self._ear(link) for link in links]

    def _ear(self, link: str) -> threading.Thread:
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        listening.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        listening.bind((link, 0))
        listening.settimeout(0.2)
        ear = threading.Thread(target=self._listen, args=(listening,))
        ear.start()
        return ear

    def _listen(self, listening: socket.socket) -> None:
        with listening:
            while not self._over:
                with suppress(TimeoutError):
                    frame = listening.recv(1 << 18)
                    self.bytes += len(frame)
                    self.read |= {word for word in self.words if word in frame}

    def end(self) -> None:
        self._over = True
        for ear in self._ears:
            ear.join()


class Lab:
    """A controller here, and agents on hosts."""

    def __init__(self, folder: Path, hosts: tuple[Host, ...]) -> None:
        self.folder, self.hosts = folder, hosts
        self.programs: list[subprocess.Popen[bytes]] = []
        """The controller first."""
        self._port = 0

    def start_controller(self) -> None:
        self._start("controller", [], "sojourn.controller", "--listen", f"0.0.0.0:{self._port}")
        until(lambda: self._card_file.exists() and self.card["pid"] == self.programs[-1].pid, "the controller's card")
        self._port = int(self.card["url"].rpartition(":")[2])

    def restart_controller(self) -> None:
        controller = self.programs.pop(0)
        controller.terminate()
        controller.wait(20)
        self.start_controller()
        self.programs.insert(0, self.programs.pop())

    def start_agent(self, host: Host, *arguments: str) -> None:
        url = f"https://{host.gateway}:{self._port}"
        self._start(host.name, host.inside(), "sojourn.agent", "--controller", url, "--name", host.name, *arguments)

    def _start(self, name: str, before: list[str], module: str, *arguments: str) -> None:
        environment = dict(os.environ)
        if before:
            environment["SOJOURN_JOIN_TOKEN"] = self.card["join_token"]
        with (self.folder / f"{name}.log").open("ab") as log:
            argv = [*before, sys.executable, "-m", module, *arguments]
            self.programs.append(subprocess.Popen(argv, env=environment, cwd="/", stdout=log, stderr=log))

    @property
    def _card_file(self) -> Path:
        return self.folder / "data" / "controller" / "controller.json"

    @property
    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = json.loads(self._card_file.read_text())
        return card

    def relayed_to(self, node: str) -> int:
        """How many connections have been relayed to that node so far, by what the controller says of them."""
        return (self.folder / "controller.log").read_text().count(f"a connection to node {node} is relayed")

    def end(self) -> None:
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            ended = psutil.Process(front())
            ended.terminate()
            ended.wait(20)
        for program in reversed(self.programs):
            program.terminate()
            program.wait(20)
        for host in self.hosts:
            host.end()
        remove_tree(self.folder)


def online(client: Client) -> bool:
    return [node.status for node in client.nodes()] == ["online", "online"]


def front() -> int:
    return int(json.loads((front_folder() / "front.json").read_text())["pid"])


def front_reaches(address: str) -> bool:
    """Whether a connection of the front's leads there."""
    connections = psutil.Process(front()).net_connections("tcp")
    return any(one.raddr and one.raddr.ip == address and one.status == "ESTABLISHED" for one in connections)


@contextmanager
def laboratory() -> Iterator[tuple[Lab, Client, Host, Host]]:
    folder = Path(tempfile.mkdtemp(prefix="sojourn-relay-"))
    shy, open_one = hosts = Host("shy", 0), Host("open", 1)
    lab = Lab(folder, hosts)
    with patch.dict(os.environ, {"SOJOURN_HOME": str(folder)}):
        try:
            for host in hosts:
                host.connect()
            lab.start_controller()
            os.environ |= {"SOJOURN_CONTROLLER": lab.card["url"], "SOJOURN_TOKEN": lab.card["token"]}
            lab.start_agent(shy)  # its data port is on its own loopback
            lab.start_agent(open_one, "--listen", "0.0.0.0:0")
            with Client(lab.card["url"], lab.card["token"]) as client:
                until(lambda: online(client), "the nodes")
                yield lab, client, *hosts
        finally:
            lab.end()


@pytest.fixture
def lab() -> Iterator[tuple[Lab, Client, Host, Host]]:
    if reason := why_no_live_move():
        pytest.skip(reason)
    if not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs iproute2 and unshare (util-linux)")
    with laboratory() as found:
        yield found


@pytest.fixture
def eavesdropper(lab: tuple[Lab, Client, Host, Host]) -> Iterator[Eavesdropper]:
    _, _, *hosts = lab
    words = (SECRET.encode(), b'"ticket"', b"Bearer ", FETCHING)
    ears = Eavesdropper([host.link for host in hosts], *words)
    yield ears
    ears.end()


def test_a_kernel_moves_between_hosts_that_can_not_reach_each_other(
    lab: tuple[Lab, Client, Host, Host], eavesdropper: Eavesdropper
) -> None:
    laboratory, client, shy, neighbour = lab
    assert [node.traffic for node in client.nodes()] == ["sealed", "sealed"]
    assert [node.address and node.address.rpartition(":")[0] for node in client.nodes()] == [neighbour.address, None]
    manager, kernel = start_kernel(needs="shy")
    try:
        session = session_of(manager)
        execute(kernel, f"x = list(range(2_000_000)); secret = '{SECRET}' * 10_000")
        assert laboratory.relayed_to("shy") == 1  # the tunnel

        laboratory.restart_controller()  # it takes the tunnel's connection with it, and the tunnel goes on
        assert execute(kernel, "len(x)") == "2000000"
        assert laboratory.relayed_to("shy") == 2
        until(lambda: client.session(session).status == "running" and online(client), "the nodes")

        moved = client.move(session, "open", wait="filled").move
        assert moved
        assert moved.report.relayed
        assert laboratory.relayed_to("open") > 1  # the move's: its link, and those for pages
        assert execute(kernel, "sum(x)") == "1999999000000"
        assert front_reaches(neighbour.address)

        moved = client.move(session, "shy", wait="filled").move
        assert moved
        assert moved.report.relayed
        assert execute(kernel, "sum(x)") == "1999999000000"
        assert not front_reaches(neighbour.address)

        shy.introduce(neighbour)
        before = laboratory.relayed_to("open")
        moved = client.move(session, "open", wait="filled").move
        assert moved
        assert not moved.report.relayed
        assert execute(kernel, "sum(x)") == "1999999000000"
        assert laboratory.relayed_to("open") == before
        assert execute(kernel, "secret[:32]") == repr(SECRET)
        assert eavesdropper.read == {FETCHING}  # what an agent says to the relay; all behind it is sealed
        assert eavesdropper.bytes > 50_000_000  # the moves' memory went by these links
    finally:
        end_kernel(manager, kernel)
        until(lambda: not client.sessions(), "the session's end")
