"""A real rider, a real anchor, and between them an agent that cuts connections."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn.front.anchor import Anchor
from sojourn.model.sessions import Place
from sojourn.rider.build import build_rider
from sojourn.transport.loop import Loop

pytestmark = pytest.mark.integration

ECHO = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
def serve(line):
    while data := line.recv(1 << 16):
        line.sendall(data)
    line.close()
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""

SOURCE = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    line, _ = listener.accept()
    for byte in range(int(sys.argv[2])):
        line.sendall(bytes([byte % 256]) * (1 << 20))
    line.close()
"""


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def read_line(connection: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionResetError("closed before its line ended")
        line += byte
    message: dict[str, Any] = json.loads(line)
    return message


class RiderProcess:
    """The zipapp in a process of its own, as a `process` sandbox runs it."""

    secret = "only the agent knows"

    def __init__(self, folder: Path, listen: str, argv: list[str], **spool: int) -> None:
        self.folder = folder
        announce = folder / "address"
        self.verbs = folder / "verbs"
        config = {
            "session": "s1",
            "listen": listen,
            "secret": self.secret,
            "announce": str(announce),
            "socket": str(self.verbs),
            "program": {"argv": argv, "env": {"PATH": os.environ["PATH"]}, "cwd": str(folder)},
            "autostart": True,
            "spool": {"folder": str(folder / "spool"), "memory_bytes": 1 << 20, "disk_bytes": 1 << 24, **spool},
            "log": str(folder / "log"),
        }
        (folder / "config.json").write_text(json.dumps(config))
        rider = build_rider(folder / "build")
        self.process = subprocess.Popen([sys.executable, "-I", "-S", str(rider), str(folder / "config.json")])
        wait_for(announce.exists)
        self.address = announce.read_text()

    def attach(self, *descriptors: int, **first: Any) -> socket.socket:
        """A connection that has said its first line."""
        if self.address.startswith("/"):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.address)
        else:
            host, port = self.address.split(":")
            connection = socket.create_connection((host, int(port)))
        line = json.dumps({"secret": self.secret, **first}).encode() + b"\n"
        if descriptors:
            socket.send_fds(connection, [line], list(descriptors))
        else:
            connection.sendall(line)
        return connection

    def control(self, incarnation: int = 1, epoch: int = 0) -> socket.socket:
        connection = self.attach(attach="control", incarnation=incarnation, epoch=epoch)
        connection.settimeout(20)
        assert read_line(connection)["ok"]
        return connection

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def descriptors(self) -> list[str]:
        folder = Path(f"/proc/{self.process.pid}/fd")
        return sorted(str(one.readlink()) for one in folder.iterdir())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class FakeAgent:
    """Brings clients to the rider: by passing their socket on, or by splicing."""

    def __init__(
        self,
        rider: RiderProcess,
        passes: bool,
        incarnation: int = 1,
        epoch: int = 0,
        anchor: str = "a1",
        session: str = "s1",
    ) -> None:
        self.rider, self.passes, self.incarnation, self.epoch = rider, passes, incarnation, epoch
        self.anchor, self.session = anchor, session
        self.gate = threading.Event()
        self.gate.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._carried: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def place(self) -> Place:
        port = self._listener.getsockname()[1]
        return Place(
            node="n1",
            address=f"127.0.0.1:{port}",
            ticket="let me in",
            incarnation=self.incarnation,
            epoch=self.epoch,
        )

    def cut(self) -> None:
        with self._lock:
            carried, self._carried = self._carried, []
        for one in carried:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._receive, args=(client,), daemon=True).start()

    def _receive(self, client: socket.socket) -> None:
        try:
            self._introduce(client)
        except OSError:
            client.close()  # cut in the middle of it

    def _introduce(self, client: socket.socket) -> None:
        assert read_line(client)["ticket"] == "let me in"
        client.sendall(b'{"ok": true}\n')
        self.gate.wait()
        first = {
            "attach": "tunnel",
            "session": self.session,
            "anchor": self.anchor,
            "incarnation": self.incarnation,
            "epoch": self.epoch,
        }
        with self._lock:
            self._carried.append(client)
        if self.passes:
            with self.rider.attach(client.fileno(), **first) as rider:
                read_line(rider)
            return
        rider = self.rider.attach(**first)
        read_line(rider)
        with self._lock:
            self._carried.append(rider)
        for source, target in ((client, rider), (rider, client)):
            threading.Thread(target=self._pour, args=(source, target), daemon=True).start()

    def _pour(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 18):
                target.sendall(data)
        except OSError:
            pass
        self.cut()


