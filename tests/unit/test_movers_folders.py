"""What a departure's successor does about the folders after a crash of its agent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("CRIU is for Linux", allow_module_level=True)

from sojourn.model import Mount, Program, SessionSpec
from sojourn.movers import recover_departure
from sojourn.sandbox.base import SandboxPlan
from sojourn.sandbox.canary import put
from sojourn.sandbox.runc import RuncSandbox


def test_the_canaries_of_an_agent_that_was_killed_are_taken_away(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    program = Program(argv=("true",), uid=os.getuid(), gid=os.getgid())
    spec = SessionSpec(program=program, sandbox="runc", mounts=(Mount(path=str(home)),))
    plan = SandboxPlan(kind="runc", node="n", session="s", incarnation=1, spec=spec, rider="rider.pyz")
    sandbox = RuncSandbox(tmp_path / "sandbox", plan)
    put(sandbox.shared, "move1", sandbox.user)
    assert len(list(home.iterdir())) == 1
    recover_departure(sandbox, "move1", "lazy", {}, tell=print, note=print, hang_up=print)
    assert list(home.iterdir()) == []
