"""A real ipykernel behind a real switchboard; the tunnel is stood in for by direct endpoints."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from switchboard_bench import Bench, bench_at, eventually, finish, printed, reply_to, run, wait_for_input

from sojourn.errors import MoveFailed, SojournError
from sojourn.model import MovePhase, SessionStatus
from sojourn.transport.socket_pipe import TRUNCATED

pytestmark = pytest.mark.integration


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


# ── passing through ──


@pytest.mark.parametrize(
    "how",
    [{}, {"encrypted": True}, {"transport": "ipc"}, {"inner_key": "another"}],
    ids=["plain", "curve", "ipc", "a forked kernel"],
)
def test_a_client_sees_a_kernel_like_any_other(tmp_path: Path, how: dict[str, Any]) -> None:
    with bench_at(tmp_path, **how) as bench:
        client = bench.client()
        reply, heard = run(client, "print('hello')")
        assert reply["status"] == "ok"
        assert printed(heard) == "hello\n"
        assert client.hb_channel.is_beating()
        asked = client.execute("answer = input('name? ')", allow_stdin=True)
        assert client.get_stdin_msg(timeout=10)["content"]["prompt"] == "name? "
        client.input("you")
        assert finish(client, asked)[0]["status"] == "ok"
        client.control_channel.send(client.session.msg("kernel_info_request", {}))
        assert client.get_control_msg(timeout=10)["content"]["status"] == "ok"


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
    eventually(lambda: bench.switchboard.attached == open_clients())
    client.stop_channels()
    eventually(lambda: bench.switchboard.attached == open_clients())


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
        eventually(lambda: not beats())
    finally:
        bench.switchboard.exit_code = None
        bench.news()
        eventually(beats)
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
    wait_for_input(client, asked)
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
    while run(client, "pass")[0]["status"] == "aborted":  # the kernel itself aborts what comes too soon after an error
        pass
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
    eventually(lambda: bench.errands.asked == ["there"])
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
    wait_for_input(client, asked)
    bench.switchboard._loop.soon(lambda: bench.end.on_state("reset", "node there was lost"))
    reply = reply_to(client, asked)["content"]
    assert reply["ename"] == "MoveFailed"
    assert "node there was lost" in reply["evalue"]
    following = client.execute("1")
    assert client.get_shell_msg(timeout=10)["parent_header"]["msg_id"] == following


def test_truncated_output_is_said_in_the_cell_that_printed_it(bench: Bench) -> None:
    client = bench.client()
    asked = client.execute("import time; time.sleep(0.5)")
    wait_for_input(client, asked)
    for channel, reason in (("shell", TRUNCATED), ("iopub", "connection refused"), ("iopub", TRUNCATED)):
        endpoint = bench.switchboard._endpoints[channel]  # type: ignore[index]
        bench.switchboard._loop.soon(partial(bench.end.on_cut, endpoint, reason))
    _, heard = finish(client, asked)
    notices = [message["content"] for message in heard if message["msg_type"] == "stream"]
    assert [notice["name"] for notice in notices] == ["stderr"]
    assert "output truncated here" in notices[0]["text"]


def test_a_cell_whose_end_was_truncated_ends_all_the_same(bench: Bench) -> None:
    client = bench.client()
    bench.switchboard._unfinished.heard = lambda message: None  # type: ignore[method-assign]
    asked = client.execute("1")
    _, _ = finish(client, asked)
    bench.switchboard._loop.soon(partial(bench.end.on_cut, bench.switchboard._endpoints["iopub"], TRUNCATED))
    assert client.get_iopub_msg(timeout=5)["content"]["name"] == "stderr"
    last = client.get_iopub_msg(timeout=5)
    assert (last["content"], last["parent_header"]["msg_id"]) == ({"execution_state": "idle"}, asked)
