from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sojourn.agent.folder import Folder
from sojourn.errors import Busy

HOLDER = """
import sys
from pathlib import Path
from sojourn.agent.folder import Folder
folder = Folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_agent_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"process {holder.pid}"):
            Folder(tmp_path)
        holder.kill()
    Folder(tmp_path).release()


def test_a_released_folder_can_be_taken_again(tmp_path: Path) -> None:
    Folder(tmp_path).release()
    again = Folder(tmp_path)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    again.release()


def test_the_folder_is_private(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "node")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.release()
