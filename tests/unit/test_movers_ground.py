"""What a session stands on, at home and elsewhere: with real depots and made-up parts, without a sandbox that runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sojourn.environment.contents import Contents
from sojourn.environment.depot import Depot
from sojourn.environment.parts import Part
from sojourn.errors import Incompatible
from sojourn.model import Ground, Mount, Program, SessionSpec
from sojourn.movers.criu import ground
from sojourn.sandbox.base import SandboxPlan
from sojourn.sandbox.runc import RuncSandbox


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").write_text("snake")
    return folder


@pytest.fixture
def part(prefix: Path) -> Part:
    return Part(name=str(prefix), paths=(str(prefix),))


def sandbox(tmp_path: Path, node: str, root: str, *mounts: Mount) -> RuncSandbox:
    spec = SessionSpec(program=Program(argv=("/usr/bin/python3",)), mounts=mounts)
    where = {"root": root, "depot": str(tmp_path / f"depot-{node}")}
    plan = SandboxPlan(kind="runc", node=node, session="s", incarnation=1, spec=spec, rider="/r", **where)
    made = RuncSandbox(tmp_path / "sandboxes" / node, plan)
    made.files.upper.mkdir(parents=True)
    made.facts = {"image": "", "binds": [], "lower": ["/"]}
    return made


def shipped(source: Depot, target: Depot, part: Part) -> Contents:
    contents = source.own(part)
    with target.turn(contents.id):
        lacking = target.lacking(contents)
        target.unpack(contents, lacking, source.pack(contents, lacking))
    return contents


def test_a_node_with_the_same_root_needs_nothing(tmp_path: Path) -> None:
    there = sandbox(tmp_path, "there", "one root")
    assert ground.settle(there, {"root": "one root", "layers": []})
    assert (there.layers, there.facts["lower"]) == ([], ["/"])


def test_a_stranger_needs_the_environment_and_stands_on_it_when_it_is_here(tmp_path: Path, part: Part) -> None:
    here, there = sandbox(tmp_path, "here", "home's"), sandbox(tmp_path, "there", "another")
    there.facts["root"] = "home's"
    assert not ground.settle(there, {"root": "home's", "layers": []})
    contents = shipped(ground.depot_of(here), ground.depot_of(there), part)
    assert ground.settle(there, {"root": "home's", "layers": ground.named([contents])})
    assert there.facts["lower"] == [str(ground.depot_of(there).here(contents.id))]
    assert [one.id for one in ground.environment_of(there)] == [contents.id]


def test_back_home_it_stands_on_home_s_own_root_as_long_as_that_is_what_it_was(
    tmp_path: Path, part: Part, prefix: Path
) -> None:
    there, back = sandbox(tmp_path, "there", "another"), sandbox(tmp_path, "here", "home's")
    contents = shipped(ground.depot_of(back), ground.depot_of(there), part)
    origin = {"root": "home's", "layers": ground.named([contents])}
    assert ground.settle(back, origin)
    assert back.layers == []
    (prefix / "bin/python").write_text("another snake")
    assert not ground.settle(back, origin)


def test_what_a_session_uses_beyond_its_environment_is_named(
    tmp_path: Path, part: Part, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = sandbox(tmp_path, "here", "home's", Mount(path="/data"))
    environment = [ground.depot_of(here).own(part)]
    (here.files.upper / "tmp").mkdir()
    (here.files.upper / "tmp/scratch").touch()
    used = {f"{prefix}/bin/python", "/tmp/scratch", "/data/table", "/dev/null", "/opt/odd/lib.so"}
    monkeypatch.setattr(ground, "in_use", lambda pids: used)
    monkeypatch.setattr(here, "pids", lambda: [os.getpid()])
    with pytest.raises(Incompatible, match=r"no part of its environment.*: /opt/odd/lib\.so") as refused:
        ground.require_complete(here, environment)
    assert "/tmp/scratch" not in refused.value.message
    used.discard("/opt/odd/lib.so")
    ground.require_complete(here, environment)


def test_an_environment_in_a_folder_that_stays_behind_is_taken_along(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "venv/bin").mkdir(parents=True)
    (home / "venv/pyvenv.cfg").write_text("home = /usr/bin\n")
    (home / "venv/bin/python").symlink_to("/usr/bin/python3")
    program = Program(argv=(str(home / "venv/bin/python"), "-m", "ipykernel_launcher"))

    def along(mode: str) -> tuple[str, ...]:
        mount = Mount.model_validate({"path": str(home), "mode": mode})
        return ground.taken_along(SessionSpec(program=program, mounts=(mount,)))

    assert along("left") == (str(home / "venv"),)
    assert along("shared") == ()


def test_a_session_may_begin_on_what_came_from_elsewhere(tmp_path: Path, part: Part) -> None:
    there = sandbox(tmp_path, "there", "another")
    home = Depot(tmp_path / "depot-home")
    told = Ground(root="home's", python="/usr/bin/python3", layers=tuple(ground.named([home.own(part)])))
    with pytest.raises(Incompatible, match=f"Node there lacks the environment {part.name}"):
        ground.begin_on(there, told)
    contents = shipped(home, Depot(tmp_path / "depot-there"), part)
    ground.begin_on(there, told)
    assert there.root == "home's"
    assert there.facts["lower"] == [str(Depot(tmp_path / "depot-there").here(contents.id))]
    assert ground.settle(sandbox(tmp_path, "home", "home's"), there.origin | {"layers": []})


def test_a_prefix_that_came_goes_along_out_of_a_folder_that_is_left(tmp_path: Path, prefix: Path, part: Part) -> None:
    told = Ground(
        root="home's", python="/usr/bin/python3", layers=tuple(ground.named([Depot(tmp_path / "d").own(part)]))
    )
    spec = SessionSpec(program=Program(argv=(f"{prefix}/bin/python",)), ground=told)
    assert ground.taken_along(spec) == ()
    left = spec.model_copy(update={"mounts": (Mount(path=str(tmp_path), mode="left"),)})
    assert ground.taken_along(left) == (str(prefix),)
