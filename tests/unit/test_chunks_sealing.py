"""What lies in a store tells nobody anything, and can't be changed unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sojourn.chunks.sealing import Seal, Unsealable
from sojourn.errors import Invalid

MINE, OTHER = Seal(b"m" * 32), Seal(b"o" * 32)


@given(some.binary(max_size=20_000) | some.integers(0, 300_000).map(lambda size: b"abc " * (size // 4)))
def test_what_is_closed_opens(plain: bytes) -> None:
    name = MINE.name(plain)
    assert MINE.open(bytes(MINE.close(plain, name)), name) == plain


def test_what_shrinks_is_stored_smaller_and_what_does_not_is_hardly_larger() -> None:
    import random

    noise = random.Random(1).randbytes(262_144)
    assert len(MINE.close(b"text " * 50_000, "n")) < 2_000
    assert len(MINE.close(noise, "n")) < len(noise) + 64


def test_names_and_bodies_depend_on_the_owner() -> None:
    assert MINE.name(b"x") == Seal(b"m" * 32).name(b"x") != OTHER.name(b"x")
    assert MINE.owner != OTHER.owner
    assert b"secret" not in bytes(MINE.close(b"a secret", "n"))
    assert bytes(MINE.close(b"a secret", "n")) != bytes(MINE.close(b"a secret", "n"))


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def test_what_is_wrong_is_named() -> None:
    body = bytes(MINE.close(b"page" * 1000, "n"))
    for flaw, broken, seal, name in (
        ("truncated to 0 bytes", b"", MINE, "n"),
        ("truncated to [0-9]+ of", body[:-1], MINE, "n"),
        ("altered", flipped(body, len(body) - 1), MINE, "n"),
        ("altered", body, MINE, "another"),
        ("another key", body, OTHER, "n"),
    ):
        with pytest.raises(Unsealable, match=flaw):
            seal.open(broken, name)


@given(some.data())
def test_no_flipped_bit_goes_unnoticed_where_it_matters(data: some.DataObject) -> None:
    body = bytes(MINE.close(b"page" * 100, "n"))
    at = data.draw(some.integers(0, len(body) - 1))
    if 1 <= at < 9:  # the fingerprint and the length only explain
        assert MINE.open(flipped(body, at), "n") == b"page" * 100
    else:
        with pytest.raises(Unsealable):
            MINE.open(flipped(body, at), "n")


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(Invalid, match="32 bytes, not 5"):
        Seal(b"short")
