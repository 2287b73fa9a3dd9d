"""`sojourn compare` as a person runs it: by a live move and by objects, over a link of known speed and length."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.conftest import why_no_live_move

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]
CELLS = ["import os\nblock = os.urandom(4 << 20)", "half_way = (n for n in range(3))\nnext(half_way)"]


@pytest.mark.skipif(bool(why_no_live_move()), reason=why_no_live_move())
@pytest.mark.skipif(not shutil.which("tc") or not Path("/dev/net/tun").exists(), reason="needs iproute2 and tun")
def test_a_live_move_loses_nothing_and_objects_say_what_they_lose(tmp_path: Path) -> None:
    cells = [{"cell_type": "code", "metadata": {}, "source": cell} for cell in CELLS]
    (tmp_path / "trial.ipynb").write_text(json.dumps({"nbformat": 4, "metadata": {}, "cells": cells}))
    argv = [sys.executable, "-m", "sojourn.cli.main", "compare", "trial.ipynb", "--json", "--html", "out.html"]
    argv += ["--link", "100mbit,20ms", "--ways", "criu-lazy,objects"]
    ran = subprocess.run(argv, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lazy, objects = json.loads(ran.stdout)["outcomes"]
    assert lazy["names"] == {"kept": 3, "told": 0, "changed": 0, "silent": 0, "unexamined": 0}
    assert 0 < lazy["stands_still_s"] <= lazy["all_there_s"]
    assert lazy["bytes"] > 4 << 20
    assert objects["names"] == {"kept": 2, "told": 1, "changed": 0, "silent": 0, "unexamined": 0}
    assert objects["transfer"] == "measured"
    assert objects["transfer_s"] > 4 * 2**20 * 8 / 100e6
    assert "<svg" in (tmp_path / "out.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"trial.ipynb", "out.html"}
