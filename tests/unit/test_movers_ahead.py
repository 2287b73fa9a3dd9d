"""Memory that travels ahead: this process's own, sent while it changes, and met from the larder when it stands."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from sojourn.movers.pace import Pace
from sojourn.movers.packing import Packer
from sojourn.movers.pager.ahead import Advance, Larder, changed, small_memory
from sojourn.movers.pager.pieces import PAGE
from sojourn.movers.pager.supply import Buffer, FrozenMemory, Order, open_memory

TASK = 1
PAGES = 40


class Program:
    """Some memory, and both ends that carry it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.ours, self.theirs = socket.socketpair()
        self.frozen = FrozenMemory(open_memory({TASK: os.getpid()}))
        self.advance, self.larder = Advance(self.ours, Packer(Pace())), Larder()
        self.stocking = threading.Thread(target=self.larder.stock, args=(self.theirs,))
        self.stocking.start()

    def write(self, page: int, byte: bytes) -> None:
        self.memory[page * PAGE : (page + 1) * PAGE] = byte * PAGE

    def ranges(self, first: int = 0, end: int = PAGES) -> dict[int, list[tuple[int, int]]]:
        return {TASK: [(self.start + first * PAGE, self.start + end * PAGE)]}

    def finish(self, first: int = 0, end: int = PAGES) -> None:
        self.advance.finish(self.frozen, self.ranges(first, end))
        self.stocking.join()

    def met(self, page: int, count: int = 1) -> bytes | None:
        order = Order(TASK, self.start + page * PAGE, count * PAGE, Buffer(count * PAGE))
        return bytes(order.buffer.view) if self.larder.serve(order) else None


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.ours.close()
    made.stocking.join()
    made.theirs.close()


def test_orders_are_met_by_what_the_memory_was_at_the_end(program: Program) -> None:
    for page in range(PAGES):
        program.write(page, b"a")
    program.advance.round(program.frozen, program.ranges())
    program.write(7, b"b")
    assert program.met(0) is None, "nothing counts before the source has said what stands"
    program.finish()
    assert program.met(6, 3) == b"a" * PAGE + b"b" * PAGE + b"a" * PAGE


def test_only_what_has_changed_is_sent_again(program: Program) -> None:
    for page in range(PAGES):
        program.memory[page * PAGE : (page + 1) * PAGE] = os.urandom(PAGE)
    program.advance.round(program.frozen, program.ranges())
    first = program.larder.received_bytes
    program.write(3, b"x")
    program.finish()
    assert first > PAGES * PAGE
    assert program.larder.received_bytes - first < 2 * PAGE


def test_what_came_ahead_and_does_not_stand_is_not_served(program: Program) -> None:
    program.write(0, b"a")
    program.advance.round(program.frozen, program.ranges())
    program.finish(10, PAGES)
    assert program.met(0) is None
    assert program.met(10, 2) == bytes(2 * PAGE)
    assert program.met(9, 2) is None, "an order is met as a whole or not at all"


def test_what_was_sent_in_other_pieces_meanwhile_is_sent_again(program: Program) -> None:
    program.write(5, b"a")
    program.advance.round(program.frozen, program.ranges())
    program.write(5, b"b")
    program.advance.round(program.frozen, program.ranges(1))
    program.write(5, b"a")
    program.finish()
    assert program.met(5) == b"a" * PAGE


def test_a_range_that_can_not_be_read_is_passed_over(program: Program) -> None:
    program.write(0, b"a")
    program.advance.finish(program.frozen, {TASK: [(PAGE, 2 * PAGE), *program.ranges()[TASK]]})
    program.stocking.join()
    assert program.met(0) == b"a" * PAGE


def test_the_runs_of_pages_that_changed() -> None:
    before = bytes(4 * PAGE)
    now = bytes(PAGE) + b"x" * 2 * PAGE + bytes(PAGE)
    assert list(changed(before, now)) == [(PAGE, 3 * PAGE)]
    assert list(changed(b"", now)) == [(0, 4 * PAGE)]
    assert not list(changed(now, now))


def test_small_memory_is_what_is_there_of_private_mappings() -> None:
    memory = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[2 * PAGE : 4 * PAGE] = b"x" * 2 * PAGE
    found = small_memory({TASK: os.getpid()})[TASK]
    there = {page for low, high in found for page in range(low, high, PAGE)}
    pages = [(start + number * PAGE) in there for number in range(8)]
    assert pages == [False, False, True, True, False, False, False, False]
