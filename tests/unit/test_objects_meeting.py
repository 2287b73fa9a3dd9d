"""The folders of a session that moves by objects, as the two ends agree on them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sojourn.model import Program, SessionSpec
from sojourn.movers.objects.meeting import Meeting, accept, make_working_folder, offer
from sojourn.movers.parcels import Parcels
from sojourn.sandbox.base import SandboxPlan, make_sandbox
from sojourn.sandbox.process import ProcessSandbox


def sandbox(folder: Path, node: str, cwd: Path) -> ProcessSandbox:
    spec = SessionSpec(name="s", program=Program(argv=("python",), cwd=str(cwd)), sandbox="process")
    plan = SandboxPlan(kind="process", node=node, session="s", incarnation=1, spec=spec, rider="")
    made = make_sandbox(folder / node, plan)
    assert isinstance(made, ProcessSandbox)
    return made


def meet(source: ProcessSandbox, target: ProcessSandbox, made: bool) -> Meeting:
    one, other = socket.socketpair()
    with one, other, ThreadPoolExecutor(1) as beside:
        theirs = beside.submit(accept, Parcels(other), target, "m", made)
        ours = offer(Parcels(one), source, "m")
        assert theirs.result() == ours
    return ours


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_a_folder_that_both_have_is_left_alone(tmp_path: Path, cwd: Path) -> None:
    here, there = sandbox(tmp_path, "here", cwd), sandbox(tmp_path, "there", cwd)
    assert meet(here, there, make_working_folder(there)) == Meeting(files=False)
    assert list(cwd.iterdir()) == []


def test_a_folder_that_the_target_lacked_is_filled(tmp_path: Path, cwd: Path) -> None:
    there = sandbox(tmp_path, "there", tmp_path / "fresh" / "work")
    assert make_working_folder(there)
    assert (tmp_path / "fresh" / "work").is_dir()
    assert meet(sandbox(tmp_path, "here", cwd), sandbox(tmp_path, "there", cwd), made=True).files


def test_a_folder_that_is_another_one_is_told_of(tmp_path: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = sandbox(tmp_path, "here", cwd), sandbox(tmp_path, "there", cwd)
    monkeypatch.setattr("sojourn.sandbox.canary.is_same", lambda known, seen: False)
    met = meet(here, there, made=False)
    assert not met.files
    assert met.notes == (f"{cwd} is another folder on there, and its files were left as they are",)
