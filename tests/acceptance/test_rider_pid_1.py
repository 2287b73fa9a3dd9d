"""The rider as the first process of namespaces of its own, which needs root."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn.rider.build import build_rider

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"),
        reason="needs Linux, root and unshare",
    ),
]

FAMILY = "(sleep 0.2 &); setsid sleep 1000 & echo $(id -u) $(id -g); exec sleep 1000"
"""A child in a session of its own, and an orphan that soon is a zombie unless the rider reaps it."""


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Box:
    def __init__(self, folder: Path) -> None:
        self.name = f"sojourn-test-{os.getpid()}"
        self.log = folder / "log"
        config = {
            "session": "s1",
            "listen": f"@{self.name}",
            "secret": None,
            "announce": str(folder / "address"),
            "socket": str(folder / "verbs"),
            "program": {
                "env": {"PATH": os.environ["PATH"]},
                "argv": ["/bin/sh", "-c", FAMILY],
                "uid": 65534,
                "gid": 65534,
            },
            "autostart": True,
            "spool": {"folder": str(folder / "spool"), "memory_bytes": 1, "disk_bytes": 1},
            "log": str(self.log),
        }
        (folder / "config.json").write_text(json.dumps(config))
        rider = [sys.executable, "-I", "-S", str(build_rider(folder)), str(folder / "config.json")]
        self.process = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--", *rider])
        wait_for((folder / "address").exists)
        self.rider = children(self.process.pid)[0]

    def control(self) -> Any:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"\0{self.name}")
        connection.settimeout(20)
        connection.sendall(b'{"attach": "control", "incarnation": 1, "epoch": 0}\n')
        return connection.makefile("rwb", buffering=0)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.process.kill()
    box.process.wait(20)


def test_it_reaps_orphans_and_kills_everything_and_starts_again(box: Box) -> None:
    wait_for(lambda: box.log.exists() and box.log.read_text() == "65534 65534\n")
    assert len(children(box.rider)) == 2, "the program and the orphan"
    with box.control() as control:
        assert json.loads(control.readline()) == {"ok": True, "incarnation": 1}
        assert json.loads(control.readline())["running"]
        wait_for(lambda: len(children(box.rider)) == 1)
        control.write(b'{"do": "kill"}\n')
        assert json.loads(control.readline())["code"] == -9
        wait_for(lambda: children(box.rider) == [])
        control.write(b'{"do": "start", "program": null}\n')
        assert json.loads(control.readline())["event"] == "started"


def test_it_uses_no_cpu_while_nothing_happens(box: Box) -> None:
    with box.control() as control:
        control.readline()
        control.readline()
        wait_for(lambda: box.log.exists())
        time.sleep(0.5)

        def ticks() -> tuple[str, int]:
            stat = Path(f"/proc/{box.rider}/stat").read_text().split()
            switches = Path(f"/proc/{box.rider}/status").read_text().split("voluntary_ctxt_switches:")[1].split()[0]
            return stat[13] + stat[14], int(switches)

        before = ticks()
        time.sleep(1.0)
        assert ticks() == before
