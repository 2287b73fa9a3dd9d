"""Several deltas of a layer, written as one stream, taken apart again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from sojourn.errors import SandboxFailed
from sojourn.movers.criu.wake import parted


def parts(pieces: Sequence[bytes], sizes: Sequence[int]) -> list[bytes]:
    return [b"".join(part) for part in parted(iter(pieces), sizes)]


@pytest.mark.parametrize(
    "pieces", [[b"aaabbbbc"], [b"a", b"aab", b"", b"bb", b"bc"], [bytes([n]) for n in b"aaabbbbc"]]
)
def test_parts_have_their_sizes_whatever_the_pieces(pieces: Sequence[bytes]) -> None:
    assert parts([piece for piece in pieces if piece], (3, 4, 0, 1)) == [b"aaa", b"bbbb", b"", b"c"]


def test_a_part_that_is_not_drawn_to_its_end_does_not_run_into_the_next() -> None:
    def firsts() -> Iterator[bytes]:
        for part in parted(iter([b"ab", b"cd", b"ef"]), (4, 2)):
            yield next(part)

    assert list(firsts()) == [b"ab", b"ef"]


def test_a_stream_that_ends_early_is_an_error() -> None:
    with pytest.raises(SandboxFailed, match="cut off"):
        parts([b"aaab"], (3, 4))