class AnchorThread:
    def __init__(self, anchor: str = "a1", session: str = "s1") -> None:
        self.loop = Loop()
        self.states: list[tuple[str, str]] = []
        self.said: list[dict[str, Any]] = []
        self.anchor = Anchor(
            self.loop, session, anchor, on_control=self.said.append, on_state=lambda *what: self.states.append(what)
        )
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        results: list[Any] = []
        done = threading.Event()

        def run() -> None:
            results.append(function(*arguments))
            done.set()

        self.loop.soon(run)
        assert done.wait(20)
        return results[0]

    def connect(self, endpoint: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(endpoint.removeprefix("ipc://"))
        connection.settimeout(30)
        return connection

    def stop(self) -> None:
        self.call(self.anchor.close)
        self.loop.stop()
        self.thread.join(20)
        self.loop.close()

    def heard(self, event: str) -> dict[str, Any] | None:
        return next((message for message in self.said if message["event"] == event), None)


@pytest.fixture
def near() -> Iterator[AnchorThread]:
    near = AnchorThread()
    yield near
    near.stop()


@pytest.fixture(params=["unix", "tcp"])
def echo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RiderProcess, int]]:
    port = free_port()
    listen = str(tmp_path / "rider") if request.param == "unix" else "127.0.0.1:0"
    rider = RiderProcess(tmp_path, listen, [sys.executable, "-c", ECHO, str(port)])
    yield rider, port
    rider.stop()


def exchange(connection: socket.socket, total: int, rng: random.Random) -> bytes:
    """Send `total` bytes to an echo in pieces of odd sizes; what came back."""
    sent = rng.randbytes(total)

    def send() -> None:
        at = 0
        while at < total:
            step = rng.choice((1, 100, 5000, 200_000))
            connection.sendall(sent[at : at + step])
            at += step

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    back = bytearray()
    while len(back) < total:
        data = connection.recv(1 << 18)
        assert data, "the stream ended early"
        back += data
    thread.join(20)
    assert back == sent
    return bytes(back)


def test_every_byte_once_and_in_order_over_two_hundred_cuts(echo: tuple[RiderProcess, int], near: AnchorThread) -> None:
    rider, port = echo
    agent = FakeAgent(rider, passes=rider.address.startswith("/"))
    near.call(near.anchor.place, agent.place())
    endpoint = near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}")
    rng = random.Random(7)
    busy = True

    def talk(seed: int) -> None:
        with near.connect(endpoint) as connection:
            rng = random.Random(seed)
            while busy:
                exchange(connection, 300_000, rng)
            done.append(seed)

    done: list[int] = []
    talkers = [threading.Thread(target=talk, args=(seed,)) for seed in range(3)]
    for talker in talkers:
        talker.start()
    for _ in range(200):
        time.sleep(rng.uniform(0.001, 0.02))
        agent.cut()
    busy = False
    for talker in talkers:
        talker.join(60)
    agent.close()
    assert len(done) == 3
    assert sum(state == "connected" for state, _ in near.states) > 20
    assert not [state for state in near.states if state[0] == "reset"]


def test_the_rider_is_small_and_carries_much(tmp_path: Path, near: AnchorThread) -> None:
    port, megabytes = free_port(), 100
    rider = RiderProcess(tmp_path, str(tmp_path / "rider"), [sys.executable, "-c", SOURCE, str(port), str(megabytes)])
    agent = FakeAgent(rider, passes=True)
    try:
        near.call(near.anchor.place, agent.place())
        connection = near.connect(near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}"))
        began, received = time.monotonic(), 0
        while data := connection.recv(1 << 20):
            assert data[0] == (received >> 20) % 256
            received += len(data)
        print(f"{received / 1e6 / (time.monotonic() - began):.0f} MB/s, rider {rider.resident_bytes() / 1e6:.1f} MB")
        assert received == megabytes << 20
        assert rider.resident_bytes() <= 16 << 20
    finally:
        agent.close()
        rider.stop()


def test_a_move_goes_on_at_the_expected_place(echo: tuple[RiderProcess, int], near: AnchorThread) -> None:
    rider, port = echo
    passes = rider.address.startswith("/")
    here, there = FakeAgent(rider, passes), FakeAgent(rider, passes, incarnation=2)
    there.gate.clear()
    near.call(near.anchor.place, here.place())
    connection = near.connect(near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}"))
    exchange(connection, 1000, random.Random(1))
    near.call(near.anchor.expect, there.place())
    here.gate.clear()
    with rider.control() as control:
        control.sendall(b'{"do": "hang_up"}\n')
        while control.recv(4096):
            pass
    here.cut()
    wait_for(lambda: near.states[-1][0] == "away")
    connection.sendall(b"while it is frozen")
    there.gate.set()
    assert connection.recv(100) == b"while it is frozen"
    near.call(near.anchor.place, there.place())
    near.call(near.anchor.expect, None)
    exchange(connection, 1000, random.Random(2))
    assert [state for state, _ in near.states] == ["connected", "away", "connected"]
    with rider.attach(attach="tunnel", anchor="a1", incarnation=1, epoch=0) as late:
        assert "incarnation 2" in read_line(late)["error"]
    here.close()
    there.close()


