"""A laptop is closed while cells run on a server: its programs stand still, and its cable is out. When it is opened
again, what was printed meanwhile is there: all of it, or what the server keeps and then a word that there was more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.cables import CabledParts, cabled, why_no_cables

from sojourn.testing.parts import until

PROGRAM = str(Path(__file__).with_name("laptop.py"))
SECONDS = float(os.environ.get("SOJOURN_TEST_LID_SECONDS", "26"))
"""How long the lid is closed: longer than anybody believes in a connection that says nothing."""
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(155 + SECONDS)]
SPOOLED_BYTES = 10 << 20
"""Printed meanwhile by the one: more than a rider keeps in memory, and less than on disk."""
BURST = 300
"""Megabytes printed at once by the other, when nobody believes in the connection any more: more than is kept."""

PRINT = """
import time
from itertools import count
numbers, began = count(1), time.monotonic()
def say(size, until):
    while time.monotonic() < began + until:
        print(next(numbers), "x" * size, flush=True)
        time.sleep(0.02)
"""
STEADY = f"{PRINT}\nsay({SPOOLED_BYTES / SECONDS / 50:.0f}, {SECONDS + 3})"
PROLIFIC = f"""{PRINT}
say(10, {SECONDS - 2})
for _ in range({BURST}):
    print(next(numbers), "x" * {1 << 20}, flush=True)
"""


class Laptop:
    """Programs on a machine that can be closed."""

    def __init__(self, parts: CabledParts, machine: str) -> None:
        self._parts, self._machine = parts, machine

    def work(self, name: str, code: str) -> subprocess.Popen[bytes]:
        argv = (sys.executable, PROGRAM, "server", code, str(self._file(name)))
        with (self._parts.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(self._parts.network.inside(self._machine, *argv), stdout=log, stderr=log)

    def report(self, name: str) -> dict[str, Any]:
        """What the person has seen; nothing before there is any."""
        file = self._file(name)
        seen: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return seen

    def close(self) -> None:
        self._parts.network.pull(self._machine)
        self._send(signal.SIGSTOP)

    def open(self) -> None:
        self._parts.network.put_back(self._machine)
        self._send(signal.SIGCONT)

    def _send(self, signum: int) -> None:
        for process in self._parts.network.processes(self._machine):
            process.send_signal(signum)

    def _file(self, name: str) -> Path:
        return self._parts.folder / f"{name}.json"


def test_what_was_printed_while_a_laptop_was_closed_is_there_when_it_is_opened() -> None:
    if reason := why_no_cables():
        pytest.skip(reason)
    with cabled({"controller": "server", "server": "server"}, "laptop") as parts, ExitStack() as stack:
        stack.callback(lambda: print(parts.log()))  # shown when the test has failed
        laptop, network = Laptop(parts, "laptop"), parts.network
        people = [laptop.work("steady", STEADY), laptop.work("prolific", PROLIFIC)]
        for name in ("steady", "prolific"):
            until(lambda name=name: laptop.report(name), f"the first lines of {name}")

        laptop.close()
        began = time.monotonic()
        until(lambda: not network.connected("server", "laptop"), "the server to let go")
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        laptop.open()
        for person in people:
            assert person.wait(60) == 0

        steady, prolific = laptop.report("steady"), laptop.report("prolific")
        assert (steady["ended"], steady["out_of_order"], steady["said"]) == ("ok", [], [])
        assert (prolific["ended"], prolific["out_of_order"]) == ("ok", [])
        ((last, notice),) = prolific["said"]
        assert "output truncated here" in notice
        assert last == prolific["lines"]
