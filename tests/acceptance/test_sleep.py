"""Kernels that sleep and wake under their clients, and that are branched: runc, CRIU, a store, a Jupyter Server."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from test_jupyter_server import Server, ask, kernel_on, listen, run

import sojourn
from sojourn import embedded
from sojourn.errors import Unknown
from sojourn.front.client import FrontClient, ensure
from sojourn.model import SessionStatus
from sojourn.testing import execute, session_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

NO_HISTORY = "get_ipython().history_manager.enabled = False"
"""IPython keeps its history in the home folder, which both branches share, and says so in the middle of a cell."""
SETTLED_SECONDS = 2.0
"""Longer than whatever a client sends by itself takes to wake somebody."""


def front() -> FrontClient:
    return ensure(embedded.ensure())


def suspend(sojourner: sojourn.Client, session: str) -> None:
    """By force: the end of the last cell may not have been told yet."""
    assert sojourner.suspend(session, force=True).status is SessionStatus.SUSPENDED
    until(lambda: front().kernel(session).status is SessionStatus.SUSPENDED)


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def client_of(connection: dict[str, Any]) -> BlockingKernelClient:
    client = BlockingKernelClient()
    client.load_connection_info({**connection, "key": connection["key"].encode()})
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client


Attached = tuple[KernelManager, BlockingKernelClient]


def test_a_client_stays_attached_and_a_cell_wakes_its_kernel(sojourner: sojourn.Client, kernel: Attached) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "import itertools; count = itertools.count(); next(count)")
    suspend(sojourner, session)
    assert manager.is_alive()
    assert client.hb_channel.is_beating()
    client.kernel_info()
    assert client.get_shell_msg(timeout=10)["content"]["implementation"] == "ipython"
    newcomer = client_of(manager.get_connection_info() | {"key": manager.session.key.decode()})
    newcomer.stop_channels()
    time.sleep(SETTLED_SECONDS)
    assert sojourner.session(session).status is SessionStatus.SUSPENDED
    asked = [client.execute(f"print({number}, next(count))") for number in range(3)]
    assert [said(client, one) for one in asked] == ["0 1\n", "1 2\n", "2 3\n"]
    assert sojourner.session(session).status in (SessionStatus.FILLING, SessionStatus.RUNNING)


def said(client: BlockingKernelClient, asked: str) -> str:
    heard = ""
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "stream":
            heard += message["content"]["text"]
        if message["content"].get("execution_state") == "idle":
            return heard


def test_a_cell_wakes_it_where_it_wants_to_run(sojourner: sojourn.Client, kernel: Attached) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "x = 1")
    away = "there" if sojourner.session(session).node == "here" else "here"
    suspend(sojourner, session)
    moves = len(sojourner.moves())
    assert execute(client, f"%%on {away}\nprint(x + 1)") == "2"
    assert sojourner.session(session).node == away
    assert len(sojourner.moves()) == moves, "it woke there"


def test_a_cell_that_was_frozen_in_its_middle_goes_on(sojourner: sojourn.Client, kernel: Attached) -> None:
    manager, client = kernel
    session = session_of(manager)
    code = "import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.05)"
    asked = client.execute(code)
    while (message := client.get_iopub_msg(timeout=20))["msg_type"] != "stream":
        pass
    suspend(sojourner, session)
    time.sleep(SETTLED_SECONDS)
    assert sojourner.session(session).status is SessionStatus.SUSPENDED
    sojourner.resume(session)
    assert message["content"]["text"] + said(client, asked) == "".join(f"{number}\n" for number in range(40))


def test_timers_fire_once_and_the_wall_clock_is_right(sojourner: sojourn.Client, kernel: Attached) -> None:
    manager, client = kernel
    session, began = session_of(manager), time.monotonic()
    execute(
        client,
        "import asyncio, signal, threading, time\nfired = []\n"
        "signal.signal(signal.SIGALRM, lambda *_: fired.append('signal'))\nsignal.setitimer(signal.ITIMER_REAL, 2)\n"
        "threading.Timer(2, fired.append, ['thread']).start()\n"
        "asyncio.get_running_loop().call_later(2, fired.append, 'loop')\nsteady = time.monotonic()",
    )
    suspend(sojourner, session)
    time.sleep(2.5)
    assert execute(client, "await asyncio.sleep(2.5); print(sorted(fired))").strip() == "['loop', 'signal', 'thread']"
    wall = float(execute(client, "print(time.time())"))
    assert abs(wall - time.time()) < 2
    awake = float(execute(client, "print(time.monotonic() - steady)"))
    assert 2.5 < awake < time.monotonic() - began - 2, "the monotonic clock does not count the sleep"


def test_a_shutdown_in_its_sleep_discards_it(sojourner: sojourn.Client, kernel: Attached) -> None:
    manager, _ = kernel
    session = session_of(manager)
    suspend(sojourner, session)
    began = time.monotonic()
    manager.shutdown_kernel()
    assert time.monotonic() - began < manager.shutdown_wait_time, "it was not waited for in vain"
    until(lambda: sojourner.session(session).status is SessionStatus.STOPPED)
    with pytest.raises(Unknown):
        front().kernel(session)


def test_a_restart_in_its_sleep_comes_up_fresh(sojourner: sojourn.Client, kernel: Attached) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "x = 1")
    suspend(sojourner, session)
    manager.restart_kernel()
    client.wait_for_ready(timeout=60)
    assert execute(client, "print('x' in globals())") == "False"
    assert session_of(manager) == session


def test_an_older_state_says_so(sojourner: sojourn.Client, kernel: Attached) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, f"{NO_HISTORY}; x = 'before'")
    sojourner.checkpoint(session, name="first")
    execute(client, "x = 'after'")
    sojourner.restore(session, "first")
    asked = client.execute("print(x)")
    assert "goes on from its state of 2" in (heard := said(client, asked))
    assert "before\n" in heard
    assert execute(client, "print(x)") == "before", "it is said once"


@pytest.fixture
def forked(sojourner: sojourn.Client, kernel: Attached) -> Iterator[tuple[str, str, BlockingKernelClient]]:
    """The session, its fork, and a client of the fork."""
    manager, client = kernel
    session = session_of(manager)
    execute(client, f"{NO_HISTORY}\nx = 1\nopen('/tmp/mine', 'w').write('origin')")
    (fork,) = sojourner.fork(session)
    second = client_of(front().adopt(fork.id, embedded.ensure()).connection)
    yield session, fork.id, second
    second.stop_channels()
    front().close(fork.id)


def test_a_fork_is_a_second_kernel_with_a_state_of_its_own(
    sojourner: sojourn.Client, kernel: Attached, forked: tuple[str, str, BlockingKernelClient]
) -> None:
    manager, client = kernel
    session, fork, second = forked
    assert execute(second, "x += 1\nopen('/tmp/mine', 'w').write('fork')\nprint(x)") == "2"
    assert execute(client, "print(x, open('/tmp/mine').read())") == "1 origin"
    assert execute(second, "print(open('/tmp/mine').read())") == "fork"
    assert sojourner.session(fork).origin == session
    view = front().kernel(fork)
    assert view.connection["key"] != manager.session.key.decode()
    suspend(sojourner, fork)
    assert execute(client, "print(x)") == "1"
    assert execute(second, "print(x)") == "2"


# ── under a Jupyter Server, as browsers use it ──


@pytest.fixture
def server(tmp_path: Path, sojourner: sojourn.Client) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.end()
    for view in sojourner.sessions():
        sojourner.stop(view.id)
    until(lambda: not sojourner.sessions())


def opened(channels: Any) -> None:
    """What a browser sends by itself when it opens a notebook, each answered or not."""
    for channel, kind, content in (
        ("shell", "kernel_info_request", {}),
        ("shell", "comm_info_request", {"target_name": "jupyter.widget"}),
        ("control", "create_subshell_request", {}),
        ("shell", "comm_open", {"comm_id": "c", "target_name": "jupyter.widget.control", "data": {}}),
        ("shell", "comm_msg", {"comm_id": "c", "data": {"method": "request_states"}}),
        ("control", "debug_request", {"seq": 1, "type": "request", "command": "debugInfo", "arguments": {}}),
        ("control", "usage_request", {}),
        ("shell", "complete_request", {"code": "pri", "cursor_pos": 3}),
        ("shell", "comm_close", {"comm_id": "c", "data": {}}),
    ):
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "username": "", "session": "t", "version": "5.3"}
        body = {"channel": channel, "header": header, "parent_header": {}, "metadata": {}, "content": content}
        channels.send(json.dumps(body | {"buffers": []}))


def test_opening_a_notebook_and_leaving_the_tab_open_wake_nobody(server: Server, sojourner: sojourn.Client) -> None:
    kernel = kernel_on(server)
    with server.channels(kernel) as tab:
        run(tab, "x = 41")
        (session,) = [view.id for view in sojourner.sessions()]
        suspend(sojourner, session)
        with server.channels(kernel) as another:
            opened(another)
            heard = set()
            while not {"kernel_info_reply", "comm_info_reply", "debug_reply", "usage_reply", "complete_reply"} <= heard:
                heard.add(json.loads(another.recv(timeout=20))["msg_type"])
        time.sleep(SETTLED_SECONDS)
        assert server.http.get(f"/api/kernels/{kernel}").json()["execution_state"] == "idle"
        assert sojourner.session(session).status is SessionStatus.SUSPENDED
        assert listen(tab, ask(tab, "print(x + 1)")) == "42\n"


def test_a_server_that_starts_anew_opens_a_kernel_that_sleeps(
    server: Server, sojourner: sojourn.Client, tmp_path: Path
) -> None:
    with server.channels(kernel_on(server)) as tab:
        run(tab, "x = 41")
    (session,) = [view.id for view in sojourner.sessions()]
    suspend(sojourner, session)
    server.end()
    again = Server(tmp_path / "again")
    try:
        until(lambda: bool(again.http.get("/api/kernels").json()))
        (found,) = again.http.get("/api/kernels").json()
        with again.channels(found["id"]) as tab:
            assert sojourner.session(session).status is SessionStatus.SUSPENDED
            assert run(tab, "print(x + 1)") == "42"
    finally:
        again.end()
