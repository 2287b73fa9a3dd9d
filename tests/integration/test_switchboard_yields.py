"""Clients yield, and another kernel comes behind them: real ipykernels behind a real switchboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from switchboard_bench import Bench, bench_at, eventually, finish, printed, reply_to, run, wait_for_input

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_at(tmp_path) as bench:
        yield bench


def all_heard(client: BlockingKernelClient) -> list[dict[str, Any]]:
    """What iopub has said until nothing comes for a moment."""
    heard = []
    while True:
        try:
            heard.append(client.get_iopub_msg(timeout=0.5))
        except Empty:
            return heard


def kernel_of(client: BlockingKernelClient, asked: str) -> int:
    return int(printed(finish(client, asked)[1]))


def test_a_busy_client_meets_another_kernel_and_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    client = bench.client()
    run(client, "import time, os\nfrom comm import create_comm\ncomm = create_comm('t')")
    (comm,) = reply_to(client, ask_comms(client))["content"]["comms"]
    before = [client.execute("time.sleep(0.2); print(os.getpid())"), client.execute("print(os.getpid())")]
    wait_for_input(client, before[0])
    eventually(lambda: before[1] in (tmp_path / "owed").read_text())
    bench.rider_says("yield")
    eventually(lambda: bench.yielded == 1)
    after = [client.execute("import os; print(os.getpid())"), client.execute("print(os.getpid())")]
    on_control = client.session.msg("list_subshell_request", {})
    client.control_channel.send(on_control)
    bench.rider_says("yield")
    eventually(lambda: bench.yielded == 2)
    old = bench.program.pid
    bench.swap()
    replies = [reply_to(client, asked)["content"] for asked in (*before, *after)]
    assert [reply["status"] for reply in replies] == ["ok"] * 4, replies
    assert client.get_control_msg(timeout=10)["parent_header"]["msg_id"] == on_control["header"]["msg_id"]
    heard = all_heard(client)
    pids = [int(message["content"]["text"]) for message in heard if message["content"].get("name") == "stdout"]
    assert pids == [old, old, bench.program.pid, bench.program.pid]
    assert [message["content"]["comm_id"] for message in heard if message["msg_type"] == "comm_close"] == [comm]
    assert "iopub_welcome" not in {message["msg_type"] for message in heard}
    assert bench.recollection.comms == ()
    with pytest.raises(Empty):
        client.get_shell_msg(timeout=0.2)


def ask_comms(client: BlockingKernelClient) -> str:
    message = client.session.msg("comm_info_request", {})
    client.shell_channel.send(message)
    return str(message["header"]["msg_id"])


def test_the_kernel_goes_on_and_gets_what_was_held(bench: Bench) -> None:
    client = bench.client()
    bench.rider_says("yield")
    eventually(lambda: bench.yielded == 1)
    asked = client.execute("import os; print(os.getpid())")
    assert reply_to(client, client.complete("pri", 3))["content"]["matches"] == [], "it does not wait for ever"
    bench.rider_says("go_on")
    assert kernel_of(client, asked) == bench.program.pid


def test_a_busy_subshell_is_waited_for(bench: Bench) -> None:
    client = bench.client()
    client.control_channel.send(client.session.msg("create_subshell_request", {}))
    subshell = client.get_control_msg(timeout=10)["content"]["subshell_id"]
    cell = client.session.msg("execute_request", {"code": "import time; time.sleep(1); print('done')", "silent": False})
    cell["header"]["subshell_id"] = subshell
    client.shell_channel.send(cell)
    while client.get_iopub_msg(timeout=10)["msg_type"] != "execute_input":
        pass
    bench.rider_says("yield")
    assert reply_to(client, str(cell["header"]["msg_id"]))["content"]["status"] == "ok"
    heard = all_heard(client)
    assert printed(heard) == "done\n"
    eventually(lambda: bench.yielded == 1)


def test_a_held_cell_is_interrupted_where_it_waits(bench: Bench, tmp_path: Path) -> None:
    client = bench.client()
    bench.rider_says("yield")
    eventually(lambda: bench.yielded == 1)
    asked = client.execute("1")
    eventually(lambda: asked in (tmp_path / "owed").read_text())
    client.control_channel.send(client.session.msg("interrupt_request", {}))
    assert reply_to(client, asked)["content"]["ename"] == "KeyboardInterrupt"
    assert client.get_control_msg(timeout=10)["content"]["status"] == "ok"
