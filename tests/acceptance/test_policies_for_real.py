"""Policies with the real parts: a spot node that is taken away, a session that nobody uses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
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


@pytest.fixture
def kernel(steady: sojourn.Client) -> Iterator[tuple[Any, Any]]:
    manager, client = start_kernel()
    yield manager, client
    end_kernel(manager, client)
    until(lambda: not steady.sessions(), "the session to end")


@pytest.fixture
def cheap(steady: sojourn.Client, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A spot node, whose agent takes the file `notice` for its provider's word."""
    name = f"cheap-{request.node.name[:20]}"
    argv = [sys.executable, "-m", "sojourn.agent", "--controller", steady.url, "--name", name, "--label", "spot"]
    argv += ["--folder", str(nodes_folder() / name), "--eviction", f"file:{tmp_path / 'notice'}"]
    environment = os.environ | {"SOJOURN_JOIN_TOKEN": steady.create_token("join", name)["token"]}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as agent:
        try:
            until(lambda: any(node.name == name for node in steady.nodes()), f"node {name}")
            yield name
        finally:
            agent.terminate()


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
    settings = config_folder() / "config.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("[policies.idle]\nafter = '3s'\n")
    try:
        until(lambda: steady.session(session).status == "suspended", "the session to sleep")
        settings.unlink()
        assert execute(client, "x") == "42"
    finally:
        settings.unlink(missing_ok=True)
