from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sojourn.front.socket_folders import make_socket_folder, remove_orphaned_folders

if sys.platform == "win32":
    pytest.skip("Windows has no Unix sockets", allow_module_level=True)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def left_behind(folder: Path, pid: int) -> Path:
    place = folder / f"sojourn-anchor-{pid}-abc"
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "0"))
    return place


def test_the_folders_of_the_dead_are_removed(temporary: Path, gone: int) -> None:
    place = left_behind(temporary, gone)
    remove_orphaned_folders()
    assert not place.exists()


def test_the_folders_of_the_living_stay(temporary: Path) -> None:
    ours, theirs = make_socket_folder(), left_behind(temporary, os.getppid())
    remove_orphaned_folders()
    assert ours.is_dir()
    assert theirs.is_dir()


def test_a_folder_whose_socket_answers_stays_though_its_process_can_not_be_seen(temporary: Path, gone: int) -> None:
    place = left_behind(temporary, gone)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "1"))
        listener.listen()
        remove_orphaned_folders()
    assert place.is_dir()


def test_nothing_else_is_touched(temporary: Path, gone: int) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    link = temporary / f"sojourn-anchor-{gone}-link"
    link.symlink_to(elsewhere)
    open_to_all = left_behind(temporary, gone)
    open_to_all.chmod(0o755)
    with_a_file = temporary / f"sojourn-anchor-{gone}-file"
    with_a_file.mkdir(mode=0o700)
    (with_a_file / "notes").touch()
    other = temporary / "sojourn-test-abc"
    other.mkdir(mode=0o700)
    remove_orphaned_folders()
    assert all(place.exists() for place in (elsewhere, link, open_to_all, with_a_file, other))
