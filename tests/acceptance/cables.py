"""Machines with a cable each: networks of their own that meet at a switch, and cables that can be pulled.

A pulled cable says nothing to anybody: no connection is reset, and nothing is refused.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from tests.acceptance.conftest import why_no_live_move

from sojourn.settings import Controller
from sojourn.testing.parts import Parts, serving

NET = f"198.18.{os.getpid() % 250}"
"""For benchmarks of networks (RFC 2544), so nobody's."""
SELF = "desk"
"""This machine's own cable: the tests and what they start are here."""
_CONTROLLER_PORT = 8571
_ESTABLISHED = "01"
_MACHINE = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec sleep infinity"
_SWITCH = "ip link add switch type bridge && ip link set switch up && echo ready && exec sleep infinity"


def why_no_cables() -> str:
    """The reason why this machine can't hold such tests; empty when it can."""
    if reason := why_no_live_move():
        return reason
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "needs iproute2 and unshare (util-linux)"
    made = subprocess.run(["unshare", "--net", "ip", "link", "add", "trial", "type", "bridge"], capture_output=True)
    return "needs bridges (CONFIG_BRIDGE)" if made.returncode else ""


def _apart(script: str) -> subprocess.Popen[bytes]:
    command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script]
    made = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert made.stdout
    assert made.stdout.readline() == b"ready\n"
    return made


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


class Network:
    """A switch, the machines at it, and this one. All of it ends with `end`."""

    def __init__(self, *names: str) -> None:
        self.switch = _apart(_SWITCH)
        self.machines = {name: _apart(_MACHINE) for name in names}
        self._own_link = f"sojourn{os.getpid()}"
        for name in names:
            self._plug_in(name, "eth0", ["netns", str(self.machines[name].pid)], self.inside(name))
        self._plug_in(SELF, self._own_link, [], [])

    def address(self, name: str) -> str:
        return f"{NET}.{[SELF, *self.machines].index(name) + 1}"

    def inside(self, name: str, *argv: str) -> list[str]:
        """The command line that runs `argv` on a machine."""
        return ["nsenter", "--target", str(self.machines[name].pid), "--mount", "--net", "--", *argv]

    def pull(self, *names: str) -> None:
        self._set(names, "down")

    def put_back(self, *names: str) -> None:
        """These cables, or all of them."""
        self._set(names or (SELF, *self.machines), "up")

    def processes(self, name: str) -> list[psutil.Process]:
        """What runs on a machine, but for what keeps it there."""
        keeper = self.machines[name].pid
        here = _network_of(keeper)
        return [one for one in psutil.process_iter() if one.pid != keeper and _network_of(one.pid) == here]

    def connected(self, name: str, other: str) -> int:
        """How many connections a machine believes to have with another one."""
        there = struct.unpack("=I", socket.inet_aton(self.address(other)))[0]
        table = Path(f"/proc/{self.machines[name].pid}/net/tcp").read_text().splitlines()[1:]
        rows = [row.split() for row in table]
        return sum(row[2].startswith(f"{there:08X}:") and row[3] == _ESTABLISHED for row in rows)

    def end(self) -> None:
        for process in (*self.machines.values(), self.switch):
            process.kill()
            process.wait()

    def _plug_in(self, name: str, link: str, where: list[str], inside: list[str]) -> None:
        switch = str(self.switch.pid)
        run("ip", "link", "add", name, "netns", switch, "type", "veth", "peer", "name", link, *where)
        run(*inside, "ip", "address", "add", f"{self.address(name)}/24", "dev", link)
        run(*inside, "ip", "link", "set", link, "up")
        run(*self._at_switch("ip", "link", "set", name, "master", "switch", "up"))

    def _set(self, names: tuple[str, ...], state: str) -> None:
        for name in names:
            run(*self._at_switch("ip", "link", "set", name, state))

    def _at_switch(self, *argv: str) -> list[str]:
        return ["nsenter", "--target", str(self.switch.pid), "--net", "--", *argv]


def _network_of(pid: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    return ""


class CabledParts(Parts):
    """Parts on machines of a network."""

    def __init__(self, folder: Path, network: Network, places: Mapping[str, str], limits: Mapping[str, float]) -> None:
        """`places`: part -> the machine where it runs."""
        nodes = {part: network.machines[place] for part, place in places.items() if part != "controller"}
        super().__init__(folder, nodes, limits)
        self.network, self._places = network, places
        self._address = f"{network.address(places['controller'])}:{_CONTROLLER_PORT}"

    @property
    def controller(self) -> Controller:
        """As it is known on other machines; its card is for its own."""
        return Controller(f"https://{self._address}", super().controller.token)

    def end(self) -> None:
        self.network.put_back()
        super().end()

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        place, environment = self._places[name], dict(os.environ)
        if name in self.machines:
            environment["SOJOURN_JOIN_TOKEN"] = self._card()["join_token"]
            arguments = (*arguments, "--listen", f"{self.network.address(place)}:0")
        argv = self.network.inside(place, sys.executable, "-m", module, *arguments)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(argv, env=environment, cwd="/", stdout=log, stderr=log)


@contextmanager
def cabled(places: Mapping[str, str], *more: str, **limits: float) -> Iterator[CabledParts]:
    """A controller and nodes on machines (`places`: part -> machine), and `more` machines. SOJOURN_HOME points to it
    meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="sojourn-cables-"))
    network = Network(*dict.fromkeys([*places.values(), *more]))
    try:
        with serving(CabledParts(folder, network, places, limits)) as made:
            yield made
    finally:
        network.end()
