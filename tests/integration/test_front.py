"""The front as a program: real anchors, tunnels, riders and kernels; the controller is a toy."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from toy_controller import Session, ToyController

from sojourn.errors import Busy, Invalid, MoveFailed, Unknown, WakeFailed
from sojourn.front.client import FrontClient, ensure, front_folder
from sojourn.front.connection import Connection, inner_connection
from sojourn.front.host import INNER_FILE, told_where
from sojourn.front.words import Card
from sojourn.model import Program, SessionSpec, SessionStatus

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the toy controller freezes by /proc"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = os.environ.get("SOJOURN_HOME")
    folder = tmp_path_factory.mktemp("home")
    os.environ["SOJOURN_HOME"] = str(folder)
    yield folder
    os.environ.pop("SOJOURN_HOME")
    if before is not None:
        os.environ["SOJOURN_HOME"] = before


@pytest.fixture(scope="module")
def controller(home: Path) -> Iterator[ToyController]:
    made = ToyController(home)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hosting(controller: ToyController) -> Iterator[None]:
    """A front runs until the last test has ended."""
    ensure(controller.address)
    yield
    os.kill(card().pid, signal.SIGTERM)
    _eventually(lambda: not (front_folder() / "front.json").exists())


def card() -> Card:
    return Card.model_validate_json((front_folder() / "front.json").read_bytes())


class Kernel:
    """One hosted kernel and a client of it."""

    def __init__(self, controller: ToyController, front: FrontClient) -> None:
        self.controller, self.front = controller, front
        blank = Connection(key="k", shell_port=0, iopub_port=0, stdin_port=0, control_port=0, hb_port=0)
        self.connection = inner_connection(blank).for_file()
        self.id = front.open(spec(), self.connection, "python", 30)
        self.client = client_of(self.connection)

    @property
    def session(self) -> Session:
        return self.controller.sessions[self.id]

    def run(self, code: str, **how: Any) -> str:
        return run(self.client, code, **how)


def spec() -> SessionSpec:
    argv = (
        sys.executable,
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
        "--HistoryManager.hist_file=:memory:",
    )
    return SessionSpec(program=Program(argv=argv, env=dict(os.environ), cwd="/"))


def client_of(connection: dict[str, Any]) -> BlockingKernelClient:
    client = BlockingKernelClient()
    client.load_connection_info({**connection, "key": connection["key"].encode()})
    client.start_channels()
    client.wait_for_ready(timeout=30)
    return client


def run(client: BlockingKernelClient, code: str, **how: Any) -> str:
    """What a cell printed and, if it failed, the name and the text of its error."""
    heard: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            heard.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hear, timeout=30, **how)["content"]
    return "".join(heard) + (f"{reply['ename']}: {reply['evalue']}" if reply["status"] == "error" else "")


@pytest.fixture
def kernel(controller: ToyController, hosting: None) -> Iterator[Kernel]:
    controller.asked.clear()
    controller.woken.clear()
    controller.moves, controller.wakes = controller.arrive, controller.wake
    made = Kernel(controller, ensure(controller.address))
    yield made
    made.client.stop_channels()
    if any(one.session == made.id for one in made.front.kernels()):
        made.front.close(made.id)


def test_a_kernel_runs_and_ends(kernel: Kernel) -> None:
    assert kernel.run("print(6 * 7)") == "42\n"
    view = kernel.front.kernel(kernel.id)
    assert (view.running, view.status, view.node, view.attached) == (True, SessionStatus.RUNNING, "here", 1)
    kernel.front.close(kernel.id)
    assert kernel.session.view.status is SessionStatus.STOPPED
    with pytest.raises(Unknown):
        kernel.front.kernel(kernel.id)


def test_an_exit_is_told_and_the_program_can_be_started_again(kernel: Kernel) -> None:
    kernel.run("x = 1")
    kernel.client.execute("import os; os._exit(3)")
    _eventually(lambda: not kernel.front.kernel(kernel.id).running)
    assert kernel.front.kernel(kernel.id).exit_code == 3
    kernel.front.start(kernel.id, spec().program, kernel.connection)
    assert kernel.front.kernel(kernel.id).running
    kernel.client.wait_for_ready(timeout=20)
    assert kernel.run("x") == "NameError: name 'x' is not defined"


def test_a_program_that_cannot_start_says_why(kernel: Kernel) -> None:
    kernel.front.start(kernel.id, Program(argv=("/no/such/program", "{connection_file}")))
    _eventually(lambda: not kernel.front.kernel(kernel.id).running)
    view = kernel.front.kernel(kernel.id)
    assert (view.exit_code, "/no/such/program" in view.reason) == (127, True)


def test_a_restart_may_ask_for_other_ports(kernel: Kernel) -> None:
    other = inner_connection(Connection(**kernel.connection)).for_file()
    kernel.front.start(kernel.id, None, other)
    client = client_of(other)
    assert run(client, "print('elsewhere')") == "elsewhere\n"
    client.stop_channels()
    with pytest.raises(Invalid):
        kernel.front.start(kernel.id, None, {**other, "key": "another"})


def test_signals_interrupt_and_kill(kernel: Kernel) -> None:
    asked = kernel.client.execute("import time; time.sleep(60)")
    _wait_for_input(kernel.client, asked)
    time.sleep(0.2)
    kernel.front.signal(kernel.id, signal.SIGINT)
    assert _reply_to(kernel.client, asked)["ename"] == "KeyboardInterrupt"
    kernel.front.signal(kernel.id, signal.SIGKILL)
    _eventually(lambda: kernel.front.kernel(kernel.id).exit_code == -9)


def test_a_cell_moves_its_session_and_goes_on(kernel: Kernel) -> None:
    kernel.run("x = 1")
    assert kernel.run("%%on there\nprint(x)") == "1\n"
    assert kernel.controller.asked == ["there"]
    assert kernel.session.view.node == "there"
    assert kernel.run("%%on here --return\nprint(x + 1)") == "2\n"
    assert kernel.run("print('back')") == "back\n"
    assert kernel.controller.asked == ["there", "here", "there"]


def test_output_goes_on_in_order_over_moves(kernel: Kernel) -> None:
    asked = kernel.client.execute("for i in range(3000): print(i, flush=True)")
    for place in ("there", "here", "there"):
        time.sleep(0.1)
        kernel.controller.arrive(kernel.session, place)
    lines = _output_of(kernel.client, asked)
    assert lines == "".join(f"{number}\n" for number in range(3000))


def test_a_busy_session_is_asked_again(kernel: Kernel) -> None:
    refusals = [Busy("Session is filling."), Busy("Session is filling.")]

    def moves(session: Session, place: str) -> None:
        if refusals:
            raise refusals.pop()
        kernel.controller.arrive(session, place)

    kernel.controller.moves = moves
    assert kernel.run("%%on there\nprint('there')") == "there\n"
    assert kernel.controller.asked == ["there"] * 3


def test_a_refused_move_is_told(kernel: Kernel) -> None:
    def moves(session: Session, place: str) -> None:
        raise MoveFailed("The wire is cut.", "Mend it.")

    kernel.controller.moves = moves
    assert kernel.run("%%on there\n1") == "MoveFailed: The wire is cut."
    assert kernel.run("print('alive')") == "alive\n"


def test_a_frozen_kernel_is_killed_without_waiting_for_it(kernel: Kernel) -> None:
    kernel.controller.freeze(kernel.session)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.MOVING)
    kernel.front.signal(kernel.id, signal.SIGKILL)
    assert kernel.front.kernel(kernel.id).exit_code == -9
    kernel.controller.thaw(kernel.session)
    kernel.front.start(kernel.id)
    kernel.client.wait_for_ready(timeout=20)


def test_a_rollback_answers_what_was_pending(kernel: Kernel) -> None:
    asked = kernel.client.execute("import time; time.sleep(1)")
    _wait_for_input(kernel.client, asked)
    kernel.controller.freeze(kernel.session)
    kernel.controller.thaw(kernel.session, "here", epoch=1)
    assert _reply_to(kernel.client, asked)["ename"] == "MoveFailed"
    time.sleep(1)
    assert kernel.run("print('goes on')") == "goes on\n"


def test_a_lost_session_is_a_dead_kernel(kernel: Kernel) -> None:
    asked = kernel.client.execute("import time; time.sleep(60)")
    _wait_for_input(kernel.client, asked)
    kernel.controller.change(kernel.session, status=SessionStatus.LOST, reason="node here died")
    reply = _reply_to(kernel.client, asked)
    assert (reply["ename"], "node here died" in reply["evalue"]) == ("SessionLost", True)
    view = kernel.front.kernel(kernel.id)
    assert (view.running, view.exit_code, view.reason) == (False, -9, "node here died")


def test_a_kernel_without_clients_ends_with_its_lease(kernel: Kernel) -> None:
    kernel.front.lease(kernel.id, 0.1)
    time.sleep(1.5)
    assert kernel.front.kernel(kernel.id).running, "a client is attached"
    kernel.client.stop_channels()
    _eventually(lambda: kernel.session.view.status is SessionStatus.STOPPED)


def test_a_new_front_takes_up_what_a_killed_one_left(kernel: Kernel) -> None:
    kernel.run("x = 'kept'")
    running = kernel.client.execute("import time; time.sleep(8); x")
    queued = kernel.client.execute("y = x")
    _wait_for_input(kernel.client, running)
    kernel.front = _replace_front(kernel)
    assert [one.session for one in kernel.front.kernels()] == [kernel.id]
    assert _reply_to(kernel.client, running)["status"] == "ok"
    assert _reply_to(kernel.client, queued)["status"] == "ok"
    assert kernel.run("print(y)") == "kept\n"


def test_a_reply_that_was_lost_with_a_front_is_an_explicit_error(kernel: Kernel) -> None:
    held = client_of(kernel.connection)
    asked = kernel.client.execute("import time; time.sleep(0.7); x = 'ran'")
    _wait_for_input(kernel.client, asked)
    never = held.execute("%%on there\nx = 'too'")
    time.sleep(0.2)
    kernel.front = _replace_front(kernel, pause=1)
    assert _reply_to(kernel.client, asked)["ename"] == "Unreachable"
    assert _reply_to(held, never)["traceback"][-1] == "The cell did not run."
    held.stop_channels()
    assert kernel.run("print(x)") == "ran\n"


def _replace_front(kernel: Kernel, pause: float = 0) -> FrontClient:
    """Kill the front, and start another one after a while."""
    old = card().pid
    os.kill(old, signal.SIGKILL)
    _eventually(lambda: not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE)
    time.sleep(pause)
    front = ensure(kernel.controller.address)
    assert card().pid != old
    return front


def test_a_cell_wakes_a_sleeping_kernel_and_looking_at_it_does_not(kernel: Kernel) -> None:
    kernel.run("x = 1")
    kernel.controller.sleep(kernel.session)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    assert kernel.front.kernel(kernel.id).running
    other = client_of(kernel.connection)
    assert other.hb_channel.is_beating()
    other.stop_channels()
    assert kernel.controller.woken == []
    assert kernel.run("print(x)") == "1\n"
    assert kernel.controller.woken == [None]
    assert kernel.session.view.status is SessionStatus.RUNNING


def test_a_new_front_answers_for_a_kernel_that_sleeps(kernel: Kernel) -> None:
    kernel.run("x = 1")
    kernel.controller.sleep(kernel.session)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    kernel.front = _replace_front(kernel)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    other = client_of(kernel.connection)
    assert _reply_to(other, other.kernel_info())["implementation"] == "ipython"
    assert kernel.controller.woken == []
    assert run(other, "print(x)") == "1\n"
    other.stop_channels()


def test_a_kernel_that_wakes_in_an_older_state_says_so(kernel: Kernel) -> None:
    kernel.run("x = 1")
    kernel.controller.sleep(kernel.session)
    kernel.controller.wakes = lambda session: kernel.controller.wake(session, epoch=1)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    said = kernel.run("print(x)")
    assert "goes on from its state of 1979-12-" in said
    assert said.endswith("]\n1\n")
    assert kernel.run("print(x)") == "1\n"


def test_a_wake_that_fails_is_the_error_of_the_cell(kernel: Kernel) -> None:
    def wakes(session: Session) -> None:
        raise WakeFailed("Checkpoint c is damaged.")

    kernel.controller.sleep(kernel.session)
    kernel.controller.wakes = wakes
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    assert kernel.run("1") == "WakeFailed: Checkpoint c is damaged."
    kernel.controller.wakes = kernel.controller.wake
    assert kernel.run("print('awake')") == "awake\n"


def test_a_restart_in_its_sleep_comes_up_fresh(kernel: Kernel) -> None:
    kernel.run("x = 1")
    kernel.controller.sleep(kernel.session)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    kernel.front.signal(kernel.id, signal.SIGTERM)
    assert kernel.front.kernel(kernel.id).exit_code == -15, "nobody waits for a program that sleeps"
    assert kernel.controller.woken == []
    kernel.front.start(kernel.id)
    assert kernel.run("x") == "NameError: name 'x' is not defined"
    assert set(kernel.controller.woken) == {None}


def test_a_shutdown_in_its_sleep_ends_the_session(kernel: Kernel) -> None:
    kernel.controller.sleep(kernel.session)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    kernel.client.shutdown()
    assert kernel.client.get_control_msg(timeout=10)["content"]["status"] == "ok"
    _eventually(lambda: kernel.session.view.status is SessionStatus.STOPPED)
    assert not kernel.front.kernel(kernel.id).running
    assert kernel.controller.woken == []


def test_the_lease_of_a_kernel_stands_still_in_its_sleep(kernel: Kernel) -> None:
    kernel.controller.sleep(kernel.session)
    _eventually(lambda: kernel.front.kernel(kernel.id).status is SessionStatus.SUSPENDED)
    kernel.client.stop_channels()
    kernel.front.lease(kernel.id, 0.1)
    time.sleep(2.5)
    assert kernel.session.view.status is SessionStatus.SUSPENDED


def test_the_controller_hears_of_what_a_kernel_does(kernel: Kernel) -> None:
    kernel.controller.active.clear()
    kernel.run("import time; time.sleep(0.7)")
    _eventually(lambda: kernel.controller.active == [True, False])


def test_a_kernel_that_runs_already_is_adopted(kernel: Kernel, controller: ToyController) -> None:
    inner = inner_connection(Connection(**kernel.connection)).model_copy(update={"key": "its origin's"})
    there = controller.begin(told_where(spec(), {INNER_FILE: inner.model_dump_json(exclude_none=True)}))
    adopted = kernel.front.adopt(there.id, controller.address)
    assert kernel.front.adopt(there.id, controller.address).connection == adopted.connection
    assert adopted.connection["key"] not in ("its origin's", kernel.connection["key"])
    client = client_of(adopted.connection)
    assert run(client, "print('adopted')") == "adopted\n"
    client.stop_channels()
    file = json.loads((front_folder() / "connections" / f"kernel-{there.id}.json").read_text())
    assert file == {"kernel_name": "sojourn", **adopted.connection}
    kernel.front = _replace_front(kernel)
    again = client_of(kernel.front.kernel(there.id).connection)
    assert run(again, "print('again')") == "again\n"
    again.stop_channels()
    kernel.front.close(there.id)
    with pytest.raises(Unknown):
        kernel.front.adopt("nobody", controller.address)


def test_a_kernel_that_is_adopted_twice_at_once_is_hosted_once(kernel: Kernel, controller: ToyController) -> None:
    inner = inner_connection(Connection(**kernel.connection))
    there = controller.begin(told_where(spec(), {INNER_FILE: inner.model_dump_json(exclude_none=True)}))
    with ThreadPoolExecutor(4) as several:
        adopted = list(several.map(lambda _: kernel.front.adopt(there.id, controller.address), range(4)))
    assert len({one.connection["key"] for one in adopted}) == 1
    kernel.front.close(there.id)


def test_files_of_the_front_are_private(kernel: Kernel) -> None:
    folder = front_folder()
    for path in (folder / "front.json", folder / "connections" / f"kernel-{kernel.id}.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert httpx.get(f"{card().url}/kernels", trust_env=False).status_code == 401


def _output_of(client: BlockingKernelClient, asked: str) -> str:
    heard = []
    while True:
        message = client.get_iopub_msg(timeout=20)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "stream":
            heard.append(message["content"]["text"])
        elif message["content"].get("execution_state") == "idle":
            client.get_shell_msg(timeout=10)
            return "".join(heard)


def _reply_to(client: BlockingKernelClient, asked: str) -> dict[str, Any]:
    while True:
        message = client.get_shell_msg(timeout=10)
        if message["parent_header"].get("msg_id") == asked:
            return dict(message["content"])


def _wait_for_input(client: BlockingKernelClient, asked: str) -> None:
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["msg_type"] == "execute_input" and message["parent_header"]["msg_id"] == asked:
            return


def _eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
