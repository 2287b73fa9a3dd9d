"""A real ipykernel behind a real switchboard; the tunnel is stood in for by direct endpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from sojourn.client import Watched
from sojourn.errors import MoveFailed, SojournError
from sojourn.front.connection import Connection, inner_connection
from sojourn.front.ledger import Ledger
from sojourn.front.switchboard import Line, Switchboard
from sojourn.model import MovePhase, MoveView, SessionStatus, SessionView
from sojourn.transport.socket_pipe import TRUNCATED

pytestmark = pytest.mark.integration


class DirectEnd:
    """Stands where the anchor stands: ports of this machine, signals to a process of this machine."""

    def __init__(self, program: subprocess.Popen[bytes], on_state: Callable[[str, str], None]) -> None:
        self.state = "connected"
        self.on_state = on_state
        self.said: list[dict[str, Any]] = []
        self.on_cut: Callable[[str, str], None] = lambda endpoint, reason: None
        self._program = program

    def place(self, place: object) -> None: ...
    def expect(self, place: object) -> None: ...
    def close(self) -> None: ...

    def listen(self, target: str) -> str:
        return f"tcp://{target.removeprefix('tcp:')}"

    def control(self, message: dict[str, Any]) -> None:
        self.said.append(message)
        if message["do"] == "signal":
            os.killpg(self._program.pid, message["signum"])


class Errands:
    """Moves are answered as the test says, at once or when it says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled = 0
        self.answer: Callable[[str], None] = lambda place: None

    def move(self, session: str, place: str) -> None:
        self.asked.append(place)
        self.answer(place)

    def cancel_move(self, session: str) -> None:
        self.cancelled += 1


class Bench:
    """One kernel, its switchboard, and clients."""

    def __init__(self, folder: Path, encrypted: bool = False, transport: str = "tcp") -> None:
        self.outer = _outer(encrypted, transport, folder)
        inner = inner_connection(self.outer)
        file = folder / "inner.json"
        file.write_text(json.dumps(inner.for_file()))
        self.program = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(file), "--HistoryManager.hist_file=:memory:"],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        self.errands = Errands()
        self.zone: zmq.Context[Any] = zmq.Context()
        line = Line("s1", self.outer, inner, "python", "front-1")
        self.switchboard = Switchboard(line, self.zone, self._anchor, self.errands, Ledger(folder / "owed"))
        self.switchboard.start()
        self.clients: list[BlockingKernelClient] = []

    def _anchor(self, loop: object, on_control: object, on_state: Callable[[str, str], None]) -> DirectEnd:
        self.end = DirectEnd(self.program, on_state)
        return self.end

    def client(self) -> BlockingKernelClient:
        made = BlockingKernelClient()
        made.load_connection_info({**self.outer.for_file(), "key": self.outer.key.encode()})
        made.start_channels()
        self.clients.append(made)
        made.wait_for_ready(timeout=20)
        return made

    def news(self, status: SessionStatus = SessionStatus.RUNNING, phase: MovePhase | None = None) -> None:
        view = SessionView(
            id="s1", name="", owner="", status=status, node="here", incarnation=1, epoch=1, created_at=0.0
        )
        move = phase and MoveView(
            id="m", session="s1", source="here", target="there", strategy="lazy", phase=phase, started_at=0.0
        )
        self.switchboard.watched(Watched(session=view, place=None, next_place=None, move=move))

    def close(self) -> None:
        for client in self.clients:
            client.stop_channels()
        self.switchboard.close()
        self.program.kill()
        self.program.wait()
        self.zone.term()


