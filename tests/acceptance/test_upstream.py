"""A taste of scripts/upstream.py: one suite of another project, with real sandboxes. CI runs all of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("sandbox", ["process", "runc"])
def test_a_kernel_is_as_good_as_a_local_one(sandbox):
    if sandbox == "runc" and not (shutil.which("runc") and hasattr(__import__("os"), "geteuid")):
        pytest.skip("runc is not installed")
    if not (ROOT / ".upstream").exists():
        pytest.skip("scripts/upstream.py has not fetched the suites")
    command = [sys.executable, ROOT / "scripts" / "upstream.py", "kernel_test", "--sandbox", sandbox]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
