"""The embedded controller, with parts that are tiny programs: a controller of three routes, agents that sleep."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from sojourn import embedded
from sojourn.errors import Unreachable
from sojourn.hosts import book
from sojourn.hosts.book import Host
from sojourn.settings import Controller, data_folder, nodes_folder

CONTROLLER = """
import http.server, json, os, pathlib, sys
card = pathlib.Path(os.environ["SOJOURN_HOME"]) / "data/controller/controller.json"
online = pathlib.Path(os.environ["SOJOURN_HOME"]) / "online"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = [path.name for path in online.iterdir()] if online.exists() else []
        facts = dict.fromkeys(["os", "arch", "kernel", "python", "sojourn", "machine_id", "root_id"], "x")
        facts["refusals"] = {"criu": "not installed"}
        capacity = {"cores": 1, "memory_bytes": 1}
        node = {"id": "1", "status": "online", "capabilities": facts, "capacity": capacity, "load": {}, "seen_at": 0}
        nodes = [node | {"name": name} for name in names]
        body = {"/api/nodes": nodes, "/api/sessions": []}.get(self.path, {"version": "0", "protocol": 1})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments): ...

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2].rpartition(":")[2])), Handler)
card.parent.mkdir(parents=True, exist_ok=True)
url = f"http://127.0.0.1:{server.server_port}"
draft = card.with_suffix(".draft")
draft.write_text(json.dumps({"url": url, "token": "api", "join_token": "join", "pid": os.getpid()}))
draft.replace(card)
server.serve_forever()
"""
AGENT = """
import os, pathlib, sys, time
assert os.environ["SOJOURN_JOIN_TOKEN"] == "join" and "SOJOURN_TOKEN" not in os.environ
online = pathlib.Path(os.environ["SOJOURN_HOME"]) / "online"
online.mkdir(exist_ok=True)
(online / sys.argv[sys.argv.index("--name") + 1]).touch()
time.sleep(600)
"""
TETHERS = "import time; time.sleep(600)"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user of our own, whose controller and agents are the programs above; nothing lives at the end."""
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.setenv("SOJOURN_TOKEN", "not for agents")
    monkeypatch.delenv("SOJOURN_CONTROLLER", raising=False)
    monkeypatch.setattr(embedded, "command_of", lambda module: [sys.executable, "-c", PROGRAMS[module]])
    monkeypatch.setattr(embedded, "default_nodes", lambda: ("here",))
    yield tmp_path
    embedded.stop()


PROGRAMS = {"sojourn.controller": CONTROLLER, "sojourn.agent": AGENT, "sojourn.hosts.tether": TETHERS}


def parts() -> dict:
    return json.loads((data_folder() / "embedded" / "embedded.json").read_text())["parts"]


def parts_if_any() -> dict:
    return embedded._memory()["parts"]


def test_the_first_start_says_what_is_missing_and_later_ones_say_nothing(home):
    said: list[str] = []
    controller = embedded.ensure(said.append)
    assert controller.token == "api"
    assert embedded.running() == controller
    assert len(said) == 1
    assert "can't move" in said[0]
    assert "criu: not installed" in said[0]
    embedded.stop()
    embedded.ensure(said.append)
    assert len(said) == 1


def test_a_running_one_is_used_again(home):
    embedded.ensure(str)
    before = parts()
    embedded.ensure(str)
    assert parts() == before


def test_many_at_once_start_it_once(home):
    found: list[Controller] = []
    before = {child.pid for child in psutil.Process().children()}
    threads = [threading.Thread(target=lambda: found.append(embedded.ensure(str))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.url for each in found}) == 1
    born = [child for child in psutil.Process().children() if child.pid not in before]
    assert len([child for child in born if child.status() != psutil.STATUS_ZOMBIE]) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_client_that_forks_meanwhile_does_not_keep_the_lock(home):
    with embedded._only_one():
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        waiting = threading.Thread(target=embedded.ensure, args=(str,), daemon=True)
        waiting.start()
        waiting.join(20)
        assert not waiting.is_alive()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_died_is_started_again_at_the_same_address(home):
    url = embedded.ensure(str).url
    before = parts()
    psutil.Process(before["controller"]["pid"]).kill()
    psutil.Process(before["controller"]["pid"]).wait()
    assert embedded.running() is None
    assert embedded.ensure(str).url == url
    assert parts()["here"] == before["here"]
    psutil.Process(before["here"]["pid"]).kill()
    psutil.Process(before["here"]["pid"]).wait()
    embedded.ensure(str)
    assert parts()["here"]["pid"] != before["here"]["pid"]


