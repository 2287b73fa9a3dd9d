"""Pages ordered over a connection: answered in order, and failed, each once, when the connection ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
import zstandard

from sojourn.movers.pager.ahead import Larder
from sojourn.movers.pager.frames import ANSWER, REQUEST
from sojourn.movers.pager.supply import Buffer, Order, RemoteSupply, receive_exactly

PAGE = 4096


@pytest.fixture
def ends() -> Iterator[tuple[RemoteSupply, socket.socket]]:
    ours, theirs = socket.socketpair()
    bell = os.eventfd(0)
    supply = RemoteSupply([ours], bell, Larder(), stocks=False)
    yield supply, theirs
    theirs.close()
    supply.close()
    os.close(bell)


def order(address: int) -> Order:
    return Order(1, address, PAGE, Buffer(PAGE))


def brought(supply: RemoteSupply, count: int) -> list[Order]:
    deadline = time.monotonic() + 5
    while len(supply.tray) < count:
        assert time.monotonic() < deadline, supply.tray
        time.sleep(0.001)
    return list(supply.tray)


def test_an_answer_fills_the_buffer_of_its_order(ends: tuple[RemoteSupply, socket.socket]) -> None:
    supply, source = ends
    supply.order(wanted := order(0x1000))
    request = bytearray(REQUEST.size)
    receive_exactly(source, memoryview(request))
    assert REQUEST.unpack(request) == (1, 0x1000, PAGE)
    source.sendall(ANSWER.pack(PAGE, 1, PAGE) + b"x" * PAGE)
    assert brought(supply, 1) == [wanted]
    assert wanted.failure is None
    assert bytes(wanted.buffer.view[:PAGE]) == b"x" * PAGE


def test_a_packed_answer_fills_it_too(ends: tuple[RemoteSupply, socket.socket]) -> None:
    supply, source = ends
    supply.order(wanted := order(0x1000))
    packed = zstandard.ZstdCompressor().compress(b"x" * PAGE)
    source.sendall(ANSWER.pack(PAGE, 1, len(packed)) + packed)
    brought(supply, 1)
    assert bytes(wanted.buffer.view[:PAGE]) == b"x" * PAGE
    assert supply.received_bytes == ANSWER.size + len(packed)


def test_an_answer_that_makes_no_sense_fails_what_was_asked(ends: tuple[RemoteSupply, socket.socket]) -> None:
    supply, source = ends
    orders = [order(0x1000), order(0x2000)]
    for one in orders:
        supply.order(one)
    source.sendall(ANSWER.pack(PAGE, 1, 9) + b"no packed")
    assert brought(supply, 2) == orders
    assert all(one.failure for one in orders)


def test_what_was_asked_before_the_connection_ended_fails_once(ends: tuple[RemoteSupply, socket.socket]) -> None:
    supply, source = ends
    orders = [order(0x1000), order(0x2000)]
    for one in orders:
        supply.order(one)
    source.shutdown(socket.SHUT_RDWR)
    assert brought(supply, 2) == orders
    assert all(one.failure for one in orders)


def test_what_is_asked_after_the_connection_ended_fails_too(ends: tuple[RemoteSupply, socket.socket]) -> None:
    supply, source = ends
    source.shutdown(socket.SHUT_RDWR)
    time.sleep(0.05)  # its thread has ended by now
    supply.order(late := order(0x1000))
    assert brought(supply, 1) == [late]
    assert isinstance(late.failure, OSError)
