from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sojourn.agent import vigil
from sojourn.agent.vigil import until_ended


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


async def test_the_end_of_a_process_is_noticed_at_once() -> None:
    process = sleeper()
    watching = asyncio.create_task(until_ended(process.pid, lambda: process.poll() is None))
    await asyncio.sleep(0.05)
    assert not watching.done()
    process.kill()
    await asyncio.wait_for(watching, 5)
    process.wait()


async def test_a_process_that_is_gone_is_not_waited_for() -> None:
    process = sleeper()
    process.kill()
    process.wait()
    await asyncio.wait_for(until_ended(process.pid, lambda: True), 5)


async def test_a_number_given_to_another_process_is_not_waited_for() -> None:
    await asyncio.wait_for(until_ended(os.getpid(), lambda: False), 5)


async def test_without_pidfd_it_asks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr("sojourn.agent.vigil._POLL_SECONDS", 0.01)
    answers = iter([True, True, False])
    alive: Callable[[], bool] = lambda: next(answers)  # noqa: E731
    await asyncio.wait_for(until_ended(os.getpid(), alive), 5)
    assert list(answers) == []


def test_a_cgroup_that_goes_while_it_is_looked_at_is_no_obstacle(tmp_path: Path) -> None:
    assert vigil._text(tmp_path / "memory.events") == ""
