"""A controller goes to another host, with its database or to it, while a kernel computes and its client listens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.acceptance.conftest import why_no_live_move

from bench.listener import Listener
from sojourn.cli.account import write_settings
from sojourn.client import Client
from sojourn.front.client import front_folder
from sojourn.sandbox.mounts import remove_tree
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import until
from sojourn.testing.postgresql import postgresql, why_no_postgresql
from sojourn.testing.remains import copies

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

COUNT = """
import time
def count_aloud():
    for number in range(1, 100_000):
        print(number, flush=True)
        time.sleep(0.01)
"""


class Host:
    """A machine for a controller: a data folder of its own, and an address."""

    def __init__(self, folder: Path, database: str) -> None:
        """`database`: an address; empty: a file in the host's own folder."""
        with socket.create_server(("127.0.0.1", 0)) as trial:
            self.address = f"127.0.0.1:{trial.getsockname()[1]}"
        self.url, self.log = f"http://{self.address}", folder.with_suffix(".log")
        self.data = folder / "data" / "controller"
        self._environment = {**os.environ, "SOJOURN_HOME": str(folder), "SOJOURN_DATABASE": database}
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "sojourn.controller", "--listen", self.address]
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(argv, env=self._environment, stdout=log, stderr=log)
        until(self._listens, "the controller")
        with Client(self.url, "") as client:
            client.version()

    @property
    def runs(self) -> bool:
        return self._running is not None

    def stop(self) -> None:
        if self._running:
            self._running.terminate()
            assert self._running.wait(10) == 0
            self._running = None

    def client(self, token: str = "") -> Client:
        """By default with the card that lies on the host."""
        return Client(self.url, token or json.loads((self.data / "controller.json").read_text())["token"])

    def _listens(self) -> bool:
        host, _, port = self.address.partition(":")
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
            return True
        return False


class World:
    """Two hosts for one controller, and two nodes that know both of its addresses."""

    def __init__(self, folder: Path, database: str) -> None:
        self.first, self.second = (Host(folder / name, database) for name in ("first", "second"))
        self.now = self.first
        """Where the controller is, or is to be."""
        self._folder, self._carried = folder, not database
        self._agents: list[subprocess.Popen[bytes]] = []
        self.token = ""
        """Ada's, who has logged in at the first."""

    def begin(self) -> None:
        self.first.start()
        with self.first.client() as client:
            join = client.create_token("join", "nodes")["token"]
            self.token = client.create_token("api", "ada")["token"]
        write_settings(self.first.url, self.token)
        for name in ("here", "there"):
            self._start_agent(name, join)
        self.await_nodes()

    def move_controller(self) -> None:
        """As docs/machines.md says it."""
        self.first.stop()
        if self._carried:
            self.second.data.mkdir(parents=True)
            shutil.copy(self.first.data / "sojourn.db", self.second.data)
        self.now = self.second
        self.now.start()
        write_settings(self.now.url, self.token)

    def await_nodes(self) -> None:
        with self.now.client(self.token) as client:
            until(lambda: [node.status for node in client.nodes()] == ["online"] * 2, "the nodes")

    def end(self) -> None:
        """The sessions first: they outlive their agents."""
        if not self.now.runs:
            self.now.start()
        with self.now.client() as client:
            for session in client.sessions():
                client.stop(session.id)
            until(lambda: not client.sessions(), "the sessions to end")
        for agent in self._agents:
            agent.terminate()
            agent.wait(20)
        self.now.stop()

    def _start_agent(self, name: str, join: str) -> None:
        argv = [sys.executable, "-m", "sojourn.agent", "--name", name]
        argv += ["--controller", self.first.url, "--controller", self.second.url]
        with (self._folder / f"{name}.log").open("ab") as log:
            environment = {**os.environ, "SOJOURN_JOIN_TOKEN": join}
            self._agents.append(subprocess.Popen(argv, env=environment, stdout=log, stderr=log))


@contextmanager
def world(database: str) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="sojourn-elsewhere-"))
    with patch.dict(os.environ, {"SOJOURN_HOME": str(folder / "ada")}):
        for name in ("SOJOURN_CONTROLLER", "SOJOURN_TOKEN", "SOJOURN_DATABASE"):
            os.environ.pop(name, None)
        (folder / "ada").mkdir()
        made = World(folder, database)
        try:
            made.begin()
            yield made
        finally:
            made.end()
            for log in sorted(folder.glob("*.log")):
                print(f"── {log.stem} ──\n{log.read_text()[-6000:]}")  # shown when the test has failed
            _end_front()
            remove_tree(folder)


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_sessions_go_on_while_their_controller_moves_and_move_when_it_has(database: str) -> None:
    if reason := why_no_live_move() or (database == "postgresql" and why_no_postgresql()):
        pytest.skip(reason)
    with ExitStack() as stack:
        url = stack.enter_context(postgresql()).new_database() if database == "postgresql" else ""
        hosts = stack.enter_context(world(url))
        manager, kernel = start_kernel(needs="here")
        stack.callback(end_kernel, manager, kernel)
        execute(kernel, COUNT)
        counting = Listener(kernel, kernel.execute("count_aloud()"))
        _counts_on(counting)

        hosts.first.stop()
        _counts_on(counting)
        hosts.move_controller()
        hosts.await_nodes()
        _counts_on(counting)

        with hosts.second.client(hosts.token) as client:
            moved = client.move(session_of(manager), "there", wait="filled")
            assert (moved.session.node, moved.session.owner, moved.session.epoch) == ("there", "ada", 1)
        _counts_on(counting)
        manager.interrupt_kernel()
        assert kernel.get_shell_msg(timeout=20)["content"]["ename"] == "KeyboardInterrupt"
        assert counting.ended.wait(20)
        assert counting.faults() == {"lost": 0, "duplicated": 0, "reordered": 0}
        assert len(copies(session_of(manager))) == 1


def _counts_on(counting: Listener) -> None:
    before = len(counting.arrivals)
    until(lambda: len(counting.arrivals) > before + 50, "more lines")


def _end_front() -> None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(json.loads((front_folder() / "front.json").read_text())["pid"], signal.SIGTERM)
