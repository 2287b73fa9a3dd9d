"""Files below a working folder, from one end of a connection to the other."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import DoesNotFit, Incompatible, MoveFailed, SojournError
from sojourn.movers.objects import files
from sojourn.movers.parcels import Parcels

Side = Callable[[Parcels], Any]


def talk(source: Side, target: Side) -> tuple[Any, Any]:
    """What each returned or raised."""
    near, far = socket.socketpair()
    said: dict[str, Any] = {}

    def run(name: str, side: Side, connection: socket.socket) -> None:
        with connection:
            try:
                said[name] = side(Parcels(connection))
            except SojournError as refused:
                said[name] = refused

    other = threading.Thread(target=run, args=("target", target, far))
    other.start()
    run("source", source, near)
    other.join(10)
    return said["source"], said["target"]


def carry(here: Path, there: Path, **options: Any) -> tuple[Any, Any]:
    return talk(lambda to: files.send(to, here, **options), lambda come: files.receive(come, there))


def tree(folder: Path) -> dict[str, Any]:
    return {path.relative_to(folder).as_posix(): _seen(path) for path in folder.rglob("*")}


def _seen(path: Path) -> Any:
    status = path.lstat()
    if path.is_symlink():
        return str(path.readlink())
    return status.st_mode, status.st_mtime_ns if path.is_file() else 0, path.read_bytes() if path.is_file() else None


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path.resolve() / "here", tmp_path.resolve() / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def test_a_tree_arrives_as_it_is(ends: tuple[Path, Path]) -> None:
    here, there = ends
    (here / "data" / "empty").mkdir(parents=True)
    (here / "data" / "big").write_bytes(os.urandom(5 << 20))
    (here / "run.sh").write_text("#!/bin/sh\n")
    (here / "run.sh").chmod(0o750)
    (here / "nothing").touch()
    (here / "out").symlink_to("/etc/passwd")
    (here / "data" / "empty").chmod(0o500)
    here.joinpath(os.fsdecode(b"caf\xe9")).write_text("latin")
    source, target = carry(here, there)
    assert tree(there) == tree(here)
    assert source.files == target.files == 4
    assert source.sent_bytes == target.sent_bytes == (5 << 20) + 15


def test_only_what_differs_is_sent_and_what_is_only_there_stays(ends: tuple[Path, Path]) -> None:
    here, there = ends
    (here / "same").write_bytes(bytes(1000))
    (here / "changed").write_text("old")
    carry(here, there)
    (here / "changed").write_text("newer")
    (there / "theirs").write_text("kept")
    _, target = carry(here, there)
    assert target.sent_bytes == len("newer")
    assert (there / "changed").read_text() == "newer"
    assert (there / "theirs").read_text() == "kept"


def test_holes_stay_holes(ends: tuple[Path, Path]) -> None:
    here, there = ends
    with (here / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
        file.truncate(128 << 20)
    source, _ = carry(here, there)
    assert tree(there) == tree(here)
    assert source.sent_bytes < 1 << 20
    assert (there / "sparse").stat().st_blocks * 512 < 1 << 20


def test_what_is_excluded_or_no_file_stays_behind_and_is_named(ends: tuple[Path, Path]) -> None:
    here, there = ends
    (here / "cache").mkdir()
    (here / "cache" / "x").touch()
    os.mkfifo(here / "pipe")
    source, _ = carry(here, there, excludes=lambda path, is_folder: path == "cache")
    assert tree(there) == {}
    assert source.left == ("pipe (no file)",)


def test_a_folder_that_is_too_large_is_refused_before_anything_is_sent(ends: tuple[Path, Path]) -> None:
    here, there = ends
    (here / "large").write_bytes(bytes(2000))
    source, target = carry(here, there, most_bytes=1999)
    assert isinstance(source, DoesNotFit)
    assert isinstance(target, DoesNotFit)
    assert tree(there) == {}


def test_a_file_that_changes_meanwhile_ends_it_and_the_target_is_as_it_was(
    ends: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = ends
    (here / "a").write_text("first")
    (here / "z").write_text("log")
    (there / "a").write_text("before")
    was = tree(there)
    pieces = files._pieces

    def late(*arguments: Any) -> Iterator[bytes]:
        (here / "z").write_text("log, longer")
        yield from pieces(*arguments)

    monkeypatch.setattr(files, "_pieces", late)
    source, target = carry(here, there)
    assert isinstance(source, Incompatible)
    assert isinstance(target, Incompatible)
    assert "z changed" in target.message
    assert tree(there) == was


def test_what_can_not_be_placed_leaves_all_as_it_was(ends: tuple[Path, Path]) -> None:
    here, there = ends
    (here / "a").write_text("new")
    (here / "new").mkdir()
    (here / "new" / "b").write_text("new")
    (here / "z").write_text("a file here")
    (there / "a").write_text("old")
    (there / "z").mkdir()
    (there / "z" / "theirs").write_text("a folder there")
    was = tree(there)
    source, target = carry(here, there)
    assert isinstance(source, Incompatible)
    assert isinstance(target, Incompatible)
    assert tree(there) == was


def test_links_in_the_way_are_replaced_and_never_followed(ends: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = ends
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("theirs")
    (here / "data").mkdir()
    (here / "data" / "x").write_text("mine")
    (here / "f").write_text("mine")
    (there / "data").symlink_to(outside)
    (there / "f").symlink_to(outside / "x")
    carry(here, there)
    assert (outside / "x").read_text() == "theirs"
    assert tree(there) == tree(here)


def test_a_folder_behind_a_link_is_refused(ends: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path.resolve() / "link").symlink_to(ends[0])
    with pytest.raises(Incompatible):
        files.index(tmp_path.resolve() / "link")


def entry(
    path: object, kind: str = "file", mode: object = 0o644, size: object = 1, at: object = 0, to: object = ""
) -> list[Any]:
    return [path, kind, mode, size, at, to]


NONSENSE = {
    "above": [entry("../x")],
    "absolute": [entry("/etc/x")],
    "above, within": [entry("a", "folder", size=0), entry("a/../../x")],
    "through a link": [entry("a", "link", size=0, to="/etc"), entry("a/x")],
    "in a file": [entry("a"), entry("a/x")],
    "in no folder": [entry("a/x")],
    "twice": [entry("a"), entry("a")],
    "over our own": [entry(".sojourn-arriving-1", "folder", size=0)],
    "setuid": [entry("a", mode=0o4755)],
    "negative": [entry("a", size=-1)],
    "endless": [entry("a", size=1 << 63)],
    "no number": [entry("a", size=True)],
    "a device": [entry("a", "device")],
    "a zero": [entry("a\0b")],
    "no text": [entry(7)],
    "no path of this system's": [entry("a\ud800")],
    "too short": [["a"]],
}


@pytest.mark.parametrize("entries", NONSENSE.values(), ids=NONSENSE)
def test_an_attackers_index_is_refused(ends: tuple[Path, Path], entries: list[list[Any]]) -> None:
    def attack(parcels: Parcels) -> None:
        parcels.send(files=len(entries))
        parcels.send_stream(json.dumps(each).encode() + b"\n" for each in entries)
        parcels.receive()

    _, target = talk(attack, lambda come: files.receive(come, ends[1]))
    assert isinstance(target, MoveFailed)
    assert tree(ends[1].parent) == {"here": tree_of_folder(ends[0]), "there": tree_of_folder(ends[1])}


def tree_of_folder(folder: Path) -> Any:
    return folder.stat().st_mode, 0, None


PIECES = {
    "beyond the file": files._PIECE.pack(5, 4) + b"xxxx",
    "backwards": files._PIECE.pack(4, 1) + b"x" + files._PIECE.pack(0, 1) + b"x",
    "cut off": files._PIECE.pack(0, 8) + b"xxx",
    "too many": files._PIECE.pack(0, 0) * 2,
}


@pytest.mark.parametrize("stream", PIECES.values(), ids=PIECES)
def test_an_attackers_pieces_leave_all_as_it_was(ends: tuple[Path, Path], stream: bytes) -> None:
    def attack(parcels: Parcels) -> None:
        parcels.send(files=1)
        parcels.send_stream([json.dumps(entry("a", size=8)).encode() + b"\n"])
        parcels.receive()
        parcels.send_stream([stream])
        parcels.send(sent=True)
        parcels.receive()

    _, target = talk(attack, lambda come: files.receive(come, ends[1]))
    assert isinstance(target, SojournError)
    assert tree(ends[1]) == {}


NAMES = st.sampled_from(["a", "b", "c d", "ü", "-x", "x\ny"])
TREES = st.recursive(
    st.one_of(st.binary(max_size=40), st.sampled_from([("link", "/tmp"), ("link", "a"), ("link", "../..")])),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def plant(folder: Path, inside: Any) -> None:
    for name, what in inside.items() if isinstance(inside, dict) else ():
        if isinstance(what, dict):
            (folder / name).mkdir()
            plant(folder / name, what)
        elif isinstance(what, tuple):
            (folder / name).symlink_to(what[1])
        else:
            (folder / name).write_bytes(what)


@settings(max_examples=40, deadline=None)
@given(TREES, TREES)
def test_either_all_is_there_or_nothing_has_changed(
    tmp_path_factory: pytest.TempPathFactory, mine: Any, theirs: Any
) -> None:
    here, there = (tmp_path_factory.mktemp("end").resolve() for _ in range(2))
    plant(here, mine)
    plant(there, theirs)
    was = tree(there)
    source, target = carry(here, there)
    if isinstance(target, Incompatible):
        assert isinstance(source, Incompatible)
        assert tree(there) == was
    else:
        assert tree(here).items() <= tree(there).items()
        assert was.keys() - tree(here).keys() <= tree(there).keys()
    assert not list(there.glob(".sojourn*"))
