"""Which folders make sense, which lie in which, what a copy leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sojourn.errors import Incompatible, Invalid
from sojourn.model import Mount
from sojourn.sandbox.folders import check, enclosing, excluding, make_for, own_of, require, standing

CARRIED = Mount(path="/home/me/project", mode="carried")
LEFT = Mount(path="/home/me/project/raw", mode="left")
SHARED = Mount(path="/home/me")


def test_a_folder_in_another_of_its_mode_adds_nothing() -> None:
    inner = Mount(path="/home/me/notes")
    assert standing([inner, LEFT, CARRIED, SHARED]) == [SHARED, CARRIED, LEFT]
    assert standing([Mount(path="/data2"), Mount(path="/data")]) == [Mount(path="/data"), Mount(path="/data2")]


def test_a_shared_folder_in_a_carried_one_in_a_shared_one_counts() -> None:
    inner = Mount(path="/home/me/project/common")
    assert inner in standing([SHARED, CARRIED, inner])
    assert enclosing("/home/me/project/common/file", [SHARED, CARRIED]) == CARRIED
    assert enclosing("/home/me", [SHARED]) is None


@pytest.mark.parametrize(
    ("mounts", "why"),
    [
        ([Mount(path="relative")], "not a plain absolute path"),
        ([Mount(path="/proc/sys")], "has its own"),
        ([SHARED, Mount(path="/home/me", mode="left")], "named twice"),
        ([Mount(path="/home/me", mode="left", exclude=("*.zarr",))], "it is left"),
        ([Mount(path="/home/me", mode="carried", exclude=("!",))], "makes no sense"),
        ([Mount(path="/run/user", mode="left")], "would lie in the left folder /run/user"),
    ],
)
def test_what_makes_no_sense_is_refused(mounts: list[Mount], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        check(mounts, files=["/run/user/connection.json"])


def test_exclusion_is_gits() -> None:
    excludes = excluding(Mount(path="/p", mode="carried", exclude=("*.zarr", "data/raw/**", ".git", "/cache/")))
    assert excludes("deep/a.zarr", True)
    assert excludes("data/raw/x", False)
    assert excludes("sub/.git", True)
    assert excludes("cache", True)
    assert not excludes("cache", False), "a file of that name"
    assert not excludes("notes.md", False)


def test_what_is_taken_back_is_found() -> None:
    excludes = excluding(Mount(path="/p", mode="carried", exclude=("data/raw/**", "!data/raw/keep.csv")))
    assert not excludes("data/raw", True)
    assert excludes("data/raw/x", False)
    assert not excludes("data/raw/keep.csv", False)


def test_only_what_must_be_on_a_node_is_required(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    require([Mount(path=gone, mode="left")], "there", born=True)
    require([Mount(path=gone, mode="carried")], "there", born=False)
    for mount, born in ((Mount(path=gone), False), (Mount(path=gone, mode="carried"), True)):
        with pytest.raises(Incompatible, match="Node there has no folder"):
            require([mount], "there", born)


def test_a_folder_that_was_left_is_made_where_there_is_none(tmp_path: Path) -> None:
    place = tmp_path / "deep/data"
    left = Mount(path=str(place), mode="left")
    for _ in range(2):
        make_for(place, os.getuid(), os.getgid())
        assert own_of([left, SHARED]) == (f"{place} (empty there)",)
    (place / "file").touch()
    assert own_of([left]) == (str(place),)
