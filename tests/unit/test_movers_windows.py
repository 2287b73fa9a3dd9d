"""A task's memory cut into windows at fixed addresses."""

from __future__ import annotations

from sojourn.chunks import CHUNK, Run
from sojourn.movers.pager.pieces import PAGE, Piece
from sojourn.movers.saving.windows import LARGEST_READ, Read, Window, reads, runs, windows

BASE = 40 * CHUNK


def piece(start: int, end: int) -> Piece:
    return Piece(start, end, start)


def test_pages_lie_in_their_chunk_by_their_address_alone() -> None:
    alone = list(windows(1, [piece(BASE + 3 * PAGE, BASE + 4 * PAGE)]))
    with_neighbours = list(windows(1, [piece(BASE + PAGE * n, BASE + PAGE * (n + 1)) for n in (1, 3, 9)]))
    assert alone[0].address == with_neighbours[0].address == BASE
    assert with_neighbours == [Window(1, BASE, tuple((BASE + PAGE * n, BASE + PAGE * (n + 1)) for n in (1, 3, 9)))]
    assert with_neighbours[0].size == 3 * PAGE


def test_a_piece_over_several_windows_is_cut_at_their_borders() -> None:
    found = list(windows(7, [piece(BASE + CHUNK - PAGE, BASE + 2 * CHUNK + PAGE)]))
    assert [(window.address - BASE, window.size) for window in found] == [(0, PAGE), (CHUNK, CHUNK), (2 * CHUNK, PAGE)]


def test_no_pages_no_windows() -> None:
    assert list(windows(1, [])) == []
    assert list(reads([])) == []
    assert runs([], []) == {}


def test_reads_are_as_long_as_addresses_and_places_go_on_together() -> None:
    array = [
        *windows(1, [piece(BASE, BASE + 3 * CHUNK)]),
        *windows(1, [piece(BASE + 9 * CHUNK + PAGE, BASE + 10 * CHUNK)]),
    ]
    assert list(reads(array)) == [
        Read(1, BASE, 3 * CHUNK, 0),
        Read(1, BASE + 9 * CHUNK + PAGE, CHUNK - PAGE, 3 * CHUNK + PAGE),
    ]


def test_a_read_is_never_longer_than_a_threads_share_and_none_goes_over_two_tasks() -> None:
    long = list(windows(1, [piece(BASE, BASE + 2 * LARGEST_READ)]))
    assert [read.length for read in reads(long)] == [LARGEST_READ, LARGEST_READ]
    two = [*windows(1, [piece(BASE, BASE + CHUNK)]), *windows(2, [piece(BASE + CHUNK, BASE + 2 * CHUNK)])]
    assert [read.task for read in reads(two)] == [1, 2]


def test_runs_join_windows_without_a_gap() -> None:
    array = [Window(1, BASE + n * CHUNK, ()) for n in (0, 1, 5)] + [Window(2, BASE + 6 * CHUNK, ())]
    assert runs(array, ["a", "", "c", "d"]) == {
        "1": [Run(BASE, 2 * CHUNK, ("a", "")), Run(BASE + 5 * CHUNK, CHUNK, ("c",))],
        "2": [Run(BASE + 6 * CHUNK, CHUNK, ("d",))],
    }
