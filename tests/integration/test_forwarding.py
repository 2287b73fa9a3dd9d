"""Forwarding with real riders and a real tunnel; the controller is a toy."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from toy_controller import Session, ToyController

from sojourn.errors import Refused, WakeFailed
from sojourn.front.correspondent import forwarding
from sojourn.front.forwarding import Forwarding, Passage
from sojourn.front.words import ControllerAddress
from sojourn.model import Program, SessionSpec, SessionStatus

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the toy controller freezes by /proc"),
]

ECHO = """
import socket, sys, threading
def serve(line):
    with open(sys.argv[2], "a") as log:
        try:
            while said := line.recv(65536):
                line.sendall(said)
            print("ended", file=log)
        except OSError:
            print("reset", file=log)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],)).start()
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyController]:
    made = ToyController(tmp_path_factory.mktemp("toy"))
    yield made
    made.close()


class Echo:
    """A session in which something says back what it hears."""

    def __init__(self, toy: ToyController, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as trial:
            self.port: int = trial.getsockname()[1]
        self.toy, self.folder, self.log = toy, folder, folder / "echo.log"
        argv = (sys.executable, "-c", ECHO, str(self.port), str(self.log))
        self.session: Session = toy.begin(SessionSpec(program=Program(argv=argv, env=dict(os.environ))))
        self.said: list[str] = []
        self.ended: list[str] = []

    @contextmanager
    def forwarded(self, wakes: bool = True) -> Iterator[tuple[Forwarding, tuple[str, int]]]:
        """Running, and where it listens."""
        controller = ControllerAddress(url=self.toy.address.url, token="t")
        with forwarding(controller, self.session.view, self.folder, wakes=wakes, say=self.said.append) as running:
            host, _, port = running.open("127.0.0.1", Passage(0, self.port)).rpartition(":")
            thread = threading.Thread(target=lambda: self.ended.append(running.run()))
            thread.start()
            try:
                yield running, (host, int(port))
            finally:
                running.stop()
                thread.join()

    def says(self, words: str) -> Callable[[], bool]:
        return lambda: any(words in sentence for sentence in self.said)


@pytest.fixture
def echo(toy: ToyController, tmp_path: Path) -> Iterator[Echo]:
    toy.wakes = toy.wake
    made = Echo(toy, tmp_path)
    yield made
    made.session.stop()


def dial(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, 10)


def exchange(line: socket.socket, words: bytes) -> bytes:
    line.sendall(words)
    return line.recv(len(words))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_who_comes_while_it_is_on_its_way_waits_and_is_let_in(echo: Echo) -> None:
    with echo.forwarded() as (_, address), dial(address) as before:
        assert exchange(before, b"one") == b"one"
        echo.toy.freeze(echo.session)
        eventually(echo.says("moves to there"))
        with dial(address) as meanwhile:
            meanwhile.sendall(b"two")
            before.sendall(b"three")
            echo.toy.thaw(echo.session)
            assert meanwhile.recv(3) == b"two"
            assert before.recv(5) == b"three"
        assert echo.toy.woken == []


def test_a_session_set_back_resets_its_connections_and_they_can_be_made_anew(echo: Echo) -> None:
    with echo.forwarded() as (_, address), dial(address) as line:
        assert exchange(line, b"one") == b"one"
        echo.toy.freeze(echo.session)
        echo.toy.thaw(echo.session, epoch=1)
        with pytest.raises(ConnectionResetError):  # an end of file could be taken for the end of what it reads
            line.recv(1)
        eventually(echo.says("were reset"))
        with dial(address) as anew:
            assert exchange(anew, b"two") == b"two"


def test_who_wakes_it_is_let_in_even_when_it_wakes_in_an_older_state(echo: Echo) -> None:
    echo.toy.wakes = lambda session: echo.toy.wake(session, epoch=1)
    with echo.forwarded() as (_, address), dial(address) as line:
        assert exchange(line, b"one") == b"one"
        echo.toy.sleep(echo.session)
        eventually(echo.says("sleeps; the next connection wakes it"))
        with dial(address) as waking:
            assert exchange(waking, b"two") == b"two"
        with pytest.raises(ConnectionResetError):
            line.recv(1)


def test_when_it_can_not_be_woken_nobody_hangs(echo: Echo) -> None:
    def fail(session: Session) -> None:
        raise WakeFailed("no room", "Make room.")

    echo.toy.wakes = fail
    with echo.forwarded() as (_, address), dial(address) as line:
        assert exchange(line, b"one") == b"one"
        echo.toy.sleep(echo.session)
        eventually(echo.says("sleeps"))
        line.sendall(b"two")
        with pytest.raises(ConnectionResetError):
            line.recv(1)
        eventually(echo.says("could not be woken: no room\nMake room."))
        echo.toy.wakes = echo.toy.wake
        with dial(address) as again:
            assert exchange(again, b"three") == b"three"


def test_a_sleeping_one_that_is_not_to_be_woken_refuses(echo: Echo) -> None:
    with echo.forwarded(wakes=False) as (_, address), dial(address) as line:
        assert exchange(line, b"one") == b"one"
        echo.toy.sleep(echo.session)
        eventually(echo.says("connections are refused"))
        with pytest.raises(ConnectionResetError), dial(address) as refused:
            refused.recv(1)
        line.sendall(b"two")
        time.sleep(0.2)
        assert echo.session.view.status is SessionStatus.SUSPENDED
        echo.toy.wake(echo.session)
        assert line.recv(3) == b"two"  # it was open before, and only waited


def test_at_its_end_the_programs_inside_are_told(echo: Echo) -> None:
    with echo.forwarded() as (_, address):
        line = dial(address)
        assert exchange(line, b"one") == b"one"
    with line, pytest.raises(ConnectionResetError):
        line.recv(1)
    eventually(lambda: echo.log.exists() and bool(echo.log.read_text()))
    assert echo.ended == [""]


def test_what_a_killed_one_leaves_inside_goes_with_the_next(echo: Echo) -> None:
    address = echo.toy.address
    settings = {"SOJOURN_HOME": str(echo.folder), "SOJOURN_CONTROLLER": address.url, "SOJOURN_TOKEN": address.token}
    argv = [sys.executable, "-m", "sojourn.cli.main", "forward", echo.session.id, f":{echo.port}"]
    command = partial(subprocess.Popen, argv, env=os.environ | settings, stdout=subprocess.PIPE, text=True)
    with command() as first:
        host, _, port = first.stdout.readline().split()[0].removeprefix("http://").rpartition(":")
        with dial((host, int(port))) as line:
            assert exchange(line, b"one") == b"one"
            first.kill()
            assert line.recv(1) == b""
    assert not echo.log.exists() or not echo.log.read_text()
    with command() as second:
        eventually(lambda: echo.log.exists() and bool(echo.log.read_text()))
        second.send_signal(signal.SIGTERM)
        assert second.wait(10) == 0


def test_it_ends_with_its_session(echo: Echo) -> None:
    with echo.forwarded():
        echo.toy.change(echo.session, status=SessionStatus.STOPPED, reason="stopped by ada")
        eventually(lambda: bool(echo.ended))
    assert echo.ended == ["stopped by ada"]


def test_a_port_that_is_taken_is_refused(echo: Echo) -> None:
    with echo.forwarded() as (running, (host, port)), pytest.raises(Refused, match=f"{host}:{port}") as refused:
        running.open(host, Passage(port, 80))
    assert ":80" in refused.value.hint
