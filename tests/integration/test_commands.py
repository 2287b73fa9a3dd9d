"""The commands against the real embedded parts, with plain process sandboxes: no root, no CRIU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn import embedded
from sojourn.client import Client
from sojourn.model import Program, SessionSpec
from sojourn.sandbox.mounts import remove_tree

pytestmark = pytest.mark.integration

WAIT_SECONDS = 30
TALKER = "import time\nfor number in range(10_000):\n print('line', number, flush=True)\n time.sleep(0.05)"


class Shell:
    """Runs `sojourn` as a person does, in a home of its own."""

    def __init__(self, home: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SOJOURN_")}
        self.environment = kept | {"SOJOURN_HOME": str(home)}

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sojourn.cli.main", *arguments],
            env=self.environment | more,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """After `sojourn up`; at the end `sojourn down` must leave no process and no mount."""
    home = tmp_path_factory.mktemp("home")
    shell = Shell(home)
    up = shell("up", "--no-lab", "--nodes", "2")
    try:
        assert up.returncode == 0, up.stderr
        assert "nodes: here, there" in up.stdout
        yield shell
    finally:
        down = shell("down")
        assert down.returncode == 0, down.stderr
        assert shell("nodes").returncode == 1
        remove_tree(home)  # refuses while anything is mounted there


@pytest.fixture
def client(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("SOJOURN_HOME", shell.environment["SOJOURN_HOME"])
    controller = embedded.running()
    assert controller is not None
    with Client(controller.url, controller.token) as client:
        yield client


@pytest.fixture
def talker(client: Client) -> Iterator[str]:
    """A session that prints a line every 50 ms; its name."""
    program = Program(argv=(sys.executable, "-c", TALKER), env={"PATH": os.environ["PATH"]}, cwd="/")
    view = client.start(SessionSpec(name="talker", program=program, sandbox="process", ends_with_program=True))
    until(lambda: client.session(view.id).status == "running" and "line 2" in client.log(view.id))
    yield "talker"
    client.stop(view.id)
    until(lambda: client.session(view.id).status in ("stopped", "lost", "failed"))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_nodes(shell: Shell) -> None:
    assert {node["name"]: node["status"] for node in shell.json("nodes")} == {"here": "online", "there": "online"}
    assert "here" in shell("nodes").stdout


def test_a_second_up_starts_nothing_new(shell: Shell) -> None:
    before = {node["id"] for node in shell.json("nodes")}
    assert shell("up", "--no-lab").returncode == 0
    assert {node["id"] for node in shell.json("nodes")} == before


def test_a_session_in_lists_and_logs(shell: Shell, talker: str) -> None:
    assert [row["name"] for row in shell.json("sessions")] == [talker]
    assert talker in shell("sessions").stdout
    lines = shell("logs", talker).stdout.splitlines()
    assert "line 0" in lines
    assert "line 2" in lines


@pytest.mark.parametrize("wish", ["suspend", "checkpoint", "fork"])
def test_a_plain_process_can_t_be_saved_and_the_refusal_says_so(shell: Shell, talker: str, wish: str) -> None:
    refused = shell(wish, talker)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: Session talker is a plain process")
    assert shell.json("checkpoints") == []
    assert shell.json("sessions")[0]["status"] == "running"


def test_a_plain_process_can_t_move_and_the_refusal_says_so(shell: Shell, talker: str) -> None:
    place = shell.json("sessions")[0]["node"]
    other = {"here": "there", "there": "here"}[place]
    refused = shell("move", talker, other)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("Error: ")
    assert "Traceback" not in refused.stderr
    assert shell.json("sessions")[0]["node"] == place
    assert shell("move", talker, place).stdout == f"It is on {place} already; nothing was done.\n"


@pytest.mark.parametrize(
    "arguments",
    [("stop", "nobody"), ("logs", "nobody"), ("move", "nobody", "there"), ("token", "revoke", "nothing")],
)
def test_what_does_not_exist_is_named_with_a_hint(shell: Shell, arguments: tuple[str, ...]) -> None:
    done = shell(*arguments)
    assert done.returncode == 1
    assert arguments[-1] in done.stderr or arguments[1] in done.stderr
    assert "Hint: " in done.stderr


def test_stop(shell: Shell, client: Client, talker: str) -> None:
    assert shell("stop", talker).stdout == "Stopping talker.\n"
    until(lambda: shell.json("sessions") == [])
    assert any(row["name"] == talker and row["status"] == "stopped" for row in shell.json("sessions", "--all"))


def test_a_token_works_until_it_is_revoked(shell: Shell, client: Client) -> None:
    secret = shell("token", "create", "ada").stdout.strip()
    other = {"SOJOURN_CONTROLLER": client.url, "SOJOURN_TOKEN": secret}
    assert shell("nodes", **other).returncode == 0
    row = next(row for row in shell.json("token", "list") if row["name"] == "ada")
    assert secret not in json.dumps(row)
    assert shell("token", "revoke", row["id"]).returncode == 0
    refused = shell("nodes", **other)
    assert refused.returncode == 1
    assert "token" in refused.stderr.lower()


def test_shells_complete_nodes(shell: Shell) -> None:
    completion = {"_SOJOURN_COMPLETE": "complete_bash", "COMP_WORDS": "sojourn move x the", "COMP_CWORD": "3"}
    done = subprocess.run(
        [Path(sys.executable).with_name("sojourn")],
        env=shell.environment | completion,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.split() == ["there"]
