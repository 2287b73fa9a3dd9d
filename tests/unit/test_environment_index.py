"""Looking at a part: what is in it, what stays behind, and that only what has changed is read again."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.environment import index as module
from sojourn.environment.contents import FILE, FOLDER, LINK
from sojourn.environment.index import Index
from sojourn.environment.parts import Part


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An environment whose files are no longer young."""
    prefix = tmp_path / "env"
    for at in range(5):
        folder = prefix / f"lib/package{at}"
        folder.mkdir(parents=True)
        for name in ("__init__.py", "code.py"):
            (folder / name).write_text(f"{at} {name}")
    grow_old()
    return prefix


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files that were read."""
    found: list[str] = []
    real = module._file

    def reading(path: bytes, name: bytes) -> bytes:
        found.append(os.fsdecode(name))
        return real(path, name)

    monkeypatch.setattr(module, "_file", reading)
    return found


def grow_old() -> None:
    time.sleep(module.YOUNG_NS / 1e9 + 0.01)


def part(*paths: Path, everybody: bool = False, without: tuple[str, ...] = ()) -> Part:
    return Part(name=str(paths[0]), paths=tuple(map(str, paths)), everybody=everybody, without=without)


def test_every_kind_of_thing_is_told(prefix: Path) -> None:
    (prefix / "link").symlink_to("lib/package0")
    odd = os.fsencode(prefix) + b"/\xff odd\nname"
    with open(odd, "w") as file:  # noqa: PTH123
        file.write("odd")
    contents = Index(part(prefix)).look()
    kinds = {entry.path: entry.kind for entry in contents.entries()}
    below = str(prefix)[1:]
    assert kinds[below] == kinds[f"{below}/lib"] == FOLDER
    assert kinds[f"{below}/link"] == LINK
    assert kinds[os.fsdecode(odd)[1:]] == FILE
    assert contents.entry(f"{prefix}/link").target == "lib/package0"  # type: ignore[union-attr]
    assert contents.size_bytes == sum(path.stat().st_size for path in prefix.glob("lib/*/*")) + len("odd")
    assert contents.count == len(kinds)


def test_the_same_files_have_the_same_id_and_others_another(prefix: Path) -> None:
    before = Index(part(prefix)).look().id
    assert Index(part(prefix)).look().id == before
    for change in (
        lambda file: file.write_text("1 code.pY"),
        lambda file: file.chmod(0o600),
        lambda file: os.utime(file, ns=(7, 7)),
        lambda file: file.unlink(),
    ):
        change(prefix / "lib/package1/code.py")
        after = Index(part(prefix)).look().id
        assert after != before
        before = after


def test_a_second_look_reads_nothing(prefix: Path, tmp_path: Path, read: list[str]) -> None:
    index = Index(part(prefix))
    index.look()
    index.save(tmp_path / "kept")
    assert len(read) == 10
    read.clear()
    again = Index.load(tmp_path / "kept", part(prefix))
    assert again.look() is again.contents
    assert read == []
    assert again.contents == index.contents


def test_only_what_changed_is_read(prefix: Path, tmp_path: Path, read: list[str]) -> None:
    index = Index(part(prefix))
    before = index.look()
    index.save(tmp_path / "kept")
    read.clear()
    edited = prefix / "lib/package3/code.py"
    there = edited.stat()
    with edited.open("r+") as file:  # in place, of the same length, and with its time set back
        file.write("X")
    os.utime(edited, ns=(there.st_atime_ns, there.st_mtime_ns))
    (prefix / "lib/package2/new.py").write_text("new")
    (prefix / "lib/package1/__init__.py").unlink()

    after = Index.load(tmp_path / "kept", part(prefix)).look()

    assert sorted(read) == ["code.py", "new.py"]
    assert after.id == Index(part(prefix)).look().id != before.id


def test_a_young_file_is_read_again(prefix: Path, read: list[str]) -> None:
    (prefix / "young.py").write_text("young")
    index = Index(part(prefix))
    index.look()
    read.clear()
    index.look()
    assert read == ["young.py"]


def test_the_time_of_a_folder_is_no_part_of_the_id(prefix: Path) -> None:
    index = Index(part(prefix))
    before = index.look().id
    (prefix / "lib/passing").touch()
    (prefix / "lib/passing").unlink()
    assert index.look().id == before


def test_what_nobody_needs_stays_behind(prefix: Path) -> None:
    os.mkfifo(prefix / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(prefix)
        listener.bind("socket")
    (prefix / "secrets").mkdir()
    (prefix / "secrets/key").write_text("key")
    wanted = Index(part(prefix, without=(f"{prefix}/lib/package0",)), hidden=(f"{prefix}/secrets",)).look()
    names = {entry.path.removeprefix(str(prefix)[1:]) for entry in wanted.entries()}
    assert "/lib/package1/code.py" in names
    assert not names & {"/pipe", "/socket", "/secrets", "/secrets/key", "/lib/package0", "/lib/package0/code.py"}


def test_of_the_system_only_what_everybody_may_read(prefix: Path) -> None:
    (prefix / "lib/package0/code.py").chmod(0o640)
    (prefix / "lib/package1").chmod(0o750)
    contents = Index(part(prefix, everybody=True)).look()
    assert contents.entry(f"{prefix}/lib/package0/__init__.py")
    assert not contents.entry(f"{prefix}/lib/package0/code.py")
    assert not contents.entry(f"{prefix}/lib/package1")
    assert not contents.entry(f"{prefix}/lib/package1/code.py")


def test_an_index_of_something_else_is_not_believed(prefix: Path, tmp_path: Path, read: list[str]) -> None:
    index = Index(part(prefix))
    index.look()
    index.save(tmp_path / "kept")
    read.clear()
    Index.load(tmp_path / "kept", part(prefix, everybody=True)).look()
    assert len(read) == 10
    whole = (tmp_path / "kept").read_bytes()
    (tmp_path / "kept").write_bytes(whole[: len(whole) // 2])
    Index.load(tmp_path / "kept", part(prefix)).look()
    assert len(read) == 20
