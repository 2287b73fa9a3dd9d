"""Going first, and being as before afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from sojourn.movers.haste import hasten, hastened

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root goes first")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


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
