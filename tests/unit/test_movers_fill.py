"""Filling as stories: what happens in an address space while its pages are on their way."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

import pytest

from sojourn.errors import MoveFailed
from sojourn.movers.pager import fill as module
from sojourn.movers.pager.fill import Fill, Space
from sojourn.movers.pager.pieces import PAGE, Piece
from sojourn.movers.pager.supply import Order, Supply
from sojourn.movers.pager.userfault import Dropped, Fault, Forked, Happening, Moved

BASE = 0x10000000


class Memory:
    """Stands in for a userfaultfd: pages that are in, by address, and what the kernel will say next."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.pages: dict[int, bytes] = {}
        self.unread: list[Happening] = []
        self.unmapped: set[int] = set()
        self.gone = self.closed = False
        self.woken: list[int] = []

    def read(self) -> list[Happening]:
        happened, self.unread = self.unread, []
        return happened

    def copy(self, address: int, source: int, length: int) -> tuple[int, int]:
        return self._fill(address, length, lambda offset: ctypes.string_at(source + offset, 1))

    def zero(self, address: int, length: int) -> tuple[int, int]:
        return self._fill(address, length, lambda offset: b"\0")

    def _fill(self, address: int, length: int, first_byte: object) -> tuple[int, int]:
        if self.gone:
            return 0, errno.ESRCH
        if any(not isinstance(happening, Fault) for happening in self.unread):
            return 0, errno.EAGAIN
        if any(page in self.unmapped for page in range(address, address + length, PAGE)):
            return 0, errno.ENOENT
        for offset in range(0, length, PAGE):
            if address + offset in self.pages:
                return offset, errno.EAGAIN if offset else errno.EEXIST
            self.pages[address + offset] = first_byte(offset)  # type: ignore[operator]
        return length, 0

    def wake(self, address: int, length: int) -> None:
        self.woken.append(address)

    def close(self) -> None:
        self.closed = True


class Hand(Supply):
    """Brings what is ordered when told to; the first byte of each page tells where it lay."""

    def __init__(self, bell: int) -> None:
        super().__init__(bell)
        self.orders: list[Order] = []

    def order(self, order: Order) -> None:
        self.orders.append(order)

    def bring(self) -> None:
        while self.orders:
            order = self.orders.pop(0)
            for offset in range(0, order.length, PAGE):
                order.buffer.view[offset] = mark(order.address + offset)[0]
            order.blocks = 0xFFFFFFFF
            self._bring(order)


