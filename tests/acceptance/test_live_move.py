"""The heart: a kernel moves in the middle of a cell, and its clients notice nothing."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient

import sojourn
from bench.listener import Listener
from sojourn.testing import execute, session_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

NODES = ("here", "there")


def other(node: str | None) -> str:
    return next(name for name in NODES if name != node)


def move_on(sojourner: sojourn.Client, session: str, **options: Any) -> Any:
    options.setdefault("wait", "filled")
    return sojourner.move(session, other(sojourner.session(session).node), **options)


def another_client(manager: Any) -> Any:
    """As a second program attaches. (`manager.client()` would share the first one's ZeroMQ identity, and deafen it.)"""
    client = BlockingKernelClient()
    client.load_connection_file(manager.connection_file)
    client.start_channels()
    return client


def reply_to(client: Any, request: str, timeout: float = 20) -> dict[str, Any]:
    """The shell reply to a request; those to earlier requests are passed over."""
    while True:
        reply: dict[str, Any] = client.get_shell_msg(timeout=timeout)
        if reply["parent_header"]["msg_id"] == request:
            return reply


@pytest.mark.parametrize(("strategy", "moves"), [("lazy", 40), ("copy", 10)])
def test_every_line_comes_once_and_in_order_to_two_clients(
    sojourner: sojourn.Client, kernel: tuple[Any, Any], strategy: str, moves: int
) -> None:
    manager, client = kernel
    second = another_client(manager)
    second.wait_for_ready(timeout=30)
    session = session_of(manager)
    request = client.execute(
        "import itertools, time\nfor number in itertools.count(1):\n    print(number, flush=True); time.sleep(0.0005)"
    )
    listeners = [Listener(client, request), Listener(second, request)]
    chosen = random.Random(7)
    for turn in range(moves):
        time.sleep([0.0, 0.1, 1.0, chosen.uniform(0, 0.3)][turn % 4 if turn < 12 else 3])
        move_on(sojourner, session, strategy=strategy)
    time.sleep(0.5)
    manager.interrupt_kernel()
    assert reply_to(client, request)["content"]["ename"] == "KeyboardInterrupt"
    for listener in listeners:
        assert listener.ended.wait(20)
        assert listener.faults() == {"lost": 0, "duplicated": 0, "reordered": 0}
    assert listeners[0].arrivals[-1][1] == listeners[1].arrivals[-1][1] > 1000
    second.stop_channels()


def test_interrupt_and_restart_work_right_after_a_move(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    session = session_of(manager)
    request = client.execute("import time\nwhile True: time.sleep(0.1)")
    time.sleep(0.3)
    move_on(sojourner, session, wait="thawed")
    manager.interrupt_kernel()
    assert reply_to(client, request)["content"]["ename"] == "KeyboardInterrupt"
    execute(client, "x = 1")
    move_on(sojourner, session)
    manager.restart_kernel()
    client.wait_for_ready(timeout=30)
    assert execute(client, "'x' in globals()") == "False"
    assert sojourner.session(session).status == "running"


def test_a_cell_that_begins_with_on_runs_there_with_the_whole_state(
    sojourner: sojourn.Client, kernel: tuple[Any, Any]
) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "numbers = (n * n for n in range(10)); next(numbers), next(numbers)")
    where = other(sojourner.session(session).node)
    assert execute(client, f"%%on {where}\nnext(numbers)") == "4"
    assert sojourner.session(session).node == where
    assert execute(client, f"%%on {where}\nnext(numbers)") == "9"
    back = other(where)
    assert execute(client, f"%%on {back} --return\nnext(numbers)") == "16"
    deadline = time.monotonic() + 20
    while sojourner.session(session).node != where and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sojourner.session(session).node == where


def test_a_kernel_moves_itself_in_the_middle_of_a_cell(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    session = session_of(manager)
    there = other(sojourner.session(session).node)
    execute(client, f"before = 41\n%sojourn move {there}\nprint(before + 1)")
    assert sojourner.session(session).node == there
    assert there in execute(client, "%sojourn where")
    assert "here" in execute(client, "%sojourn nodes")


def test_a_move_to_an_unknown_node_is_refused_with_the_names_of_the_known(
    sojourner: sojourn.Client, kernel: tuple[Any, Any]
) -> None:
    manager, client = kernel
    with pytest.raises(sojourn.errors.Unknown, match="here"):
        sojourner.move(session_of(manager), "nowhere")
    with pytest.raises(RuntimeError, match="nowhere"):
        execute(client, "%%on nowhere\n1")
    assert execute(client, "1 + 1") == "2"


def test_a_second_move_while_one_is_under_way_is_refused(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "ballast = bytearray(b'x') * (300 << 20)")
    move_on(sojourner, session, wait="accepted")
    with pytest.raises(sojourn.errors.Busy):
        move_on(sojourner, session)
    deadline = time.monotonic() + 30
    while sojourner.session(session).status != "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert execute(client, "set(ballast) == {120}") == "True"