def _outer(encrypted: bool, transport: str, folder: Path) -> Connection:
    plain = inner_connection(
        Connection(key="secret", shell_port=0, iopub_port=0, stdin_port=0, control_port=0, hb_port=0)
    )
    body = plain.for_file()
    if transport == "ipc":
        body |= {"transport": "ipc", "ip": str(folder / "k")}
    if encrypted:
        public, secret = zmq.curve_keypair()
        body |= {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
    return Connection(**body)


@contextmanager
def bench_at(folder: Path, **how: Any) -> Iterator[Bench]:
    bench = Bench(folder, **how)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_at(tmp_path_factory.mktemp("kernel")) as bench:
        yield bench


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    shared.errands.asked.clear()
    shared.errands.cancelled = 0
    shared.errands.answer = lambda place: shared.switchboard.move_ended(True)
    shared.news()
    yield shared
    shared.news()


def run(client: BlockingKernelClient, code: str, **how: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of the reply, and what iopub said until idle."""
    return finish(client, client.execute(code, **how))


def finish(client: BlockingKernelClient, asked: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    reply = reply_to(client, asked)
    heard = []
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["parent_header"].get("msg_id") != asked:
            continue
        heard.append(message)
        if message["content"].get("execution_state") == "idle":
            return reply["content"], heard


def reply_to(client: BlockingKernelClient, asked: str) -> dict[str, Any]:
    while True:
        message = client.get_shell_msg(timeout=10)
        if message["parent_header"].get("msg_id") == asked:
            return dict(message)


def printed(heard: list[dict[str, Any]]) -> str:
    return "".join(message["content"]["text"] for message in heard if message["msg_type"] == "stream")


# ── passing through ──


@pytest.mark.parametrize("how", [{}, {"encrypted": True}, {"transport": "ipc"}], ids=["plain", "curve", "ipc"])
def test_a_client_sees_a_kernel_like_any_other(tmp_path: Path, how: dict[str, Any]) -> None:
    with bench_at(tmp_path, **how) as bench:
        client = bench.client()
        reply, heard = run(client, "print('hello')")
        assert reply["status"] == "ok"
        assert printed(heard) == "hello\n"
        assert client.hb_channel.is_beating()


def test_every_subscription_is_welcomed(bench: Bench) -> None:
    for _ in range(2):
        client = bench.client()
        socket = client.connect_iopub()
        try:
            assert socket.poll(5000)
            frames = socket.recv_multipart()
            _, rest = client.session.feed_identities(frames)
            assert client.session.deserialize(rest)["msg_type"] == "iopub_welcome"
        finally:
            socket.close()


def test_attached_clients_are_counted(bench: Bench) -> None:
    def open_clients() -> int:
        return sum(client.channels_running for client in bench.clients)

    client = bench.client()
    _eventually(lambda: bench.switchboard.attached == open_clients())
    client.stop_channels()
    _eventually(lambda: bench.switchboard.attached == open_clients())


def test_the_heart_stops_with_the_program(bench: Bench) -> None:
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.linger = 0
    socket.req_relaxed = True
    socket.connect(bench.outer.url("hb"))

    def beats() -> bool:
        socket.send(b"ping")
        return bool(socket.poll(500)) and socket.recv() == b"ping"

    try:
        assert beats()
        bench.switchboard.exit_code = 1
        bench.news()
        _eventually(lambda: not beats())
    finally:
        bench.switchboard.exit_code = None
        bench.news()
        _eventually(beats)
        socket.close()


def test_input_reaches_the_client_that_asked(bench: Bench) -> None:
    for client in (bench.client(), bench.client()):
        asked = client.execute("answer = input('name? ')", allow_stdin=True)
        assert client.get_stdin_msg(timeout=10)["content"]["prompt"] == "name? "
        client.input("you")
        assert finish(client, asked)[0]["status"] == "ok"


def test_buffers_pass_unharmed(bench: Bench) -> None:
    client = bench.client()
    code = "k = get_ipython().kernel\nk.session.send(k.iopub_socket, 'x', {}, buffers=[b'z' * 3_000_000])"
    asked = client.execute(code)
    while (message := client.get_iopub_msg(timeout=10))["msg_type"] != "x":
        pass
    assert [bytes(buffer) for buffer in message["buffers"]] == [b"z" * 3_000_000]
    finish(client, asked)


def test_a_message_with_another_key_is_not_heard(bench: Bench) -> None:
    stranger = BlockingKernelClient()
    stranger.load_connection_info({**bench.outer.for_file(), "key": b"wrong"})
    stranger.start_channels()
    bench.clients.append(stranger)
    stranger.execute("%%on there\n1")
    with pytest.raises(Empty):
        stranger.get_shell_msg(timeout=0.3)
    assert bench.errands.asked == []


def test_a_signal_interrupts(bench: Bench) -> None:
    client = bench.client()
    asked = client.execute("import time; time.sleep(30)")
    _wait_for_input(client, asked)
    time.sleep(0.2)
    bench.switchboard.signal(signal.SIGINT)
    assert finish(client, asked)[0]["ename"] == "KeyboardInterrupt"


# ── the directive ──


def test_a_directive_moves_then_runs_and_lines_keep_their_numbers(bench: Bench) -> None:
    reply, _ = run(bench.client(), "%%on there\nx = 1\n1/0")
    assert bench.errands.asked == ["there"]
    assert reply["ename"] == "ZeroDivisionError"
    assert "line 3" in "".join(reply["traceback"])


def test_await_and_cell_magics_work_below_a_directive(bench: Bench) -> None:
    client = bench.client()
    assert run(client, "%%on there\nimport asyncio\nawait asyncio.sleep(0)")[0]["status"] == "ok"
    reply, heard = run(client, "%%on there\n\n%%time\nprint('timed')")
    assert reply["status"] == "ok"
    assert "Wall time" in printed(heard)
    assert run(client, "%%on there\n    y = 1\n    y")[0]["status"] == "ok"
    assert run(client, "%%on there")[0]["status"] == "ok"


def test_the_cell_stands_in_the_history(bench: Bench) -> None:
    client = bench.client()
    run(client, "%%on there\nmarked = 1")
    _, heard = run(client, "print(In[-2])")
    assert printed(heard) == "# %%on there\nmarked = 1\n"


def test_metadata_of_the_cell_moves_it(bench: Bench) -> None:
    client = bench.client()
    message = client.session.msg(
        "execute_request", {"code": "1", "silent": False}, metadata={"sojourn": {"node": "there"}}
    )
    client.shell_channel.send(message)
    assert finish(client, message["header"]["msg_id"])[0]["status"] == "ok"
    assert bench.errands.asked == ["there"]


def test_a_directive_that_means_nothing_is_an_error_of_the_cell(bench: Bench) -> None:
    reply, heard = run(bench.client(), "%%on ???\n1")
    assert reply["ename"] == "Invalid"
    assert [message["msg_type"] for message in heard] == ["status", "error", "status"]
    assert bench.errands.asked == []


def test_run_all_with_an_error_in_the_middle(bench: Bench) -> None:
    client = bench.client()
    cells = ["a = 1", "%%on there\nb = 2", "c = 3", "1/0", "%%on here\nd = 4", "e = 5"]
    asked = [client.execute(cell) for cell in cells]
    assert [reply_to(client, one)["content"]["status"] for one in asked] == [
        "ok", "ok", "ok", "error", "aborted", "aborted",
    ]  # fmt: skip
    assert bench.errands.asked == ["there"]
    assert printed(run(client, "print(a, b, c)")[1]) == "1 2 3\n"


def test_a_failed_move_is_an_error_of_the_cell_and_aborts_what_follows(bench: Bench) -> None:
    error: SojournError = MoveFailed("There is no room on there.", "Choose another node.")
    bench.errands.answer = lambda place: None
    client = bench.client()
    first, second = client.execute("%%on there\nf = 1"), client.execute("f")
    time.sleep(0.1)
    bench.switchboard.move_ended(False, error)
    reply, heard = finish(client, first)
    assert (reply["ename"], reply["evalue"]) == ("MoveFailed", "There is no room on there.")
    assert "Choose another node." in reply["traceback"][-1]
    assert [message["msg_type"] for message in heard] == ["status", "error", "status"]
    assert finish(client, second)[0]["status"] == "aborted"
    assert run(client, "1")[0]["status"] == "ok"


def test_there_and_back_again(bench: Bench) -> None:
    client = bench.client()
    asked = [client.execute("%%on there --return\n1"), client.execute("2")]
    assert [reply_to(client, one)["content"]["status"] for one in asked] == ["ok", "ok"]
    assert bench.errands.asked == ["there", "here"]


def test_an_interrupt_cancels_a_held_cell_and_its_move(bench: Bench) -> None:
    bench.errands.answer = lambda place: None
    client = bench.client()
    asked = client.execute("%%on there\n1")
    _eventually(lambda: bench.errands.asked == ["there"])
    message = client.session.msg("interrupt_request", {})
    client.control_channel.send(message)
    assert finish(client, asked)[0]["ename"] == "KeyboardInterrupt"
    assert client.get_control_msg(timeout=10)["content"]["status"] == "ok"
    assert bench.errands.cancelled == 1
    bench.switchboard.move_ended(False)
    assert run(client, "1")[0]["status"] == "ok"


# ── while it moves ──


def test_completions_get_an_empty_answer_from_a_frozen_kernel(bench: Bench) -> None:
    client = bench.client()
    os.killpg(bench.program.pid, signal.SIGSTOP)
    try:
        bench.news(SessionStatus.MOVING, MovePhase.DEPARTING)
        asked = client.complete("pri", 3)
        assert reply_to(client, asked)["content"]["matches"] == []
        silent = client.execute("1", silent=True)
        assert reply_to(client, silent)["content"]["status"] == "aborted"
        loud = client.execute("print('after')")
    finally:
        os.killpg(bench.program.pid, signal.SIGCONT)
        bench.news()
    assert printed(finish(client, loud)[1]) == "after\n"


def test_a_reset_answers_what_was_pending_once(bench: Bench) -> None:
    client = bench.client()
    asked = client.execute("import time; time.sleep(0.5); print('late')")
    _wait_for_input(client, asked)
    bench.switchboard._loop.soon(lambda: bench.end.on_state("reset", "node there was lost"))
    reply = reply_to(client, asked)["content"]
    assert reply["ename"] == "MoveFailed"
    assert "node there was lost" in reply["evalue"]
    following = client.execute("1")
    assert client.get_shell_msg(timeout=10)["parent_header"]["msg_id"] == following


def test_truncated_output_is_said_in_the_cell_that_printed_it(bench: Bench) -> None:
    client = bench.client()
    asked = client.execute("import time; time.sleep(0.5)")
    _wait_for_input(client, asked)
    for channel, reason in (("shell", TRUNCATED), ("iopub", "connection refused"), ("iopub", TRUNCATED)):
        endpoint = bench.switchboard._endpoints[channel]  # type: ignore[index]
        bench.switchboard._loop.soon(partial(bench.end.on_cut, endpoint, reason))
    _, heard = finish(client, asked)
    notices = [message["content"] for message in heard if message["msg_type"] == "stream"]
    assert [notice["name"] for notice in notices] == ["stderr"]
    assert "output truncated here" in notices[0]["text"]


def _wait_for_input(client: BlockingKernelClient, asked: str) -> None:
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["msg_type"] == "execute_input" and message["parent_header"]["msg_id"] == asked:
            return


def _eventually(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
