"""Going first, and being as before afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sojourn.movers.haste import hasten, hastened, niceness_of

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root goes first")

AUTOGROUP = Path("/proc/self/autogroup")
IN_HASTE = """
from pathlib import Path
from sojourn.movers.haste import hastened
with hastened():
    print(Path("/proc/self/autogroup").read_text())
"""


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@root_only
def test_a_thread_in_haste_goes_first_until_it_has_done() -> None:
    before = niceness()
    with hastened():
        assert niceness() < before
        with hastened():
            assert niceness() < before
    assert niceness() == before


def test_what_has_ended_meanwhile_is_let_be() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    hasten(process.pid)


def test_what_belongs_to_no_group_has_no_niceness_there() -> None:
    assert niceness_of("/autogroup-51956 nice -15\n") == -15
    assert niceness_of("") is None


@root_only
@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel has no autogroups")
@pytest.mark.parametrize("own", [True, False])
def test_only_a_group_of_its_own_goes_first(own: bool) -> None:
    """A group that others are in too would be left hasty when two set it back in the wrong order."""
    before = niceness_of(AUTOGROUP.read_text())
    said = subprocess.run(
        [sys.executable, "-c", IN_HASTE], capture_output=True, text=True, check=True, start_new_session=own
    )
    assert niceness_of(said.stdout) == (-15 if own else before)
    assert niceness_of(AUTOGROUP.read_text()) == before
