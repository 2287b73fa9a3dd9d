from __future__ import annotations

import random
from pathlib import Path

import pytest

from sojourn.rider.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(str(tmp_path / "spool"), memory_bytes=10, disk_bytes=20, own_bytes=0)


def files(spool: Spool) -> int:
    return len(list(Path(spool.folder).glob("*")))


def test_memory_first_then_a_file_then_full(spool: Spool) -> None:
    backlog = spool.backlog()
    backlog.add(b"a" * 10)
    assert files(spool) == 0
    backlog.add(b"b" * 15)
    assert (files(spool), backlog.full, len(backlog)) == (1, False, 25)
    backlog.add(b"c" * 5)
    assert backlog.full
    assert spool.backlog().full, "the bounds are shared"


def test_what_one_stream_keeps_leaves_a_little_room_for_each_other(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "spool"), memory_bytes=10, disk_bytes=20, own_bytes=5)
    output, replies = spool.backlog(), spool.backlog()
    for _ in range(3):
        output.add(b"o" * 10)
    assert output.full
    replies.add(b"answer")
    assert replies.full
    assert replies.take(99) == b"answer"


def test_what_comes_out_is_what_went_in_and_nothing_stays(spool: Spool) -> None:
    backlog, rng, went_in, came_out = spool.backlog(), random.Random(3), b"", b""
    for _ in range(500):
        if rng.random() < 0.5 and not backlog.full:
            data = rng.randbytes(rng.randint(1, 6))
            backlog.add(data)
            went_in += data
        else:
            came_out += backlog.take(rng.randint(1, 8))
        assert len(backlog) == len(went_in) - len(came_out)
    while backlog:
        came_out += backlog.take(3)
    assert came_out == went_in
    assert (spool.in_memory, spool.on_disk, files(spool)) == (0, 0, 0)


def test_a_disk_that_fails_loses_nothing_and_makes_it_full(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("where the folder should be")
    spool = Spool(str(tmp_path / "a file"), memory_bytes=10, disk_bytes=1000, own_bytes=0)
    backlog = spool.backlog()
    backlog.add(b"a" * 10)
    backlog.add(b"b" * 10)
    assert backlog.full
    assert backlog.take(99) + backlog.take(99) + backlog.take(99) == b"a" * 10 + b"b" * 10
    assert not backlog.full
    assert spool.in_memory == 0


def test_clearing_gives_everything_back(spool: Spool) -> None:
    backlog = spool.backlog()
    for _ in range(3):
        backlog.add(b"x" * 9)
    backlog.clear()
    assert (len(backlog), spool.in_memory, spool.on_disk, files(spool)) == (0, 0, 0, 0)


def test_a_file_in_use_is_bounded_even_when_memory_is_free_again(spool: Spool) -> None:
    backlog = spool.backlog()
    backlog.add(b"a" * 10)
    backlog.add(b"b" * 20)
    backlog.take(10)
    assert (spool.in_memory, backlog.full) == (0, True)
