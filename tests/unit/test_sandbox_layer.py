"""Layers: what changed is carried, and nothing else."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.errors import SandboxFailed
from sojourn.sandbox import layer as layers
from sojourn.sandbox.layer import Layer


@pytest.fixture
def here(tmp_path: Path) -> Layer:
    (tmp_path / "here").mkdir()
    return Layer(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Layer:
    (tmp_path / "there").mkdir()
    return Layer(tmp_path / "there")


def listing(layer: Layer) -> dict[str, tuple[object, ...]]:
    """Everything that should travel, told by path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in layer.index():
        real = layer.folder / path
        status = real.lstat()
        body = real.read_bytes() if real.is_file() and not real.is_symlink() else b""
        target = str(real.readlink()) if real.is_symlink() else ""
        found[path] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink, body, target)
    return found


def settle() -> None:
    """Let the files grow old enough to be told by their stamps."""
    time.sleep(layers.YOUNG_NS / 1e9 + 0.01)


def furnish(folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/text").write_text("first\n")
    (folder / "a/data").write_bytes(os.urandom(3 << 20))
    (folder / "a/b/again").hardlink_to(folder / "a/data")
    (folder / "link").symlink_to("a/b/text")
    (folder / "dangling").symlink_to("/nowhere/at/all")
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o4711)
    os.mkfifo(folder / "pipe")
    os.utime(folder / "a/b", ns=(1, 1_500_000_000_123_456_789))


def test_a_first_delta_brings_everything(here: Layer, there: Layer) -> None:
    furnish(here.folder)
    assert there.apply(here.delta({})) == 3 * 2**20 + len("first\n#!/bin/sh\n")
    assert listing(there) == listing(here)
    assert (there.folder / "a/data").samefile(there.folder / "a/b/again")


def test_a_later_delta_brings_only_what_changed(here: Layer, there: Layer) -> None:
    furnish(here.folder)
    settle()
    before = here.index()
    there.apply(here.delta({}, before))
    with (here.folder / "a/b/text").open("a") as text:
        text.write("second\n")
    (here.folder / "new").write_text("x")
    assert there.apply(here.delta(before)) == len("first\nsecond\n") + 1
    assert listing(there) == listing(here)


def test_nothing_changed_nothing_sent(here: Layer) -> None:
    furnish(here.folder)
    settle()
    before = here.index()
    assert here.index() == before
    assert len(b"".join(here.delta(before))) < 20


def test_what_was_removed_goes_away(here: Layer, there: Layer) -> None:
    furnish(here.folder)
    before = here.index()
    there.apply(here.delta({}, before))
    (here.folder / "a/b/text").unlink()
    (here.folder / "link").unlink()
    (here.folder / "a/b/again").rename(here.folder / "moved")
    there.apply(here.delta(before))
    assert listing(there) == listing(here)


def test_a_file_becomes_a_folder_and_a_folder_a_link(here: Layer, there: Layer) -> None:
    furnish(here.folder)
    before = here.index()
    there.apply(here.delta({}, before))
    for path in ("a/b/text", "a/b/again"):
        (here.folder / path).unlink()
    (here.folder / "a/b").rmdir()
    (here.folder / "a/b").symlink_to("elsewhere")
    (here.folder / "link").unlink()
    (here.folder / "link").mkdir()
    (here.folder / "link/inside").write_text("now")
    there.apply(here.delta(before))
    assert listing(there) == listing(here)


def test_a_young_file_is_sent_again_because_its_stamp_may_not_tell(here: Layer) -> None:
    (here.folder / "young").write_text("one")
    before = here.index()
    assert here.index()["young"] != before["young"]


def test_a_restless_file_is_sent_whatever_its_stamp_says(here: Layer, there: Layer) -> None:
    (here.folder / "mapped").write_text("one")
    settle()
    before = here.index()
    assert there.apply(here.delta(before, always={"mapped"})) == 3


