"""What a runc sandbox does without runc; the rest is in tests/acceptance/test_sandbox.py."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("runc is for Linux", allow_module_level=True)

from sojourn.errors import Incompatible, Invalid, SandboxFailed
from sojourn.model import Program, SessionSpec
from sojourn.model.sessions import Mount
from sojourn.sandbox import runc
from sojourn.sandbox.base import SandboxPlan
from sojourn.sandbox.runc import RuncSandbox


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def sandbox(tmp_path: Path, home: Path) -> RuncSandbox:
    spec = SessionSpec(program=Program(argv=("true",)), sandbox="runc", mounts=(Mount(path=str(home)),))
    plan = SandboxPlan(kind="runc", node="n", session="s", incarnation=1, spec=spec, rider="rider.pyz")
    sandbox = RuncSandbox(tmp_path / "sandbox", plan)
    sandbox.facts = {"binds": [str(home)], "image": ""}
    return sandbox


def test_mount_points_in_shared_folders_are_inherited_and_made(sandbox: RuncSandbox, home: Path) -> None:
    sandbox.inherit({"binds": [str(home), f"{home}/hidden/deep"], "image": ""})
    assert (home / "hidden/deep").is_dir()
    assert list(sandbox.binds) == [str(home), f"{home}/hidden/deep"]


@pytest.mark.parametrize("point", ["{top}/elsewhere", "{home}/../elsewhere", "{home}/away/made", "elsewhere"])
def test_mount_points_outside_them_are_refused_and_nothing_is_made(
    sandbox: RuncSandbox, tmp_path: Path, home: Path, point: str
) -> None:
    (tmp_path / "target").mkdir()
    (home / "away").symlink_to(tmp_path / "target")
    with pytest.raises(Invalid, match="mount point"):
        sandbox.inherit({"binds": [str(home), point.format(top=tmp_path, home=home)], "image": ""})
    assert not (tmp_path / "elsewhere").exists()
    assert list((tmp_path / "target").iterdir()) == []
    assert sandbox.facts["binds"] == [str(home)]


def test_another_image_is_refused(sandbox: RuncSandbox) -> None:
    with pytest.raises(Incompatible, match="another one"):
        sandbox.inherit({"binds": [], "image": "sha256:1"})


def test_a_runc_that_hangs_is_killed_with_what_it_forked(
    sandbox: RuncSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = tmp_path / "bin/runc"
    hung.parent.mkdir()
    hung.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/child\nwait\n")
    hung.chmod(0o755)
    monkeypatch.setenv("PATH", str(hung.parent), prepend=":")
    monkeypatch.setattr(runc, "_RUNC_SECONDS", 0.5)
    with pytest.raises(SandboxFailed, match=r"within 0\.5 s"):
        sandbox.start()
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
