"""A notebook that asks for its own checkpoints: taken back to them, branched from them, opened with a console."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient

import sojourn
from sojourn.testing import execute, session_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

ALONE = "get_ipython().history_manager.enabled = False; "
"""IPython's history lies in the home folder, which all lives share: one that went back complains of it."""


def command(*arguments: str) -> str:
    argv = [sys.executable, "-m", "sojourn.cli.main", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def console(path: str) -> Iterator[Any]:
    """What `jupyter console --existing` attaches with."""
    client = BlockingKernelClient()
    client.load_connection_file(path)
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield client
    finally:
        client.stop_channels()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_a_notebook_goes_back_to_where_it_said_so(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, ALONE + "state = ['data']; open('/tmp/result', 'w').write('before')")
    assert "Checkpoint before-training: frozen for" in execute(client, "%sojourn checkpoint before-training")
    execute(client, "state.append('wrong'); open('/tmp/result', 'w').write('after')")
    with pytest.raises(RuntimeError, match="set back"):
        execute(client, "%sojourn restore before-training")
    until(lambda: sojourner.session(session).status == "running")
    assert execute(client, "print(state, open('/tmp/result').read())") == "['data'] before"
    assert "before-training" in execute(client, "%sojourn checkpoints")
    (kept,) = sojourner.checkpoints(session)
    assert sojourner.verify(kept.id).problems == ()


def test_a_notebook_sleeps_when_its_cell_has_ended_and_the_next_one_wakes_it(
    sojourner: sojourn.Client, kernel: tuple[Any, Any]
) -> None:
    manager, client = kernel
    execute(client, "x = 41")
    assert "any cell wakes it" in execute(client, "%sojourn suspend")
    until(lambda: sojourner.session(session_of(manager)).status == "suspended")
    assert execute(client, "x + 1") == "42"


def test_branches_live_apart_and_a_console_opens_them(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    name = sojourner.session(session_of(manager)).name
    execute(client, ALONE + "x = 1; open('/tmp/mine', 'w').write('trunk')")
    assert "2 forked from" in execute(client, "%sojourn fork twig --count 2")
    by_command = json.loads(command("fork", name, "--name", "branch", "--node", "there", "--json"))
    paths = [json.loads(command("attach", "twig-1", "--json"))["connection_file"], by_command[0]["connection_file"]]
    try:
        for number, path in enumerate(paths):
            with console(path) as branch:
                assert execute(branch, "x") == "1"
                execute(branch, f"x = 'branch {number}'; open('/tmp/mine', 'w').write(x)")
                assert execute(branch, "print(open('/tmp/mine').read())") == f"branch {number}"
        assert execute(client, "print(x, open('/tmp/mine').read())") == "1 trunk"
        keys = {json.loads(Path(path).read_text())["key"] for path in [*paths, manager.connection_file]}
        assert len(keys) == 3
        assert {view.name for view in sojourner.sessions()} >= {"twig-1", "twig-2", "branch"}
    finally:
        for branch_name in ("twig-1", "twig-2", "branch"):
            sojourner.stop(branch_name)
