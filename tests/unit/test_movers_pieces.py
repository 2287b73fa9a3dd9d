"""Ranges that miss their pages: cut, moved and added, against a plain dict of pages."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.movers.pager.pieces import PAGE, Piece, Pieces


def pages(pieces: Pieces) -> dict[int, int]:
    return {
        address: piece.origin + address - piece.start
        for piece in pieces
        for address in range(piece.start, piece.end, PAGE)
    }


def test_pieces_that_touch_are_one_extent() -> None:
    pieces = Pieces([Piece(0, PAGE, 0), Piece(PAGE, 3 * PAGE, 9 * PAGE), Piece(5 * PAGE, 6 * PAGE, 0)])
    assert list(pieces.extents()) == [(0, 3 * PAGE), (5 * PAGE, 6 * PAGE)]
    assert not list(Pieces().extents())


def test_a_cut_splits_and_keeps_the_origin() -> None:
    pieces = Pieces([Piece(0, 10 * PAGE, 100 * PAGE)])
    assert pieces.cut(2 * PAGE, 4 * PAGE) == [Piece(2 * PAGE, 4 * PAGE, 102 * PAGE)]
    assert list(pieces) == [Piece(0, 2 * PAGE, 100 * PAGE), Piece(4 * PAGE, 10 * PAGE, 104 * PAGE)]
    assert pieces.bytes == 8 * PAGE


def test_at_and_after() -> None:
    pieces = Pieces([Piece(PAGE, 2 * PAGE, 0), Piece(5 * PAGE, 6 * PAGE, 0)])
    assert pieces.at(0) is None
    assert pieces.at(PAGE) == Piece(PAGE, 2 * PAGE, 0)
    assert pieces.at(2 * PAGE) is None
    assert pieces.after(2 * PAGE) == Piece(5 * PAGE, 6 * PAGE, 0)
    assert pieces.after(6 * PAGE) is None


def test_memory_that_moved_keeps_its_origin() -> None:
    pieces = Pieces([Piece(0, 4 * PAGE, 0)])
    pieces.move(PAGE, 2 * PAGE, 50 * PAGE)
    assert pages(pieces) == {0: 0, 3 * PAGE: 3 * PAGE, 50 * PAGE: PAGE, 51 * PAGE: 2 * PAGE}


number = st.integers(0, 40)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["cut", "move"]), number, number), max_size=20))
def test_any_sequence_agrees_with_a_dict_of_pages(acts: list[tuple[str, int, int]]) -> None:
    pieces = Pieces([Piece(0, 10 * PAGE, 0), Piece(15 * PAGE, 30 * PAGE, 15 * PAGE)])
    model = pages(pieces)
    free = 1000
    for act, start, count in acts:
        span = range(start * PAGE, (start + count) * PAGE, PAGE)
        if act == "cut":
            taken = pieces.cut(start * PAGE, (start + count) * PAGE)
            assert pages(Pieces(taken)) == {address: model.pop(address) for address in span if address in model}
        else:
            pieces.move(start * PAGE, count * PAGE, free * PAGE)
            moved = {free * PAGE + address - span.start: model.pop(address) for address in span if address in model}
            model.update(moved)
            free += count
    assert pages(pieces) == model
