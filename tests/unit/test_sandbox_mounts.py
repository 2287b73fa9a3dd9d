"""Folders are removed, mounts are not reached through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sojourn.errors import SandboxFailed
from sojourn.sandbox import mounts


def test_names_in_mountinfo_are_unescaped() -> None:
    assert mounts._unescape(rb"/a\040b\134c\303\251") == "/a b\\cé"


def test_a_folder_without_mounts_is_removed(tmp_path: Path) -> None:
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "kept").write_text("")
    (tmp_path / "folder/link").symlink_to(tmp_path)
    mounts.remove_tree(tmp_path / "folder")
    mounts.remove_tree(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_with_a_mount_below_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(mounts, "mounts_below", lambda folder: [folder / "rootfs"])
    with pytest.raises(SandboxFailed, match="rootfs"):
        mounts.remove_tree(tmp_path)
    assert (tmp_path / "file").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_in_somebodys_home_is_theirs(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1235)
    mounts.make_folder(tmp_path / "a/b")
    assert {(one.stat().st_uid, one.stat().st_gid) for one in (tmp_path / "a", tmp_path / "a/b")} == {(1234, 1235)}
