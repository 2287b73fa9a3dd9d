"""A store in a folder: nothing is seen half, nothing is left behind, and what went wrong is told."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from sojourn.chunks.local import LocalBackend
from sojourn.errors import StoreFailed


@pytest.fixture
def store(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "store")


def files(store: LocalBackend) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


def test_nothing_is_made_before_the_first_write(store: LocalBackend) -> None:
    assert not store.has("a/b")
    assert list(store.keys("")) == []
    assert not store.root.exists()


def test_only_its_user_can_look_inside(store: LocalBackend) -> None:
    store.put("owners/x/chunks/ab/abc", b"sealed")
    for path in (store.root, *store.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("act", ["put", "create"])
def test_a_full_disk_leaves_all_as_it_was(store: LocalBackend, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    store.put("a/b", b"before")
    there = files(store)

    def write(descriptor: int, body: bytes) -> int:
        if len(body) < 1000:
            raise OSError(errno.ENOSPC, "full")
        return real(descriptor, body[:500])

    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(StoreFailed, match="No space left on device") as failed:
            getattr(store, act)("a/c", bytes(1200))
        with pytest.raises(StoreFailed):
            store.put("a/b", bytes(1200))
    assert "sojourn gc" in failed.value.hint
    assert files(store) == there
    assert store.get("a/b") == b"before"


def test_a_body_is_written_whole_even_in_parts(store: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, body: real(descriptor, body[:7]))
    store.put("a/b", b"a longer body than seven")
    assert store.get("a/b") == b"a longer body than seven"


def test_no_right_is_told_with_what_to_do(store: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a/b", b"")

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreFailed, match=r"Can't write in the store file://.*Permission denied") as failed:
        store.put("a/c", b"")
    assert "right to write" in failed.value.hint


def test_a_place_that_can_hold_no_store_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreFailed, match=r"Not a directory|File exists"):
        LocalBackend(tmp_path / "file").identity()


def test_somebody_elses_folder_is_told_of(store: LocalBackend) -> None:
    store.root.mkdir()
    (store.root / "store.json").write_text("[]")
    with pytest.raises(StoreFailed, match=r"store\.json that this version"):
        store.identity()


def test_a_store_that_vanished_is_not_begun_anew(store: LocalBackend, tmp_path: Path) -> None:
    store.put("a/b", b"x")
    store.root.rename(tmp_path / "unmounted")
    store.root.mkdir()
    with pytest.raises(StoreFailed, match="is gone"):
        store.put("a/c", b"x")
    assert not list(store.root.iterdir())


def test_drafts_are_neither_listed_nor_kept_for_ever(store: LocalBackend) -> None:
    store.put("a/b", b"x")
    old, young = (store.root / "a" / f".draft-{name}" for name in ("old", "young"))
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert [entry.key for entry in store.keys("a/")] == ["a/b"]
    store.tidy()
    assert (old.exists(), young.exists()) == (False, True)


def test_settling_tells_of_a_disk_that_failed(store: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from sojourn.chunks import local

    store.put("a/b", b"x")
    store.settle()
    monkeypatch.setattr(local, "_syncfs", lambda _: ctypes.set_errno(errno.EIO) or -1)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(StoreFailed, match="Input/output error"):
        store.settle()