def test_mending_starts_what_died_and_nothing_that_was_stopped(home):
    embedded.mend()
    assert parts_if_any() == {}
    embedded.ensure(str)
    before = parts()
    embedded.mend()
    assert parts() == before
    psutil.Process(before["here"]["pid"]).kill()
    psutil.Process(before["here"]["pid"]).wait()
    embedded.mend()
    assert parts()["here"]["pid"] != before["here"]["pid"]
    assert parts()["controller"] == before["controller"]
    embedded.stop()
    embedded.mend()
    assert parts() == {}


def test_more_nodes_may_be_asked_for_and_are_remembered(home):
    embedded.start(("here",), str)
    here = parts()["here"]
    embedded.start(("here", "there"), str)
    assert parts()["here"] == here
    assert set(parts()) == {"controller", "here", "there"}
    embedded.stop()
    assert parts() == {}
    embedded.start(say=str)
    assert set(parts()) == {"controller", "here", "there"}


def test_stopping_ends_every_process_and_may_be_done_twice(home):
    embedded.ensure(str)
    pids = [part["pid"] for part in parts().values()]
    embedded.stop()
    embedded.stop()
    for pid in pids:
        with pytest.raises(psutil.NoSuchProcess):
            psutil.Process(pid)


def test_a_pid_used_by_another_program_is_left_alone(home):
    embedded.ensure(str)
    embedded.stop()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        memory = {"parts": {"here": {"pid": bystander.pid, "created": 1.0, "of": "x"}}}
        (data_folder() / "embedded" / "embedded.json").write_text(json.dumps(memory))
        embedded.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_part_that_ends_at_once_is_quoted(home, monkeypatch):
    monkeypatch.setitem(PROGRAMS, "sojourn.agent", "raise SystemExit('the folder is on fire')")
    with pytest.raises(Unreachable, match="the folder is on fire"):
        embedded.ensure(str)


def test_a_start_that_failed_may_be_tried_again(home, monkeypatch):
    working = AGENT
    monkeypatch.setitem(PROGRAMS, "sojourn.agent", "raise SystemExit('the folder is on fire')")
    with pytest.raises(Unreachable):
        embedded.ensure(str)
    monkeypatch.setitem(PROGRAMS, "sojourn.agent", "raise SystemExit('still warm')")
    with pytest.raises(Unreachable) as second:
        embedded.ensure(str)
    assert "fire" not in str(second.value)
    monkeypatch.setitem(PROGRAMS, "sojourn.agent", working)
    said: list[str] = []
    embedded.ensure(said.append)
    assert len(said) == 1


def test_a_configured_controller_is_taken_and_nothing_started(home, monkeypatch):
    monkeypatch.setenv("SOJOURN_CONTROLLER", "http://elsewhere:1/")
    assert embedded.ensure(str) == Controller("http://elsewhere:1", "not for agents")
    assert not (data_folder() / "embedded").exists()


def test_nodes_get_folders_of_their_own(home):
    embedded.start(("here", "there"), str)
    lines = [" ".join(psutil.Process(part["pid"]).cmdline()) for name, part in parts().items() if name != "controller"]
    for name, line in zip(("here", "there"), lines, strict=True):
        assert f"--folder {nodes_folder() / name}" in line
        assert os.environ["SOJOURN_TOKEN"] not in line


def test_the_lines_to_added_hosts_are_a_part_like_others(home):
    embedded.start()
    assert "tethers" not in parts()
    book.keep(Host("far", "ada@far", port=8571))
    embedded.tie()
    first = parts()["tethers"]["pid"]
    embedded.tie()
    assert parts()["tethers"]["pid"] == first
    psutil.Process(first).kill()
    psutil.wait_procs([psutil.Process(first)], timeout=5)
    embedded.mend()
    assert parts()["tethers"]["pid"] != first
    embedded.stop()
    assert parts() == {}
    embedded.start()
    book.forget("far")
    embedded.tie()
    assert "tethers" not in parts()
