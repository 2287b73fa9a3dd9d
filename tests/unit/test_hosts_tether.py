"""The lines to hosts: what ssh is told, and when it is begun again. ssh itself is a script here."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from sojourn.errors import Busy
from sojourn.hosts import book, tether
from sojourn.hosts.book import Host
from sojourn.settings import write_private
from sojourn.testing.parts import until

FAR = Host("far", "ada@far", ("Port=2222",), port=8571)
SSH = """#!/bin/sh
echo "$*" >>{calls}
case "$*" in
*RemoteForward*) [ -e {held} ] && {{ echo "Error: remote port forwarding failed for listen port 8571" >&2; exit 255; }}
    exec sleep 60 ;;
*) rm -f {held} ;;
esac
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What ssh was called with so far. While the file `held` is there, another holds the port; clearing removes it."""
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = tmp_path / "ssh"
    script.write_text(SSH.format(calls=tmp_path / "calls", held=tmp_path / "held"))
    script.chmod(0o755)
    book.folder().mkdir(parents=True)
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


def test_ssh_asks_nobody_and_ends_when_the_port_is_taken(calls):
    line = tether.line(FAR, "127.0.0.1:40000")
    options = {line[at + 1] for at, word in enumerate(line) if word == "-o"}
    assert {"BatchMode=yes", "ExitOnForwardFailure=yes", "RemoteForward=127.0.0.1:8571 127.0.0.1:40000"} <= options
    assert {"Port=2222", "ServerAliveInterval=15", "ControlPath=none"} <= options
    assert line[-3:-1] == ["--", "ada@far"]


@pytest.mark.parametrize("words", [tether.line(FAR, "h:1"), tether.clearing(FAR)])
def test_what_is_run_there_is_a_shells(words):
    subprocess.run(["sh", "-n", "-c", words[-1]], check=True)
    inner = words[-1].removeprefix("exec sh -c '").removesuffix("'")
    assert "'" not in inner
    subprocess.run(["sh", "-n", "-c", inner], check=True)


def test_an_older_line_that_holds_the_port_is_ended_first(calls, tmp_path):
    (tmp_path / "held").touch()
    one = tether.Tether(FAR)
    until(lambda: one.tend("127.0.0.1:1", time.monotonic()) or len(calls()) == 3, "three calls")
    assert ["RemoteForward" in call for call in calls()] == [True, False, True]
    assert one._process
    one.end()
    assert one._process is None


def test_a_line_that_fails_is_tried_again_after_longer_and_longer(calls, tmp_path):
    (tmp_path / "ssh").write_text(f"#!/bin/sh\necho call >>{tmp_path / 'calls'}\nexit 255\n")
    one, now, begun = tether.Tether(FAR), 0.0, []
    while len(begun) < 4:
        before = one._process
        one.tend("127.0.0.1:1", now)
        if one._process and one._process is not before:
            begun.append(now)
            one._process.wait()
        now += 0.5
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 4


def test_a_line_follows_its_controller_and_the_book(calls, tmp_path):
    over = threading.Event()
    card = tmp_path / "data/controller/controller.json"
    write_private(card, {"url": "http://127.0.0.1:1001"})
    book.keep(FAR)
    book.keep(Host("direct", "ada@direct"))
    keeper = threading.Thread(target=tether.keep, args=(lambda _: over.wait(0.01),))
    keeper.start()
    try:
        until(lambda: len(calls()) == 1, "the first line")
        with pytest.raises(Busy):
            tether.keep(lambda _: True)
        write_private(card, {"url": "http://127.0.0.1:1002"})
        until(lambda: len(calls()) == 2, "the second line")
        assert "127.0.0.1:1002" in calls()[1]
        book.forget("far")
        until(lambda: not lines_of(tmp_path), "the line's end")
    finally:
        over.set()
        keeper.join()
    assert all("direct" not in call for call in calls())


def lines_of(folder: Path) -> list[str]:
    """The processes that were this folder's ssh, by where their output goes."""
    found = []
    for process in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if process.resolve() == folder / "data/hosts/far.log":
                found.append(process.parts[2])
        except OSError:
            continue
    return found


def test_the_book_keeps_what_it_was_told(calls):
    book.keep(FAR)
    assert book.hosts() == {"far": FAR}
    assert (book.folder() / "far.json").stat().st_mode & 0o777 == 0o600
    book.forget("far")
    book.forget("far")
    assert book.hosts() == {}
