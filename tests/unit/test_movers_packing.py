"""Packed pieces come out as they went in, and what is no packed piece is refused."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence

import pytest
import zstandard

from sojourn.errors import MoveFailed
from sojourn.movers.pace import Pace
from sojourn.movers.packing import Packer, unpacked
from sojourn.movers.parcels import Parcels

TEXT = b"all work and no play " * 50_000


def sent(*parts: bytes) -> bytes:
    """What the first piece of a fresh pace, which is packed, comes to."""
    found: list[bytes] = []

    def put(views: Sequence[memoryview]) -> None:
        found.append(b"".join(views))

    Packer(Pace()).send([memoryview(part) for part in parts], put)
    return found[0]


def test_a_piece_in_parts_comes_out_as_it_went_in() -> None:
    body = sent(TEXT, b"x", TEXT)
    assert len(body) < len(TEXT) / 10
    assert unpacked(body, 3 * len(TEXT)) == TEXT + b"x" + TEXT


def test_what_does_not_get_smaller_stays_plain() -> None:
    noise = os.urandom(1 << 20)
    assert sent(noise) == noise


def test_nothing_stays_nothing() -> None:
    assert sent() == b""


def test_a_piece_that_claims_to_be_larger_than_it_may_be_is_refused_before_there_is_room_for_it() -> None:
    with pytest.raises(MoveFailed, match="nonsense"):
        unpacked(zstandard.ZstdCompressor().compress(TEXT), len(TEXT) - 1)
    with pytest.raises(MoveFailed, match="nonsense"):
        unpacked(b"no packed piece", 1000)


def test_a_stream_of_parcels_arrives_whole_whichever_way_its_pieces_went() -> None:
    ours, theirs = socket.socketpair()
    chunks = [TEXT, os.urandom(3 << 20), bytes(5 << 20), b"end"]
    sending = threading.Thread(target=Parcels(ours).send_stream, args=(chunks,))
    sending.start()
    with ours, theirs:
        assert b"".join(Parcels(theirs).receive_stream()) == b"".join(chunks)
        sending.join()
