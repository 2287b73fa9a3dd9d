"""Policies with the real parts: a spot node taken away, a session that nobody uses, one whose memory ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.conftest import why_no_live_move

import sojourn
from sojourn.settings import config_folder, nodes_folder
from sojourn.testing import end_kernel, execute, session_of, stack, start_kernel
from sojourn.testing.parts import until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def steady() -> Iterator[sojourn.Client]:
    """A Sojourn with the node `here`, which nobody takes away."""
    if reason := why_no_live_move():
        pytest.skip(reason)
    with stack(nodes=("here",)) as client:
        yield client


@contextmanager
def running(steady: sojourn.Client, needs: str = "") -> Iterator[tuple[Any, Any]]:
    manager, client = start_kernel(needs=needs)
    session = session_of(manager)
    try:
        yield manager, client
    finally:
        end_kernel(manager, client)
        until(lambda: session not in [one.id for one in steady.sessions()], "the session to end")


@pytest.fixture
def kernel(steady: sojourn.Client) -> Iterator[tuple[Any, Any]]:
    with running(steady) as found:
        yield found


@contextmanager
def joined(steady: sojourn.Client, name: str, *options: str) -> Iterator[str]:
    """One more node."""
    argv = [sys.executable, "-m", "sojourn.agent", "--controller", steady.url, "--name", name, *options]
    argv += ["--folder", str(nodes_folder() / name)]
    environment = os.environ | {"SOJOURN_JOIN_TOKEN": steady.create_token("join", name)["token"]}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as agent:
        try:
            until(lambda: any(node.name == name for node in steady.nodes()), f"node {name}")
            yield name
        finally:
            agent.terminate()


@pytest.fixture
def cheap(steady: sojourn.Client, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A spot node, whose agent takes the file `notice` for its provider's word."""
    name = f"cheap-{request.node.name[:20]}"
    with joined(steady, name, "--label", "spot", "--eviction", f"file:{tmp_path / 'notice'}"):
        yield name


@contextmanager
def ruled(rules: str) -> Iterator[None]:
    settings = config_folder() / "config.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(rules)
    try:
        yield
    finally:
        settings.unlink()


def evict(notice: Path, seconds: float) -> None:
    draft = notice.with_suffix(".new")
    draft.write_text(str(time.time() + seconds))
    draft.rename(notice)


def spoken(client: Any, request: str) -> dict[str, Any]:
    while True:
        reply: dict[str, Any] = client.get_shell_msg(timeout=60)
        if reply["parent_header"]["msg_id"] == request:
            return reply["content"]


def test_a_spot_node_is_left_in_the_middle_of_a_cell(
    steady: sojourn.Client, cheap: str, kernel: tuple[Any, Any], tmp_path: Path
) -> None:
    manager, client = kernel
    session = session_of(manager)
    steady.move(session, cheap, wait="filled")
    execute(client, "x = bytearray(b'1' * 50_000_000)")
    request = client.execute("import time; time.sleep(6); assert len(x) == 50_000_000")
    evict(tmp_path / "notice", 60)
    until(lambda: steady.session(session).node == "here", "the session to have left")
    assert spoken(client, request)["status"] == "ok"
    done = until(lambda: [one for one in steady.policies().done if one.ended_at], "the move to have ended")
    assert (done[0].rule, done[0].kind, done[0].error) == ("spot", "move", None)
    draining = {node.name: node.draining for node in steady.nodes()}
    assert (draining[cheap], draining["here"]) == ("file takes it away", "")


def test_where_there_is_no_room_it_sleeps_until_there_is(
    steady: sojourn.Client, cheap: str, kernel: tuple[Any, Any], tmp_path: Path
) -> None:
    manager, client = kernel
    session = session_of(manager)
    steady.move(session, cheap, wait="filled")
    steady.drain("here")
    try:
        request = client.execute("import time; time.sleep(5); 6 * 7")
        evict(tmp_path / "notice", 60)
        until(lambda: steady.session(session).status == "suspended", "the session to sleep")
    finally:
        steady.undrain("here")
    assert steady.resume(session).node == "here"
    assert spoken(client, request)["status"] == "ok"


def test_a_session_that_nobody_uses_sleeps_and_wakes_with_the_next_cell(
    steady: sojourn.Client, kernel: tuple[Any, Any]
) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "x = 42")
    with ruled("[policies.idle]\nafter = '3s'\n"):
        until(lambda: steady.session(session).status == "suspended", "the session to sleep")
    assert execute(client, "x") == "42"


GROWING = """
import time
x = []
for _ in range(240):
    x.append(b"1" * 2_000_000)
    time.sleep(0.1)
assert sum(map(len, x)) == 480_000_000
"""


def test_a_session_is_moved_before_its_memory_ends_and_its_twin_without_the_policy_is_killed(
    steady: sojourn.Client,
) -> None:
    with (
        joined(steady, "roomy"),
        running(steady, "here mem>=400M") as (helped, client),
        running(steady, "here mem>=400M") as (left_alone, other),
        ruled(f"[policies.sessions.'{steady.session(session_of(helped)).name}'.right_size]\n"),
    ):
        request = client.execute(GROWING)
        other.execute(GROWING)
        until(lambda: steady.session(session_of(helped)).node == "roomy", "the session to be moved")
        assert left_alone.is_alive(), "it was moved in time"
        assert spoken(client, request)["status"] == "ok"
        until(lambda: not left_alone.is_alive(), "the twin to reach its limit")
        assert steady.session(session_of(left_alone)).node == "here"
        deeds = [one for one in steady.policies().done if one.rule == "right_size"]
        first = deeds[-1]
        assert {one.session for one in deeds} == {session_of(helped)}
        assert (first.kind, first.target, first.error) == ("move", "roomy", None)
        assert re.fullmatch(r"it reaches its limit of 400MB in \d+ s; roomy has room for 800MB", first.why)
        argv = [sys.executable, "-m", "sojourn.cli.main", "policies"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert first.why in said.stdout
