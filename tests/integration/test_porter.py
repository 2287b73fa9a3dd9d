"""A namespace goes from kernel to kernel: real ones, in sandboxes of plain processes, and no agents between them."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient

from sojourn.agent.rider_line import answer_of
from sojourn.errors import Busy, Damaged, MoveFailed
from sojourn.front.connection import outer_connection
from sojourn.jupyter.kernel_session import kernel_spec
from sojourn.model import Luggage
from sojourn.movers.objects.porter_line import PorterLine
from sojourn.rider.build import build_rider
from sojourn.sandbox.base import SandboxPlan, make_sandbox
from sojourn.testing import execute
from sojourn.transport.lines import encode_line

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FILE = "/run/sojourn/connection.json"
START_SECONDS = 60


class Kernel:
    """A kernel with a porter, and a client of its own."""

    def __init__(self, folder: Path, rider: Path) -> None:
        connection = outer_connection()
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", FILE]
        spec = kernel_spec(argv, dict(os.environ), str(folder.parent), uuid.uuid4().hex)
        files = {**spec.files, FILE: json.dumps(connection.for_file())}
        spec = spec.model_copy(update={"files": files, "sandbox": "process"})
        plan = SandboxPlan(kind="process", node="n", session="s", incarnation=1, spec=spec, rider=str(rider))
        self.sandbox = make_sandbox(folder, plan)
        self.sandbox.create()
        self.sandbox.start()
        self.client = BlockingKernelClient()
        own = self.sandbox.folder / "files" / FILE.lstrip("/")  # with the ports that it was given
        self.client.load_connection_info(json.loads(own.read_text()))
        self.client.start_channels()

    def find_porter(self) -> socket.socket:
        connection = self.sandbox.connect()
        first = {"attach": "porter", "incarnation": 1, "epoch": 0, "secret": self.sandbox.secret}
        connection.sendall(encode_line(first))
        answer_of(connection)
        return connection

    def line(self) -> PorterLine:
        return PorterLine.to(self.find_porter, START_SECONDS)

    def run(self, code: str) -> str:
        return execute(self.client, code, timeout=20)

    def close(self) -> None:
        self.client.stop_channels()
        self.sandbox.remove()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Kernel]]:
    folder = tmp_path_factory.mktemp("k")
    rider = build_rider(folder)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Kernel(folder / uuid.uuid4().hex[:6], rider)))


@pytest.fixture(scope="module")
def kernel(start: Callable[[], Kernel]) -> Kernel:
    started = start()
    started.line().close()
    started.client.wait_for_ready(START_SECONDS)
    return started


def depart(line: PorterLine, *may_lose: str) -> Luggage:
    return Luggage.model_validate(line.ask("luggage", do="depart", may_lose=may_lose))


def test_what_a_notebook_has_made_is_in_the_other_kernel(kernel: Kernel, start: Callable[[], Kernel]) -> None:
    kernel.run("import math, random\nitems = [1]; alias = items\nclass Point:\n    x = 3\np = Point(); random.seed(7)")
    kernel.run("big = bytes(range(256)) * 100_000\ndef area(r): return math.pi * r**2 * p.x")
    kernel.run("6 * 7")
    other = start()
    with closing(kernel.line()) as here, closing(other.line()) as there:
        luggage = depart(here)
        arrived = there.arrive(here.sent())
        assert here.sent_bytes() > luggage.size_bytes > 25_000_000
    other.client.wait_for_ready(START_SECONDS)
    assert (
        other.run("alias is items, isinstance(p, Point), round(area(1), 3), len(big)")
        == "(True, True, 9.425, 25600000)"
    )
    assert other.run("_ is not None, [out for out in Out.values() if out == 42]") == "(True, [42])"
    assert other.run("len(In) > 4, get_ipython().execution_count > 4") == "(True, True)"
    assert arrived["notes"] == []
    resume(kernel)


def resume(kernel: Kernel) -> None:
    with closing(kernel.line()) as line:
        line.ask("goes_on", do="go_on")


def test_looking_changes_nothing_and_names_what_can_not_travel(kernel: Kernel) -> None:
    kernel.run("import threading\nlock = {'held': threading.Lock()}\nlock['held'].acquire()\nfree = 1")
    with closing(kernel.line()) as line:
        luggage = Luggage.model_validate(line.ask("luggage", do="look"))
    assert luggage.python == ".".join(map(str, sys.version_info[:2]))
    kernel.run("gen = (i for i in range(3)); next(gen)")
    with closing(kernel.line()) as line:
        luggage = Luggage.model_validate(line.ask("luggage", do="look"))
    (lost,) = [one for one in luggage.lost if one.name == "gen"]
    assert lost.why.startswith("a running generator, created in cell")
    assert kernel.run("next(gen); del gen; free") == "1"


def test_a_kernel_stands_still_until_it_is_told_to_go_on(kernel: Kernel) -> None:
    kernel.run("import time; began = time.monotonic()")
    line = kernel.line()
    depart(line, "*")
    for _ in line.sent():
        pass
    line.sent_bytes()
    waiting = kernel.client.execute("went_on = time.monotonic() - began")
    time.sleep(0.5)
    line.close()  # the agent has crashed: whether the target lives is not known here
    time.sleep(0.5)
    assert not kernel.client.shell_channel.msg_ready()
    resume(kernel)
    assert kernel.client.get_shell_msg(timeout=10)["parent_header"]["msg_id"] == waiting
    assert float(kernel.run("went_on")) > 0.9


def test_a_line_that_ends_before_all_was_sent_ends_the_standstill(kernel: Kernel) -> None:
    line = kernel.line()
    depart(line, "*")
    line.close()
    assert kernel.run("'still here'") == "'still here'"


def test_a_cell_that_runs_is_waited_for_or_refused(kernel: Kernel) -> None:
    kernel.run("import time")
    short = kernel.client.execute("time.sleep(0.5); ended = True")
    time.sleep(0.2)
    with closing(kernel.line()) as line:
        assert depart(line, "*").names
    assert kernel.client.get_shell_msg(timeout=10)["parent_header"]["msg_id"] == short
    kernel.client.execute("import asyncio; await asyncio.sleep(3)")
    time.sleep(0.3)
    with closing(kernel.line()) as line, pytest.raises(Busy, match="A cell is running"):
        depart(line, "*")
    kernel.client.get_shell_msg(timeout=10)
    assert kernel.run("ended") == "True"


@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_stream_that_is_not_what_was_sent_leaves_both_as_they_were(
    kernel: Kernel, start: Callable[[], Kernel], harm: str
) -> None:
    kernel.run("precious = list(range(100_000))")
    other = start()
    with closing(other.line()) as there:
        other.client.wait_for_ready(START_SECONDS)
        other.run("own = 1")
        line = kernel.line()
        depart(line, "*")
        frames: list[Any] = list(line.sent())
        if harm == "altered":
            frames[-1] = frames[-1][:-100] + bytes([frames[-1][-100] ^ 1]) + frames[-1][-99:]
        else:
            frames = [*frames[:-1], frames[-1][:-100]]
        with pytest.raises((Damaged, MoveFailed)):
            there.arrive(frames)
        line.close()
    assert other.run("own, 'precious' in globals()") == "(1, False)"
    resume(kernel)
    assert kernel.run("len(precious)") == "100000"


def test_names_that_are_given_up_stay_behind_and_are_told(kernel: Kernel) -> None:
    kernel.run("temporary = [0] * 1000; gen = (i for i in range(3)); next(gen)")
    line = kernel.line()
    lost = {one.name: one.why for one in depart(line, "temporary").lost}
    line.close()
    assert lost["temporary"] == "left behind, as asked"
    assert "gen" in lost  # for whoever asked to say whether that is all right
    assert kernel.run("len(temporary)") == "1000"