def test_holes_stay_holes(here: Layer, there: Layer) -> None:
    with (here.folder / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
        file.truncate(128 << 20)
    assert there.apply(here.delta({})) <= 64 << 10
    copy = there.folder / "sparse"
    assert copy.stat().st_size == 128 << 20
    assert copy.stat().st_blocks * 512 <= 1 << 20
    with copy.open("rb") as file:
        file.seek(64 << 20)
        assert file.read(4) == b"end\0"


def test_names_that_are_no_text_travel(here: Layer, there: Layer) -> None:
    (here.folder / os.fsdecode(b"caf\xe9 \n\xff")).write_text("x")
    there.apply(here.delta({}))
    assert [os.fsencode(path.name) for path in there.folder.iterdir()] == [b"caf\xe9 \n\xff"]


def test_user_attributes_travel_and_go(here: Layer, there: Layer) -> None:
    (here.folder / "f").write_text("")
    (here.folder / "d").mkdir()
    try:
        for name in ("f", "d"):
            os.setxattr(here.folder / name, "user.colour", b"red\0")
    except OSError:
        pytest.skip("this file system has no user attributes")
    before = here.index()
    there.apply(here.delta({}, before))
    assert [os.getxattr(there.folder / name, "user.colour") for name in ("f", "d")] == [b"red\0", b"red\0"]
    os.removexattr(here.folder / "d", "user.colour")
    there.apply(here.delta(before))
    assert os.listxattr(there.folder / "d") == []


def test_a_file_that_shrinks_while_it_is_sent_keeps_the_stream_whole(here: Layer, there: Layer) -> None:
    (here.folder / "a").write_bytes(b"x" * (3 << 20))
    (here.folder / "b").write_text("after")

    def cut_short() -> Iterator[bytes]:
        for number, piece in enumerate(here.delta({})):
            if number == 1:
                os.truncate(here.folder / "a", 10)
            yield piece

    there.apply(cut_short())
    assert (there.folder / "b").read_text() == "after"


def test_a_folder_swapped_for_a_link_meanwhile_leads_nowhere(here: Layer, there: Layer, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text("TOP")
    (here.folder / "a").mkdir()
    (here.folder / "a/key").write_text("mine")
    seen = here.index()
    (here.folder / "a").rename(here.folder / "b")
    (here.folder / "a").symlink_to(tmp_path / "secrets")
    whole = b"".join(here.delta({}, seen))
    assert b"TOP" not in whole
    there.apply(here.delta({}))
    assert (there.folder / "b/key").read_text() == "mine"


def test_a_stream_that_was_cut_off_is_told(here: Layer, there: Layer) -> None:
    furnish(here.folder)
    whole = b"".join(here.delta({}))
    for length in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        with pytest.raises(SandboxFailed, match="cut off"):
            there.apply([whole[:length]])


def test_pieces_of_any_size_are_the_same_stream(here: Layer, there: Layer) -> None:
    furnish(here.folder)
    whole = b"".join(here.delta({}))
    there.apply(whole[start : start + 777] for start in range(0, len(whole), 777))
    assert listing(there) == listing(here)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "out/x"])
def test_no_path_leads_out_of_the_layer(there: Layer, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").mkdir()
    (there.folder / "out").symlink_to(tmp_path / "outside")
    head = {
        "path": path,
        "mode": 0o100644,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "mtime_ns": 0,
        "size": 0,
        "extents": [],
    }
    body = json.dumps(head).encode()
    with pytest.raises(SandboxFailed):
        there.apply([struct.pack(">I", len(body)) + body])
    assert not list((tmp_path / "outside").iterdir())
    assert not (tmp_path / "x").exists()


def record(**head: object) -> bytes:
    known = {"uid": os.getuid(), "gid": os.getgid(), "mtime_ns": 0}
    body = json.dumps(head if head.get("end") else known | head).encode()
    return struct.pack(">I", len(body)) + body


def test_a_folder_that_becomes_a_link_within_one_stream_is_no_way_out(there: Layer, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    os.utime(outside, ns=(7, 7))
    empty = {"mode": 0o100644, "size": 0, "extents": []}
    stream = [
        record(path="a", mode=0o40755),
        record(path="a/first", **empty),
        record(path="a", mode=0o120777, target=str(outside)),
        record(path="a/second", **empty),
        record(end=True),
    ]
    with pytest.raises(SandboxFailed, match="goes through a file"):
        there.apply(stream)
    assert not list(outside.iterdir())
    there.apply([*stream[:3], stream[4]])
    assert outside.stat().st_mtime_ns == 7


def test_what_is_skipped_stays(here: Layer, there: Layer) -> None:
    furnish(here.folder)
    there.apply(Layer(here.folder, skip={str(here.folder / "a")}).delta({}))
    assert not (there.folder / "a").exists()
    assert (there.folder / "script").exists()
