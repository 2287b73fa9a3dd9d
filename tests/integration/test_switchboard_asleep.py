"""A switchboard whose kernel sleeps: it stands still for good, so whatever is answered is not answered by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from switchboard_bench import Bench, bench_at, eventually, finish, printed, reply_to, run, wait_for_input

from sojourn.errors import WakeFailed
from sojourn.model import SessionStatus

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_at(tmp_path_factory.mktemp("kernel")) as bench:
        yield bench


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """A kernel that runs, and has run something."""
    shared.news()
    shared.errands.wakes.clear()
    shared.errands.discarded.clear()
    yield shared
    shared.wake()
    eventually(lambda: not shared.switchboard.in_transit)


@pytest.fixture
def client(bench: Bench) -> BlockingKernelClient:
    return bench.client()


def asleep(bench: Bench) -> None:
    bench.sleep()
    eventually(lambda: bench.switchboard.in_transit)


def on_control(client: BlockingKernelClient, kind: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """The reply on control, once iopub has said that its sender is idle again."""
    message = client.session.msg(kind, content or {})
    client.control_channel.send(message)
    while (reply := client.get_control_msg(timeout=5))["parent_header"]["msg_id"] != message["header"]["msg_id"]:
        pass
    states = []
    while "idle" not in states:
        heard = client.get_iopub_msg(timeout=5)
        if heard["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            states.append(heard["content"].get("execution_state"))
    assert "busy" in states
    return dict(reply)


def ask(client: BlockingKernelClient, kind: str, content: dict[str, Any]) -> str:
    message = client.session.msg(kind, content)
    client.shell_channel.send(message)
    return str(message["header"]["msg_id"])


def test_a_nudge_is_answered_from_memory(bench: Bench, client: BlockingKernelClient) -> None:
    awake = reply_to(client, client.kernel_info())["content"]
    asleep(bench)
    reply, heard = finish(client, client.kernel_info())
    assert reply == awake
    assert [message["content"]["execution_state"] for message in heard] == ["busy", "idle"]
    assert on_control(client, "kernel_info_request")["content"] == awake
    assert bench.client().channels_running, "which waits until it is ready"
    assert bench.errands.wakes == []


def test_comms_and_the_debugger_and_usage_are_remembered(bench: Bench, client: BlockingKernelClient) -> None:
    run(client, "from comm import create_comm\nkept, gone = create_comm('t'), create_comm('t')\ngone.close()")
    comms = reply_to(client, ask(client, "comm_info_request", {}))["content"]["comms"]
    debug = {"type": "request", "seq": 7, "command": "debugInfo", "arguments": {}}
    known = on_control(client, "debug_request", debug)["content"]["body"]
    usage = on_control(client, "usage_request")["content"]
    asleep(bench)
    assert reply_to(client, ask(client, "comm_info_request", {}))["content"]["comms"] == comms
    assert len(comms) == 1
    assert reply_to(client, ask(client, "comm_info_request", {"target_name": "u"}))["content"]["comms"] == {}
    again = on_control(client, "debug_request", {**debug, "seq": 9})["content"]
    assert (again["body"], again["request_seq"], again["command"]) == (known, 9, "debugInfo")
    assert on_control(client, "usage_request")["content"] == usage
    assert bench.errands.wakes == []


def test_questions_are_answered_with_nothing(bench: Bench, client: BlockingKernelClient) -> None:
    asleep(bench)
    assert reply_to(client, client.complete("pri", 3))["content"]["matches"] == []
    assert reply_to(client, client.inspect("print"))["content"]["found"] is False
    assert reply_to(client, client.is_complete("("))["content"]["status"] == "unknown"
    assert reply_to(client, client.history())["content"]["history"] == []
    assert reply_to(client, client.execute("", silent=True))["content"]["status"] == "ok"
    assert reply_to(client, client.execute("1", silent=True))["content"]["status"] == "aborted"
    assert bench.errands.wakes == []


def test_what_an_opened_notebook_sends_waits_for_whoever_wakes_it(bench: Bench, client: BlockingKernelClient) -> None:
    asleep(bench)
    ask(client, "comm_open", {"comm_id": "c", "target_name": "jupyter.widget.control", "data": {}})
    ask(client, "comm_msg", {"comm_id": "c", "data": {"method": "request_states"}})
    ask(client, "comm_close", {"comm_id": "c", "data": {}})
    subshell = client.session.msg("create_subshell_request", {})
    client.control_channel.send(subshell)
    assert on_control(client, "kernel_info_request")["content"]["status"] == "ok", "it does not hold up the others"
    assert bench.errands.wakes == []
    bench.wake()
    assert client.get_control_msg(timeout=10)["parent_header"]["msg_id"] == subshell["header"]["msg_id"]


def test_a_cell_wakes_it_and_order_is_kept(bench: Bench, client: BlockingKernelClient) -> None:
    run(client, "said = []")
    asleep(bench)
    asked = [client.execute(f"said.append({number}); print(said)") for number in range(3)]
    eventually(lambda: bench.errands.wakes == [None])
    bench.news(SessionStatus.WAKING)
    assert reply_to(client, client.kernel_info())["content"]["status"] == "ok"
    bench.wake()
    heard = [printed(finish(client, one)[1]) for one in asked]
    assert heard == ["[0]\n", "[0, 1]\n", "[0, 1, 2]\n"]
    assert bench.errands.wakes == [None]


def test_nothing_is_let_go_before_the_tunnel_is_connected(bench: Bench, client: BlockingKernelClient) -> None:
    asleep(bench)
    asked = client.execute("print('there')")
    bench.news(SessionStatus.FILLING)
    eventually(lambda: bench.errands.wakes == [None])
    assert reply_to(client, client.kernel_info())["content"]["status"] == "ok", "by us"
    bench.wake()
    assert printed(finish(client, asked)[1]) == "there\n"


def test_a_widget_wakes_it_and_fails_aloud_if_it_does_not_wake(bench: Bench, client: BlockingKernelClient) -> None:
    asleep(bench)
    asked = ask(client, "comm_msg", {"comm_id": "w", "data": {"method": "update", "state": {}}})
    eventually(lambda: bench.errands.wakes == [None])
    bench.switchboard.wake_ended(WakeFailed("Checkpoint c is damaged.", "Restore another."))
    heard = []
    while not heard or heard[-1]["content"].get("execution_state") != "idle":
        message = client.get_iopub_msg(timeout=5)
        if message["parent_header"].get("msg_id") == asked:
            heard.append(message)
    assert "Checkpoint c is damaged." in printed(heard)
    assert "Restore another." in printed(heard)


def test_a_wake_that_fails_is_an_error_of_the_cells(bench: Bench, client: BlockingKernelClient) -> None:
    asleep(bench)
    first, second = client.execute("1"), client.execute("2")
    assert reply_to(client, client.kernel_info())["content"]["status"] == "ok", "both have come"
    assert bench.errands.wakes == [None]
    bench.switchboard.wake_ended(WakeFailed("Checkpoint c is damaged.", "Restore another."))
    reply, heard = finish(client, first)
    assert (reply["ename"], reply["evalue"]) == ("WakeFailed", "Checkpoint c is damaged.")
    assert reply["traceback"][-1] == "Restore another. The cell did not run."
    assert [message["msg_type"] for message in heard] == ["status", "error", "status"]
    assert finish(client, second)[0]["status"] == "aborted"
    third = client.execute("print('again')")
    eventually(lambda: bench.errands.wakes == [None, None])
    bench.wake()
    assert printed(finish(client, third)[1]) == "again\n"


def test_an_older_state_is_said_in_the_next_cell_and_once(bench: Bench, client: BlockingKernelClient) -> None:
    run(client, "1")
    asleep(bench)
    asked = client.execute("print('on')")
    bench.switchboard.saved_at = 0.0
    bench.wake(epoch=2, reason="Node here died.")
    _, heard = finish(client, asked)
    notice, said = [message["content"] for message in heard if message["msg_type"] == "stream"]
    assert (notice["name"], said["text"]) == ("stderr", "on\n")
    assert "goes on from its state of 19" in notice["text"]
    assert "Node here died." in notice["text"]
    assert printed(run(client, "print('quiet')")[1]) == "quiet\n"
    bench.switchboard._recollection.epoch = 1


def test_an_answer_to_input_wakes_a_cell_that_was_frozen_while_it_waited(
    bench: Bench, client: BlockingKernelClient
) -> None:
    asked = client.execute("print(input('name? '))", allow_stdin=True)
    client.get_stdin_msg(timeout=10)
    asleep(bench)
    assert bench.errands.wakes == [], "somebody wanted it to sleep in the middle of the cell"
    client.input("you")
    eventually(lambda: bench.errands.wakes == [None])
    bench.wake()
    assert printed(finish(client, asked)[1]) == "you\n"


def test_an_interrupt_is_confirmed_and_wakes_nobody(bench: Bench, client: BlockingKernelClient) -> None:
    asleep(bench)
    message = client.session.msg("interrupt_request", {})
    client.control_channel.send(message)
    assert client.get_control_msg(timeout=5)["content"]["status"] == "ok"
    assert bench.errands.wakes == []
    asked = client.execute("1")
    eventually(lambda: bench.errands.wakes == [None])
    client.control_channel.send(client.session.msg("interrupt_request", {}))
    assert finish(client, asked)[0]["ename"] == "KeyboardInterrupt"


def test_executing_is_told_when_it_begins_and_ends(bench: Bench, client: BlockingKernelClient) -> None:
    bench.errands.told.clear()
    asked = client.execute("import time; time.sleep(0.3)")
    wait_for_input(client, asked)
    assert bench.errands.told[-1] is True
    finish(client, asked)
    eventually(lambda: bench.errands.told[-1] is False)


def test_a_shutdown_discards_it_without_a_thaw(bench: Bench, client: BlockingKernelClient) -> None:
    asleep(bench)
    client.control_channel.send(client.session.msg("shutdown_request", {"restart": False}))
    assert client.get_control_msg(timeout=5)["content"] == {"status": "ok", "restart": False}
    eventually(lambda: bench.errands.discarded == ["s1"])
    assert (bench.errands.wakes, bench.switchboard.exit_code) == ([], 0)
    bench.switchboard.exit_code = None


def test_a_restart_wakes_the_session_and_starts_the_program_anew(tmp_path: Path) -> None:
    with bench_at(tmp_path) as bench:
        client = bench.client()
        asleep(bench)
        client.control_channel.send(client.session.msg("shutdown_request", {"restart": True}))
        assert client.get_control_msg(timeout=5)["content"] == {"status": "ok", "restart": True}
        eventually(lambda: bench.switchboard.exit_code is not None)
        assert (bench.errands.wakes, bench.errands.discarded) == ([], [])
        bench.switchboard.restart(None)
        eventually(lambda: bench.errands.wakes == [None])
        assert bench.end.said[-1] == {"do": "start", "program": None}
        bench.switchboard.wake_ended(WakeFailed("It is damaged."))
        eventually(lambda: bench.switchboard.exit_code == 127)
        assert "It is damaged." in bench.switchboard.last_words
