"""What the movers write and read: frames, protobuf, pagemaps, parcels, lines."""

from __future__ import annotations

import os
import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import MoveFailed
from sojourn.movers.criu import images
from sojourn.movers.criu.draft import Draft
from sojourn.movers.criu.service import first_error
from sojourn.movers.pagemap import lazy_pieces
from sojourn.movers.pager.frames import BLOCK, BLOCKS, runs
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.pieces import PAGE, Piece
from sojourn.movers.parcels import Parcels
from sojourn.movers.protobuf import decode, encode


@given(st.integers(0, 2**BLOCKS - 1), st.integers(1, BLOCKS * BLOCK))
def test_runs_cover_everything_once_and_tell_the_bit(blocks: int, length: int) -> None:
    at = 0
    for start, end, present in runs(blocks, length):
        assert start == at
        assert end > start
        assert all(bool(blocks >> block & 1) == present for block in range(start // BLOCK, -(-end // BLOCK)))
        at = end
    assert at == length


def test_protobuf_as_the_specification_has_it() -> None:
    assert encode({1: 150}) == b"\x08\x96\x01"
    assert encode({2: "testing"}) == b"\x12\x07testing"
    assert encode({1: -1}) == b"\x08" + b"\xff" * 9 + b"\x01"
    assert encode({3: ["a", "b"]}) == b"\x1a\x01a\x1a\x01b"
    assert decode(b"\x08\x96\x01\x12\x02hi\x1d\x01\x00\x00\x00") == {1: 150, 2: b"hi", 3: 1}


@given(st.dictionaries(st.integers(1, 100), st.one_of(st.integers(0, 2**64 - 1), st.binary()), max_size=8))
def test_protobuf_there_and_back(message: dict[int, int | bytes]) -> None:
    assert decode(encode(message)) == message


def test_only_lazy_pages_are_the_pagers(tmp_path: Path) -> None:
    bodies = [
        encode({1: 1}),
        encode({1: 0x1000, 2: 2, 4: 2}),
        encode({1: 0x5000, 2: 1, 4: 4}),
        encode({1: 0x9000, 2: 0, 4: 2, 5: 3}),
    ]
    image = b"magic..." + b"".join(struct.pack("<I", len(body)) + body for body in bodies)
    (tmp_path / "pagemap-7.img").write_bytes(image)
    (tmp_path / "pagemap-shmem-7.img").write_bytes(image)
    assert lazy_pieces(tmp_path) == {
        7: [Piece(0x1000, 0x1000 + 2 * PAGE, 0x1000), Piece(0x9000, 0x9000 + 3 * PAGE, 0x9000)]
    }


def test_the_first_error_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_text(
        "Warn  (criu/x.c:1): nothing\n"
        "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
        "(00.123456) Error (criu/files.c:7): Can't dump that\n"
        "(00.123457) Error (criu/cr-dump.c:9): Dumping FAILED.\n"
    )
    assert first_error(log) == "Can't dump that"
    assert first_error(tmp_path / "absent") == ""


def pair() -> tuple[Parcels, Parcels, socket.socket, socket.socket]:
    one, other = socket.socketpair()
    return Parcels(one), Parcels(other), one, other


def test_parcels_carry_heads_and_streams() -> None:
    ours, theirs, one, other = pair()
    with one, other:
        sending = threading.Thread(
            target=lambda: (ours.send(layer="last"), ours.send_stream([b"ab", b"c" * 5_000_000]))
        )
        sending.start()
        assert theirs.expect("layer") == "last"
        assert b"".join(theirs.receive_stream()) == b"ab" + b"c" * 5_000_000
        sending.join()


def test_a_parcel_that_does_not_come_is_a_failed_move() -> None:
    ours, theirs, one, other = pair()
    with other:
        ours.send(something=1)
        one.close()
        with pytest.raises(MoveFailed, match="where layer was due"):
            theirs.expect("layer")
        with pytest.raises(MoveFailed, match="gone"):
            theirs.receive()


def test_images_arrive_as_they_were(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    bodies = {"a.img": b"", "core-1.img": os.urandom(5000), "z.img": b"x" * 3_000_000}
    for name, body in bodies.items():
        (source / name).write_bytes(body)
    (source / "dump.log").write_text("not an image")
    sizes = images.image_sizes(source)
    ours, theirs, one, other = pair()
    with one, other:
        sending = threading.Thread(target=lambda: ours.send_stream(images.contents(source, sizes, Draft())))
        sending.start()
        assert images.receive(target, sizes, theirs, Draft()) == sum(map(len, bodies.values()))
        sending.join()
    assert {file.name: file.read_bytes() for file in target.iterdir()} == bodies


def test_lines_bring_descriptors_to_the_line_they_belong_to(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    ours, theirs = Lines(one), Lines(other)
    files = [(tmp_path / str(number)).open("w+") for number in range(3)]
    for file in files:
        file.write(file.name)
        file.flush()
        ours.send({"file": file.name}, [file.fileno()])
    ours.close()
    seen = []
    while theirs.pump():
        for message in theirs.messages():
            (number,) = theirs.take()
            seen.append((message["file"], os.pread(number, 1000, 0).decode()))
            os.close(number)
    theirs.close()
    for file in files:
        file.close()
    assert seen == [(file.name, file.name) for file in files]
