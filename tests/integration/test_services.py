"""An agent in the background, where there is no systemd: it is started again, and ended with all that it kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sojourn.errors import Busy, Unknown
from sojourn.hosts import service
from sojourn.settings import write_private
from sojourn.testing.parts import until

pytestmark = pytest.mark.integration


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.setattr(service, "fitting", service.Background)
    yield tmp_path
    service.Background().stop("gpu1")


AGENT = "print('I am an agent', flush=True); import time; time.sleep(60)"


def test_an_agent_in_the_background_is_started_again_and_leaves_nothing(home):
    folder, nodes = service.folder("gpu1"), home / "data/nodes/gpu1"
    card = {"argv": [sys.executable, "-c", AGENT], "folder": str(nodes)}
    write_private(folder / "service.json", card)
    assert "nothing does so after a reboot" in service.Background().start("gpu1", [])
    first = until(lambda: "I am an agent" in service.log("gpu1") and agent(folder), "the agent")
    os.kill(first, signal.SIGKILL)
    second = until(lambda: (now := agent(folder)) != first and now, "the next one")
    until(lambda: service.log("gpu1").count("I am an agent") == 2, "what both say")

    (nodes / "sandboxes/s.1").mkdir(parents=True)
    with pytest.raises(Busy, match=r"s\.1"):
        service.uninstall("gpu1")
    assert is_alive(second)
    (nodes / "sandboxes/s.1").rmdir()
    service.uninstall("gpu1")
    assert not is_alive(second)
    assert list(home.rglob("*")) == []
    with pytest.raises(Unknown, match="No agent 'gpu1'"):
        service.uninstall("gpu1")


def test_an_agent_that_lost_its_supervisor_is_ended_too(home):
    write_private(service.folder("gpu1") / "service.json", {"argv": [], "folder": str(home / "nodes")})
    with subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.DEVNULL) as orphan:
        service._note("gpu1", "agent", orphan.pid)
        service.Background().stop("gpu1")
        assert orphan.wait(5) == -signal.SIGTERM


def agent(folder: Path) -> int:
    """Its number; 0: there is none yet."""
    with suppress(FileNotFoundError):
        return int(json.loads((folder / "agent.json").read_text())["pid"])
    return 0


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
