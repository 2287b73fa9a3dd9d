"""Sessions move as objects: a new kernel takes the place of the last one, and no client notices."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sojourn
from sojourn.errors import Busy, Incompatible
from sojourn.testing import end_kernel, execute, session_of, stack, start_kernel

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

STATE = """
import random, numpy as np
items = [1, 2]; alias = items
class Point:
    def __init__(self, x): self.x = x
def shifted(point, by=1): return Point(point.x + by + len(items))
here = Point(3); random.seed(11); expected = random.Random(11).random()
table = np.arange(1_000_000).reshape(1000, 1000)
"""


@pytest.fixture(scope="module")
def sojourner() -> Iterator[sojourn.Client]:
    with stack() as client:
        yield client


@pytest.fixture(params=["process", "runc"])
def kernel(sojourner: sojourn.Client, request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    if request.param == "runc" and "runc" not in sojourner.nodes()[0].capabilities.sandboxes:
        pytest.skip("this machine has no runc sandboxes")
    manager, client = start_kernel(sandbox=request.param, needs="here")
    yield manager, client
    end_kernel(manager, client)


@pytest.fixture
def plain(sojourner: sojourn.Client) -> Iterator[tuple[Any, Any]]:
    manager, client = start_kernel(sandbox="process", needs="here")
    yield manager, client
    end_kernel(manager, client)


def move(sojourner: sojourn.Client, manager: Any, to: str, **how: Any) -> Any:
    return sojourner.move(session_of(manager), to, carrier="objects", wait="filled", **how)


def test_a_session_goes_there_and_back(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    execute(client, STATE)
    execute(client, "6 * 7")
    header = client.execute_interactive("pass")["header"]["session"]
    moved = move(sojourner, manager, "there")
    assert moved.session.node == "there"
    assert moved.move.strategy == "objects"
    assert moved.move.report.lost == ()
    assert execute(client, "alias is items, shifted(here).x, random.random() == expected") == "(True, 6, True)"
    assert execute(client, "int(table.sum()), Out[2], In[2]") == "(499999500000, 42, '6 * 7')"
    reply = client.execute_interactive("items.append(3)")
    assert (reply["header"]["session"], reply["content"]["execution_count"]) == (header, 6)
    assert move(sojourner, manager, "here").session.node == "here"
    assert execute(client, "alias, int(table[3, 5])") == "([1, 2, 3], 3005)"


def test_what_can_not_travel_is_refused_by_name_and_stays(sojourner: sojourn.Client, plain: tuple[Any, Any]) -> None:
    manager, client = plain
    execute(client, "lines = (n for n in range(9)); next(lines)\nkept = 5")
    with pytest.raises(Incompatible, match="lines: a running generator, created in cell 1") as refused:
        move(sojourner, manager, "there")
    assert "--drop lines" in refused.value.hint
    assert sojourner.session(session_of(manager)).node == "here"
    assert execute(client, "next(lines)") == "1"
    moved = move(sojourner, manager, "there", may_lose=("lines",))
    assert [lost.name for lost in moved.move.report.lost] == ["lines"]
    assert execute(client, "kept, 'lines' in globals()") == "(5, False)"


def test_cells_that_come_meanwhile_run_once_and_in_order(sojourner: sojourn.Client, plain: tuple[Any, Any]) -> None:
    manager, client = plain
    execute(client, "ran = []; ballast = [bytes(1000) for _ in range(100_000)]")
    asked: list[str] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            asked.append(client.execute(f"ran.append({len(asked)})"))
            time.sleep(0.02)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for to in ("there", "here", "there"):
            move(sojourner, manager, to)
    finally:
        stop.set()
        asking.join()
    replies = [client.get_shell_msg(timeout=20) for _ in asked]
    assert [reply["parent_header"]["msg_id"] for reply in replies] == asked
    assert {reply["content"]["status"] for reply in replies} == {"ok"}
    with contextlib.suppress(Exception):
        while client.get_iopub_msg(timeout=0.5):
            pass
    assert execute(client, f"ran == list(range({len(asked)}))") == "True"


def test_a_cell_says_where_it_runs(sojourner: sojourn.Client, plain: tuple[Any, Any]) -> None:
    """Plain processes can't travel by CRIU: auto chooses objects."""
    manager, client = plain
    execute(client, "x = 1")
    execute(client, "%%on there\nx += 1")
    assert sojourner.session(session_of(manager)).node == "there"
    assert execute(client, "x") == "2"


def test_a_running_cell_is_not_torn_apart(sojourner: sojourn.Client, plain: tuple[Any, Any]) -> None:
    manager, client = plain
    execute(client, "import time")
    running = client.execute("time.sleep(15); done = True")
    time.sleep(0.5)
    with pytest.raises(Busy):
        move(sojourner, manager, "there")
    assert client.get_shell_msg(timeout=20)["parent_header"]["msg_id"] == running
    assert execute(client, "done") == "True"


def test_a_move_that_fails_there_leaves_the_session_here(sojourner: sojourn.Client, plain: tuple[Any, Any]) -> None:
    manager, client = plain
    execute(client, "class Proud:\n    def __reduce__(self): return (eval, ('1/0 if len(In) > 1 and False else 1/0',))")
    execute(client, "proud = Proud(); other = 3")
    with pytest.raises(Exception, match="proud"):
        move(sojourner, manager, "there")
    assert sojourner.session(session_of(manager)).node == "here"
    assert execute(client, "other") == "3"
    execute(client, "del proud")
    assert move(sojourner, manager, "there").session.node == "there"
    assert execute(client, "other") == "3"