def test_a_session_set_back_resets_the_streams(echo: tuple[RiderProcess, int], near: AnchorThread) -> None:
    rider, port = echo
    agent = FakeAgent(rider, passes=rider.address.startswith("/"))
    near.call(near.anchor.place, agent.place())
    endpoint = near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}")
    connection = near.connect(endpoint)
    exchange(connection, 1000, random.Random(1))
    agent.cut()
    agent.incarnation, agent.epoch = 2, 1
    near.call(near.anchor.place, agent.place())
    assert connection.recv(100) == b""
    assert wait_for(lambda: [state for state, _ in near.states if state == "reset"])
    exchange(near.connect(endpoint), 1000, random.Random(2))
    agent.close()


def test_a_forked_rider_learns_who_it_is_and_forgets_whom_it_knew(echo: tuple[RiderProcess, int]) -> None:
    rider, port = echo
    origin, fork = AnchorThread(), AnchorThread("a2", session="s2")
    known = FakeAgent(rider, rider.address.startswith("/"))
    agent = FakeAgent(rider, rider.address.startswith("/"), incarnation=2, epoch=1, anchor="a2", session="s2")
    try:
        origin.call(origin.anchor.place, known.place())
        connection = origin.connect(origin.call(origin.anchor.listen, f"tcp:127.0.0.1:{port}"))
        exchange(connection, 1000, random.Random(1))
        with rider.attach(attach="control", session="s2", incarnation=1, epoch=0) as early:
            assert "s1 lives here" in read_line(early)["error"]
        fork.call(fork.anchor.place, agent.place())
        exchange(fork.connect(fork.call(fork.anchor.listen, f"tcp:127.0.0.1:{port}")), 1000, random.Random(2))
        with rider.attach(attach="control", session="s2", incarnation=2, epoch=1) as control:
            assert read_line(control)["ok"]
            assert read_line(control)["anchors"] == ["a2"]
        connection.close()
    finally:
        for end in (known, agent):
            end.close()
        for front in (origin, fork):
            front.stop()


def test_hanging_up_leaves_nothing_that_leads_outside(tmp_path: Path, near: AnchorThread) -> None:
    port = free_port()
    rider = RiderProcess(tmp_path, str(tmp_path / "rider"), [sys.executable, "-c", ECHO, str(port)])
    agent = FakeAgent(rider, passes=True)
    wait_for((tmp_path / "log").exists)  # the program runs, and the log is open
    before = rider.descriptors()
    near.call(near.anchor.place, agent.place())
    connection = near.connect(near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}"))
    exchange(connection, 1000, random.Random(1))
    first, second = rider.control(), rider.control()
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(rider.address)
    wait_for(lambda: len(rider.descriptors()) == len(before) + 5)
    agent.gate.clear()
    first.sendall(b'{"do": "hang_up"}\n')
    for control in (second, first):
        while control.recv(4096):
            pass
    stream = len(before) + 1  # the connection to the echo, which stays inside
    assert len(rider.descriptors()) == stream
    for end in (first, second, silent, connection):
        end.close()
    agent.close()
    rider.stop()


def test_a_front_starts_and_interrupts_and_restarts_the_program(tmp_path: Path, near: AnchorThread) -> None:
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(1000)"]
    rider = RiderProcess(tmp_path, str(tmp_path / "rider"), sleeper)
    agent = FakeAgent(rider, passes=True)
    near.call(near.anchor.place, agent.place())
    status = wait_for(lambda: near.heard("status"))
    assert status["running"]
    wait_for(lambda: "up" in (tmp_path / "log").read_text() if (tmp_path / "log").exists() else False)
    near.call(near.anchor.control, {"do": "signal", "signum": 2, "whole_group": True})
    exited = wait_for(lambda: near.heard("exited"))
    assert (exited["code"], "KeyboardInterrupt" in exited["tail"]) == (-2, True)
    near.call(near.anchor.control, {"do": "start", "program": None})
    pid = wait_for(lambda: near.heard("started"))["pid"]
    near.said.clear()
    near.call(near.anchor.control, {"do": "start", "program": {"argv": ["/bin/sh", "-c", "exit 7"]}})
    wait_for(lambda: len([said for said in near.said if said["event"] == "exited"]) == 2)
    assert [said.get("code") for said in near.said] == [-9, None, 7]
    assert not Path(f"/proc/{pid}").exists()
    near.said.clear()
    near.call(near.anchor.control, {"do": "start", "program": {"argv": ["/no/such/program"]}})
    assert "/no/such/program" in wait_for(lambda: near.heard("refused"))["error"]["message"]
    near.call(near.anchor.control, {"do": "hang_up"})
    wait_for(lambda: len([said for said in near.said if said["event"] == "refused"]) == 2)
    assert near.call(lambda: near.anchor.state) == "connected"
    agent.close()
    rider.stop()


