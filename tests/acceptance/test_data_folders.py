"""A session's folders between two nodes that see different ones: `there` has other folders at the same paths."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.acceptance.conftest import why_no_live_move

import sojourn
from sojourn.cli.move import truth
from sojourn.errors import Incompatible, SandboxFailed, SojournError, WakeFailed
from sojourn.model import MoveView
from sojourn.sandbox.canary import PREFIX
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import Parts, parts, until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """Their kernels have a home of their own, which both nodes share: IPython keeps its history there."""
    if reason := why_no_live_move():
        pytest.skip(reason)
    with patch.dict(os.environ, {"HOME": str(tmp_path_factory.mktemp("home"))}), parts() as running:
        yield running


@pytest.fixture
def client(made: Parts) -> Iterator[sojourn.Client]:
    with sojourn.Client(made.controller.url, made.controller.token) as found:
        yield found


def on(made: Parts, node: str, *command: str) -> None:
    subprocess.run(["nsenter", "--target", str(made.machines[node].pid), "--mount", "--", *command], check=True)


@contextmanager
def another(made: Parts, folder: Path, instead: Path) -> Iterator[Callable[[], None]]:
    """Node `there` has another folder at that path; gives what ends that."""
    on(made, "there", "mount", "--bind", str(instead), str(folder))
    mounted = [folder]

    def same_again() -> None:
        on(made, "there", "umount", "--lazy", str(mounted.pop()))

    try:
        yield same_again
    finally:
        if mounted:
            same_again()


@contextmanager
def kernel(*mounts: dict[str, Any], on: str = "here") -> Iterator[tuple[str, Any]]:
    """The id of a session with these folders beside its home, and a client of its kernel."""
    manager, running = start_kernel(shared=["{home}"], mounts=list(mounts), needs=on)
    try:
        yield session_of(manager), running
    finally:
        end_kernel(manager, running)


def moved(client: sojourn.Client, session: str, to: str) -> MoveView:
    move = client.move(session, to, wait="filled").move
    assert move
    return move


def told_in_a_cell(running: Any) -> str:
    """What a cell that does nothing has on stderr."""
    heard: list[str] = []
    running.execute_interactive("pass", output_hook=lambda said: heard.append(said["content"].get("text", "")))
    return "".join(heard)


def folders_of(client: sojourn.Client, session: str) -> list[tuple[str, str, int]]:
    """As a plan has them; without the home."""
    plan = client.move(session, "there", dry_run=True).plan
    return [(one.path, one.mode, one.size_bytes) for one in plan.folders if one.path != os.environ["HOME"]]


def test_a_shared_folder_must_be_the_same_one_and_not_a_namesake(
    made: Parts, client: sojourn.Client, tmp_path: Path
) -> None:
    folder, namesake = tmp_path / "data", tmp_path / "namesake"
    for place in (folder, namesake):
        place.mkdir()
        (place / "table").write_text("the same words in both")
    with kernel({"path": str(folder)}) as (session, running), another(made, folder, namesake) as same_again:
        execute(running, "x = 41")
        plan = client.move(session, "there", dry_run=True).plan
        assert not plan.fits
        assert "is another folder than" in plan.refusals[0]
        with pytest.raises(Incompatible) as refused:
            moved(client, session, "there")
        assert f"{folder} of node there is another folder than {folder} of node here" in refused.value.message
        assert "or leave it" in refused.value.hint
        assert client.session(session).node == "here"
        assert client.session(session).incarnation == 1, "it was never frozen"
        assert not list(tmp_path.rglob(f"{PREFIX}*"))
        assert execute(running, "x + 1") == "42"
        with (
            pytest.raises(SandboxFailed, match=f"{folder} of the machine that asks"),
            kernel({"path": str(folder)}, on="there"),
        ):
            pass
        same_again()
        moved(client, session, "there")
        assert execute(running, f"open('{folder}/table').read()") == "'the same words in both'"
        assert sorted(path.name for path in folder.iterdir()) == ["table"], "nothing is left in it"


def test_a_session_wakes_only_where_its_shared_folder_is(made: Parts, client: sojourn.Client, tmp_path: Path) -> None:
    folder, copy = tmp_path / "data", tmp_path / "copy"
    folder.mkdir()
    with kernel({"path": str(folder)}) as (session, running):
        execute(running, "x = 41")
        client.suspend(session)
        subprocess.run(["cp", "-a", str(folder), str(copy)], check=True)
        with another(made, folder, copy):
            with pytest.raises(WakeFailed, match="another folder"):
                client.resume(session, "there", wait="filled")
            assert client.session(session).status == "suspended"
            client.resume(session, "here", wait="filled")
        assert execute(running, "x + 1") == "42"


def test_a_carried_folder_goes_there_and_only_its_changes_come_back(
    made: Parts, client: sojourn.Client, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    (folder / "raw").mkdir(parents=True)
    (folder / "big").write_bytes(b"big" * 2_000_000)
    (folder / "raw/table.zarr").write_bytes(b"raw" * 1_000_000)
    (folder / "nodes").mkdir()
    (folder / "nodes/own").write_text("never copied")
    outer = {"path": str(tmp_path)}, {"path": str(folder), "mode": "carried", "exclude": ["*.zarr"]}
    with kernel(*outer, {"path": str(folder / "nodes"), "mode": "left"}) as (session, running):
        assert folders_of(client, session) == [
            (str(tmp_path), "shared", 0),
            (str(folder), "carried", 6_000_000),
            (str(folder / "nodes"), "left", 0),
        ]
        assert execute(running, f"import os; os.chdir('{folder}'); os.listdir('raw')") == "[]"
        execute(running, "log = open('log', 'w'); log.write('here ')")
        assert moved(client, session, "there").report.layer_bytes > 6_000_000
        execute(running, "log.write('there'); log.flush(); os.rmdir('raw')")
        assert moved(client, session, "here").report.layer_bytes < 1_000_000, "the big file was still here"
        assert execute(running, "open('log').read(), sorted(os.listdir()), len(open('big').read())") == (
            "('here there', ['big', 'log', 'nodes'], 6000000)"
        )
        assert moved(client, session, "there").report.layer_bytes < 1_000_000
        assert execute(running, "len(open('big').read()), open('nodes/own').read()") == "(6000000, 'never copied')"
    assert sorted(path.name for path in folder.iterdir()) == ["big", "nodes", "raw"], "the node's own is untouched"


def test_a_folder_that_is_left_shows_the_next_nodes_own_and_says_so(
    made: Parts, client: sojourn.Client, tmp_path: Path
) -> None:
    folder, theirs = tmp_path / "data", tmp_path / "theirs"
    for place in (folder, theirs):
        place.mkdir()
        (place / "whose").write_text(place.name)
    with kernel({"path": str(folder), "mode": "left"}) as (session, running), another(made, folder, theirs):
        execute(running, f"file = open('{folder}/whose')")
        with pytest.raises(SojournError, match=f"uses {folder}/whose, and {folder} is left behind"):
            moved(client, session, "there")
        execute(running, f"file.close(); import os; os.chdir('{folder}')")
        assert folders_of(client, session) == [(str(folder), "left", 0)]
        assert truth(moved(client, session, "there")).endswith(f"left behind: {folder}")
        until(lambda: f"left behind: {folder}." in told_in_a_cell(running), "a cell that is told of it")
        assert execute(running, "open('whose').read()") == "'theirs'"