def mark(address: int) -> bytes:
    return bytes([address // PAGE % 251 + 1])


class Story:
    def __init__(self, bell: int) -> None:
        self.urgent, self.bulk = Hand(bell), Hand(bell)
        self.forks: list[Space] = []
        self.fill = Fill(self.urgent, self.bulk, self.forks.append)

    def space(self, number: int, pages: int) -> tuple[Space, Memory]:
        space = self.fill.add(number, 1, [Piece(BASE, BASE + pages * PAGE, BASE)])
        return space, space.userfault  # type: ignore[return-value]

    def happens(self, space: Space, *happening: Happening) -> None:
        space.userfault.unread += happening  # type: ignore[attr-defined]
        self.fill.look(space)

    def finish(self) -> None:
        self.fill.restored = True
        for _ in range(1000):
            self.urgent.bring()
            self.bulk.bring()
            for space in list(self.fill.spaces.values()):
                self.fill.look(space)
            self.fill.step()
            if self.fill.done:
                return
        raise AssertionError("never done")


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setattr(module, "Userfault", Memory)
    bell = os.eventfd(0)
    yield Story(bell)
    os.close(bell)


def expected(pages: int, start: int = BASE, origin: int = BASE) -> dict[int, bytes]:
    return {start + n * PAGE: mark(origin + n * PAGE) for n in range(pages)}


def test_everything_is_filled_once_and_counted(story: Story) -> None:
    _, memory = story.space(3, 700)
    story.finish()
    assert memory.pages == expected(700)
    assert (story.fill.filled_bytes, story.fill.dropped_bytes) == (700 * PAGE, 0)


def test_the_smallest_space_and_what_is_small_come_before_a_heap(story: Story) -> None:
    heap = module.SMALL // PAGE + 1
    story.fill.add(3, 6, [Piece(0, heap * PAGE, 0), Piece(BASE, BASE + PAGE, BASE)])
    story.fill.add(4, 1, [Piece(BASE, BASE + 2 * PAGE, BASE)])
    story.fill.restored = True
    story.fill.step()
    assert [(order.task, order.address) for order in story.bulk.orders[:3]] == [(1, BASE), (6, BASE), (6, 0)]


def test_a_heap_may_be_made_to_wait_but_for_faults(story: Story) -> None:
    heap = module.SMALL // PAGE + 1
    space, memory = story.space(3, heap)
    story.fill.restored = story.fill.only_small = True
    story.fill.step()
    assert not story.bulk.orders
    story.happens(space, Fault(BASE + PAGE))
    story.urgent.bring()
    story.fill.step()
    assert BASE + PAGE in memory.pages
    story.fill.only_small = False
    story.finish()
    assert memory.pages == expected(heap)


def test_a_fault_before_crius_end_is_answered(story: Story) -> None:
    space, memory = story.space(3, 100)
    story.happens(space, Fault(BASE + 5 * PAGE))
    story.urgent.bring()
    story.fill.step()
    assert memory.pages[BASE + 5 * PAGE] == mark(BASE + 5 * PAGE)
    assert not story.fill.done


def test_a_page_in_no_image_is_zeros(story: Story) -> None:
    space, memory = story.space(3, 1)
    story.happens(space, Fault(BASE + 99 * PAGE))
    assert memory.pages[BASE + 99 * PAGE] == b"\0"


def test_more_faults_than_buffers_are_all_answered_before_crius_end(story: Story) -> None:
    """A program of many threads: CRIU waits for each of them."""
    step = module.AROUND // PAGE
    faults = 3 * module.URGENT_BUFFERS
    space, memory = story.space(3, faults * step)
    story.happens(space, *(Fault(BASE + n * module.AROUND) for n in range(faults)))
    for _ in range(3):
        story.urgent.bring()
        story.fill.step()
    assert memory.pages == expected(faults * step)
    assert story.fill.faults == faults


def test_a_fault_on_a_page_that_is_on_its_way_waits_for_it(story: Story) -> None:
    space, memory = story.space(3, 10)
    story.fill.restored = True
    story.fill.step()
    story.happens(space, Fault(BASE))
    assert memory.pages == {}
    story.finish()
    assert memory.pages == expected(10)


def test_what_the_program_gave_back_on_its_way_is_not_put_there(story: Story) -> None:
    space, memory = story.space(3, 10)
    story.fill.restored = True
    story.fill.step()  # all ordered
    story.happens(space, Dropped(BASE + 2 * PAGE, BASE + 4 * PAGE))
    story.finish()
    assert memory.pages == {a: m for a, m in expected(10).items() if a not in (BASE + 2 * PAGE, BASE + 3 * PAGE)}
    assert story.fill.dropped_bytes == 2 * PAGE


def test_an_unread_event_is_read_before_the_page_is_put(story: Story) -> None:
    space, memory = story.space(3, 4)
    story.fill.restored = True
    story.fill.step()
    story.bulk.bring()
    space.userfault.unread.append(Dropped(BASE, BASE + PAGE))  # type: ignore[attr-defined]
    story.fill.step()
    assert memory.pages == {}
    story.finish()
    assert BASE not in memory.pages
    assert len(memory.pages) == 3


def test_memory_that_moved_gets_its_pages_at_the_new_place(story: Story) -> None:
    space, memory = story.space(3, 10)
    story.fill.restored = True
    story.fill.step()
    story.happens(space, Moved(BASE, 2 * BASE, 4 * PAGE))
    story.finish()
    assert memory.pages == {**expected(4, 2 * BASE), **expected(6, BASE + 4 * PAGE, BASE + 4 * PAGE)}


def test_a_fork_gets_all_that_its_parent_misses(story: Story) -> None:
    space, memory = story.space(3, 10)
    story.fill.restored = True
    story.fill.step()
    story.happens(space, Forked(4))
    story.finish()
    (child,) = story.forks
    assert memory.pages == expected(10)
    assert child.userfault.pages == expected(10)  # type: ignore[attr-defined]
    assert story.fill.filled_bytes == 20 * PAGE


def test_a_page_that_is_there_already_counts_and_wakes(story: Story) -> None:
    _, memory = story.space(3, 3)
    memory.pages[BASE] = b"x"
    story.finish()
    assert memory.pages[BASE] == b"x"
    assert BASE in memory.woken


def test_a_task_that_ended_ends_its_fill(story: Story) -> None:
    _, memory = story.space(3, 2000)
    memory.gone = True
    story.finish()
    assert story.fill.dropped_bytes == 2000 * PAGE


def test_a_hole_in_the_mappings_is_stepped_over_only_after_crius_end(story: Story) -> None:
    space, memory = story.space(3, 8)
    memory.unmapped = {BASE + 3 * PAGE}
    story.happens(space, Fault(BASE))
    story.urgent.bring()
    story.fill.step()
    assert space.pending.bytes == PAGE  # to be tried again when its mapping is there
    memory.unmapped = set()
    story.finish()
    assert memory.pages == expected(8)


def test_a_source_that_can_not_read_ends_the_fill_loudly(story: Story) -> None:
    story.space(3, 1)
    story.fill.restored = True
    story.fill.step()
    order = story.bulk.orders[0]
    order.failure = OSError(errno.ECONNRESET, "gone")
    story.bulk.tray.append(order)
    with pytest.raises(MoveFailed, match="can't be had any more"):
        story.fill.step()
    assert not story.fill.done