def test_clients_are_held_until_the_program_listens(tmp_path: Path, near: AnchorThread) -> None:
    port = free_port()
    rider = RiderProcess(tmp_path, str(tmp_path / "rider"), [sys.executable, "-c", "pass"])
    agent = FakeAgent(rider, passes=True)
    near.call(near.anchor.place, agent.place())
    wait_for(lambda: near.heard("exited") or (near.heard("status") or {}).get("exit_code") == 0)
    connection = near.connect(near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}"))
    connection.sendall(b"early")
    program = {"argv": [sys.executable, "-c", ECHO, str(port)]}
    near.call(near.anchor.control, {"do": "start", "program": program})
    assert connection.recv(100) == b"early"
    agent.close()
    rider.stop()


def test_verbs_are_announced_until_they_are_answered(echo: tuple[RiderProcess, int]) -> None:
    rider, _ = echo
    asking = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for number, one in enumerate(asking):
        one.connect(str(rider.verbs))
        one.sendall(json.dumps({"name": "move", "arguments": {"to": number}}).encode() + b"\n")
    with rider.control() as control:
        assert read_line(control)["event"] == "status"
        early = [read_line(control) for _ in asking]
    with rider.control(incarnation=2) as control:
        assert read_line(control)["incarnation"] == 2
        again = [read_line(control) for _ in asking]
        assert again == early
        for verb in reversed(again):
            answer = {"do": "answer", "verb": verb["verb"], "ok": True, "body": verb["arguments"]}
            control.sendall(json.dumps(answer).encode() + b"\n")
        assert [read_line(one)["body"] for one in asking] == [{"to": 0}, {"to": 1}, {"to": 2}]
        wrong = socket.socket(socket.AF_UNIX)
        wrong.connect(str(rider.verbs))
        wrong.sendall(b"nonsense\n")
        assert not read_line(wrong)["ok"]
    for one in (*asking, wrong):
        one.close()


def test_output_waits_in_the_spool_and_is_cut_off_with_a_reason_when_that_is_full(
    tmp_path: Path, near: AnchorThread
) -> None:
    port = free_port()
    rider = RiderProcess(
        tmp_path,
        str(tmp_path / "rider"),
        [sys.executable, "-c", SOURCE, str(port), "40"],
        memory_bytes=1 << 20,
        disk_bytes=4 << 20,
    )
    agent = FakeAgent(rider, passes=True)
    near.call(near.anchor.place, agent.place())
    connection = near.connect(near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}"))
    first = connection.recv(1000)
    agent.gate.clear()
    agent.cut()
    wait_for(lambda: sum(file.stat().st_size for file in (tmp_path / "spool").glob("*")) >= 4 << 20)
    agent.gate.set()
    received = len(first)
    while data := connection.recv(1 << 20):
        received += len(data)
    assert 5 << 20 < received < 40 << 20
    wait_for(lambda: not list((tmp_path / "spool").glob("*")))
    agent.close()
    rider.stop()


def test_a_program_need_not_wait_for_a_way_that_has_ended_without_a_word(tmp_path: Path, near: AnchorThread) -> None:
    port, size = free_port(), 12
    argv = [sys.executable, "-c", SOURCE, str(port), str(size)]
    rider = RiderProcess(tmp_path, str(tmp_path / "rider"), argv)
    agent = FakeAgent(rider, passes=True)
    near.call(near.anchor.place, agent.place())
    connection = near.connect(near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}"))
    received = len(connection.recv(1000))
    gone = threading.Event()
    near.anchor.loop.soon(gone.wait)  # as a laptop that sleeps: its system takes what comes, and nobody answers
    wait_for(lambda: _spooled(tmp_path) > 4 << 20)
    gone.set()
    while received < size << 20:
        received += len(connection.recv(1 << 20))
    agent.close()
    rider.stop()


