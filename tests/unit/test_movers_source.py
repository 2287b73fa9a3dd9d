"""The page source as its agent and the target see it: this process's own memory, first ahead, then by request."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from sojourn.movers.pager.ahead import Larder
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.pieces import PAGE
from sojourn.movers.pager.source import Source
from sojourn.movers.pager.supply import Buffer, Order, RemoteSupply, open_memory

TASK, PAGES = 1, 64


class Move:
    """The source in a thread, its agent, and the target's supplies."""

    def __init__(self) -> None:
        pairs = [socket.socketpair() for _ in range(4)]
        ours, theirs = [near for near, _ in pairs], [far for _, far in pairs]
        self.agent = Lines(ours[0])
        self.running = threading.Thread(target=run, args=(Source(Lines(theirs[0]), theirs[1:]),))
        self.running.start()
        self.bell = os.eventfd(0)
        larder = Larder()
        self.urgent = RemoteSupply(ours[1:2], self.bell, larder, stocks=False)
        self.bulk = RemoteSupply(ours[2:], self.bell, larder, stocks=True)
        self.memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def say(self, act: str, first: int, end: int) -> None:
        """With fresh descriptors, as the agent does."""
        opened = open_memory({TASK: os.getpid()})
        self.agent.send({"do": "memory", "tasks": list(opened)}, list(opened.values()))
        ranges = {TASK: [(self.start + first * PAGE, self.start + end * PAGE)]} if first < end else {}
        self.agent.send({"do": act, "ranges": ranges})
        for number in opened.values():
            os.close(number)

    def brought(self, supply: RemoteSupply, page: int, count: int) -> bytes:
        supply.order(Order(TASK, self.start + page * PAGE, count * PAGE, Buffer(count * PAGE)))
        deadline = time.monotonic() + 10
        while not supply.tray:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        order = supply.tray.popleft()
        assert order.failure is None
        return bytes(order.buffer.view)

    def end(self) -> None:
        for supply in (self.urgent, self.bulk):
            for line in supply._lines:
                line.connection.shutdown(socket.SHUT_RDWR)
            supply.close()
        self.agent.close()
        self.running.join()
        os.close(self.bell)


def run(source: Source) -> None:
    ranges = source.listen()
    if ranges is not None:
        source.serve(ranges)


@pytest.fixture
def move() -> Iterator[Move]:
    made = Move()
    yield made
    made.end()


def test_pages_are_those_of_the_standstill_whether_they_came_ahead_or_are_asked_for(move: Move) -> None:
    move.memory[:] = b"a" * PAGES * PAGE
    move.say("ahead", 0, 32)
    assert move.agent.receive() == {"event": "ahead"}
    move.memory[3 * PAGE : 4 * PAGE] = b"b" * PAGE
    move.memory[40 * PAGE : 41 * PAGE] = b"c" * PAGE
    move.say("begin", 0, 32)
    for supply in (move.urgent, move.bulk):
        assert move.brought(supply, 2, 3) == b"a" * PAGE + b"b" * PAGE + b"a" * PAGE
        assert move.brought(supply, 39, 2) == b"a" * PAGE + b"c" * PAGE
    received = move.urgent.received_bytes
    move.brought(move.urgent, 0, 16)
    assert move.urgent.received_bytes == received, "it was in the larder"


def test_a_source_of_which_nothing_goes_ahead_answers_all_the_same(move: Move) -> None:
    move.memory[:PAGE] = b"x" * PAGE
    move.say("begin", 0, 0)
    assert move.brought(move.bulk, 0, 2) == b"x" * PAGE + bytes(PAGE)


def test_it_ends_when_its_agent_ends_before_the_standstill(move: Move) -> None:
    move.agent.connection.shutdown(socket.SHUT_RDWR)
    move.running.join(10)
    assert not move.running.is_alive()
