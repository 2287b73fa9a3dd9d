"""Windows read from memory: straight, and from a copy that was set aside. The memory is this process's own."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from sojourn.chunks import CHUNK
from sojourn.movers.abilities import address_of
from sojourn.movers.pager.pieces import PAGE, Piece
from sojourn.movers.pager.supply import Buffer, FrozenMemory
from sojourn.movers.saving.memory import Aside, Shared, Straight, in_threads, room_aside
from sojourn.movers.saving.windows import Window, windows

GB = 1 << 30


@pytest.fixture
def heap() -> mmap.mmap:
    made = mmap.mmap(-1, 4 * CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, len(made), PAGE):
        made[start] = start // PAGE % 251 + 1
    return made


@pytest.fixture
def tasks() -> Iterator[FrozenMemory]:
    itself = os.open("/proc/self/mem", os.O_RDONLY)
    yield FrozenMemory({1: itself})
    os.close(itself)


def holey(heap: mmap.mmap) -> tuple[list[Window], bytes]:
    """Windows over all pages of a heap but every fifth, and what they must read as, from the first window on."""
    start = address_of(heap)
    pages = [start + n for n in range(0, len(heap), PAGE) if n // PAGE % 5]
    array = list(windows(1, [Piece(page, page + PAGE, page) for page in pages]))
    expected = bytearray(len(array) * CHUNK)
    for page in pages:
        at = page - array[0].address
        expected[at : at + PAGE] = heap[page - start : page - start + PAGE]
    return array, bytes(expected)


def test_straight_reads_zeros_between_the_pages(heap: mmap.mmap, tasks: FrozenMemory) -> None:
    array, expected = holey(heap)
    memory, buffer = Straight(tasks, array), Buffer(CHUNK)
    buffer.view[:] = b"x" * CHUNK  # of another window
    assert b"".join(bytes(memory.read(number, buffer)) for number in range(len(array))) == expected


def test_a_copy_stays_as_it_was(heap: mmap.mmap, tasks: FrozenMemory) -> None:
    array, expected = holey(heap)
    memory, buffer = Aside(len(array) * CHUNK + GB // 64, 2), Buffer(CHUNK)
    assert memory.fits(array)
    memory.take(2 * CHUNK)
    memory.bring(tasks, array)
    heap[:] = b"y" * len(heap)
    for number in range(len(array)):
        assert bytes(memory.read(number, buffer)) == expected[number * CHUNK : (number + 1) * CHUNK]
        memory.done(number)


def test_a_copy_does_not_fit_into_less_room(heap: mmap.mmap) -> None:
    array, _ = holey(heap)
    assert not Aside((len(array) - 1) * CHUNK, 1).fits(array)


def test_memory_that_is_gone_is_an_error_and_never_zeros(tasks: FrozenMemory) -> None:
    gone = [Window(1, CHUNK, ((CHUNK, CHUNK + PAGE),))]  # below what a process may map
    with pytest.raises(OSError, match=r"Input/output|no memory"):
        Straight(tasks, gone).read(0, Buffer(CHUNK))
    with pytest.raises(OSError, match=r"Input/output|no memory"):
        Aside(CHUNK, 2).bring(tasks, gone)


@pytest.mark.parametrize(
    ("expected", "free", "room"),
    [
        (GB, 8 * GB, 2 * GB + GB // 4),
        (GB, 2 * GB, 2 * GB - GB // 4),
        (2 * GB, 2 * GB, 0),
        (20 * GB, 21 * GB, 0),
        (0, GB // 8, 0),
    ],
)
def test_a_copy_leaves_room_for_others(expected: int, free: int, room: int) -> None:
    assert room_aside(expected, free) == room // CHUNK * CHUNK


def test_threads_draw_each_item_once_and_a_failure_is_raised() -> None:
    drawn: list[int] = []
    numbers = Shared(range(100))
    in_threads(4, lambda: drawn.extend(numbers))
    assert sorted(drawn) == list(range(100))
    with pytest.raises(ZeroDivisionError):
        in_threads(2, lambda: 1 // 0)