def _spooled(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "spool").glob("*"))


def test_nothing_is_kept_for_the_anchor_of_a_front_that_was_killed(tmp_path: Path) -> None:
    port = free_port()
    rider = RiderProcess(
        tmp_path, str(tmp_path / "rider"), [sys.executable, "-c", SOURCE, str(port), "8"], memory_bytes=1 << 16
    )
    fronts = [AnchorThread(name) for name in ("f.1", "g.1", "f.2")]
    agents = [FakeAgent(rider, True, anchor=name) for name in ("f.1", "g.1", "f.2")]
    killed, other, new = fronts
    try:
        for front, agent in zip(fronts[:2], agents[:2], strict=True):
            front.call(front.anchor.place, agent.place())
            wait_for(lambda front=front: front.anchor.state == "connected")
        reader = killed.connect(killed.call(killed.anchor.listen, f"tcp:127.0.0.1:{port}"))
        assert reader.recv(1)
        agents[0].gate.clear()
        agents[0].cut()
        wait_for(lambda: any((tmp_path / "spool").glob("*")))
        new.call(new.anchor.place, agents[2].place())
        wait_for(lambda: not any((tmp_path / "spool").iterdir()))
        assert other.anchor.state == "connected"
        control = rider.control()
        assert read_line(control)["anchors"] == ["g.1", "f.2"]
        control.close()
        reader.close()
    finally:
        for front in fronts:
            front.stop()
        rider.stop()


def test_a_target_that_means_nothing_ends_its_own_stream_alone(
    echo: tuple[RiderProcess, int], near: AnchorThread
) -> None:
    rider, port = echo
    near.call(near.anchor.place, FakeAgent(rider, rider.address.startswith("/")).place())
    good = near.connect(near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}"))
    bad = near.connect(near.call(near.anchor.listen, "tcp:nowhere"))
    assert bad.recv(1) == b""
    good.sendall(b"still here")
    assert good.recv(10) == b"still here"


def test_a_verb_that_is_too_long_is_refused_at_once(echo: tuple[RiderProcess, int]) -> None:
    rider, _ = echo
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(rider.verbs))
        asking.sendall(json.dumps({"name": "move", "arguments": {"to": "x" * 20000}}).encode() + b"\n")
        answer = read_line(asking)
    assert (answer["ok"], answer["body"]["code"]) == (False, "invalid")


def test_a_wrong_secret_is_refused(echo: tuple[RiderProcess, int]) -> None:
    rider, _ = echo
    with rider.attach(attach="control", incarnation=1, epoch=0, secret="guess") as connection:
        answer = read_line(connection)
        assert (answer["ok"], "secret" in answer["error"]) == (False, True)
        assert connection.recv(1) == b""


def test_nobody_dials_in_vain_for_ever(near: AnchorThread) -> None:
    nowhere = Place(node="n1", address=f"127.0.0.1:{free_port()}", ticket="t", incarnation=1, epoch=0)
    near.call(near.anchor.place, nowhere)
    wait_for(lambda: near.states)
    assert near.states[0][0] == "away"
    assert "can't be reached" in near.states[0][1]


def test_fronts_yield_before_the_agent_is_told(echo: tuple[RiderProcess, int], near: AnchorThread) -> None:
    rider, port = echo
    agent = FakeAgent(rider, passes=rider.address.startswith("/"))
    near.call(near.anchor.place, agent.place())
    endpoint = near.call(near.anchor.listen, f"tcp:127.0.0.1:{port}")
    wait_for(lambda: near.heard("status"))
    with rider.control() as control, near.connect(endpoint) as client:
        assert read_line(control)["event"] == "status"
        exchange(client, 1000, random.Random(1))
        control.sendall(b'{"do": "yield"}\n')
        wait_for(lambda: near.heard("yield"))
        agent.cut()
        near.call(near.anchor.control, {"do": "yielded"})
        assert read_line(control)["event"] == "yielded", "also over a connection that is made anew"
        with rider.control() as again:
            assert [read_line(again)["event"] for _ in range(2)] == ["status", "yielded"]
            again.sendall(b'{"do": "go_on"}\n')
            wait_for(lambda: near.heard("go_on"))
        agent.gate.clear()
        agent.cut()
        client.close()
        wait_for(lambda: near.anchor.state == "away")
        control.sendall(b'{"do": "yield"}\n')
        refusal = read_line(control)
        assert (refusal["event"], refusal["error"]["code"]) == ("refused", "busy")
        agent.gate.set()
    agent.close()
