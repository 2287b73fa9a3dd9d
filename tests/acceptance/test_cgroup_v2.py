"""Most machines have cgroup v2 alone. Where this one has v1, the moves are made once more below a v2-only mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

ONLY_V2 = "umount --recursive --lazy /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "
STORIES = (
    "test_live_move.py::test_interrupt_and_restart_work_right_after_a_move",
    "test_live_move.py::test_a_cell_that_begins_with_on_runs_there_with_the_whole_state",
    "test_mover.py",
)


def why_not() -> str:
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, for a mount namespace"
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return "this machine has cgroup v2 alone: every other test runs on it"
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        return "this kernel has no cgroup v2"
    return "" if shutil.which("unshare") else "needs unshare (util-linux)"


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_moves_on_cgroup_v2_alone() -> None:
    here = Path(__file__).parent
    pytest_again = f"{sys.executable} -m pytest -q -p no:cacheprovider {' '.join(str(here / name) for name in STORIES)}"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", ONLY_V2 + pytest_again],
        cwd=here.parent.parent,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " skipped" not in done.stdout.splitlines()[-1], done.stdout[-2000:]
