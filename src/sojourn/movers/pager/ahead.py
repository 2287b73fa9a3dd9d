"""What travels ahead of any request: the small memory that a session is made of, of which it needs much at once.

A fault that goes to the source and back takes a round trip, and a session that has just been thawed has a hundred of
them, one after the other. So its small mappings are sent while it still runs, and what has changed is sent again when
it stands still; at last the source says which pages stand as they were sent. The rest is the fill's affair.

On the connection that carries it, from the source: frames `(kind, ranges, length, stored)` and then as many REQUESTs,
each naming a range. PAGES: their bytes follow, `stored` of them, packed if that is less than `length`. ROUND_OVER: the
target answers with one byte. STANDING, the last: these ranges stand as they were sent. What comes after it on this
connection are requests and answers (`frames`).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sojourn.movers.packing import Packer, unpacked
from sojourn.movers.pager.frames import BLOCK, REQUEST
from sojourn.movers.pager.pieces import PAGE
from sojourn.movers.pager.supply import Buffer, FrozenMemory, Order, blocks_with_data, receive_exactly, send_all

SMALL_MAPPING = 64 << 20
MOST_BYTES = 128 << 20
"""Reading and comparing it must be done before CRIU has dumped: 50 ms for these."""
BATCH = 1 << 20
_FRAME = struct.Struct("!BIII")
_PAGES, _ROUND_OVER, _STANDING = range(3)
_MOST_RANGES = 1 << 20
_TAKEN = b"\0"
_PRESENT, _FILE_OR_SHARED = 1 << 63, 1 << 61

Ranges = Mapping[int, Iterable[tuple[int, int]]]
"""Task, as the sandbox numbers it -> (start, end) of each range of its memory."""


class Window(NamedTuple):
    """At most a block of a task's memory, within one aligned block: what is compared."""

    task: int
    start: int
    end: int


# ── which memory ──


def small_memory(pids: Mapping[int, int]) -> dict[int, list[tuple[int, int]]]:
    """The pages in small private mappings of tasks (PID in the sandbox -> PID here), the smallest mappings first and
    not more than MOST_BYTES in all. Raises OSError when a task is gone."""
    all_of_them = ((task, start, end) for task, pid in pids.items() for start, end in mappings(pid))
    found: dict[int, list[tuple[int, int]]] = {task: [] for task in pids}
    left = MOST_BYTES
    for task, start, end in sorted(all_of_them, key=lambda one: one[2] - one[1]):
        if end - start > SMALL_MAPPING or left <= 0:
            break
        runs = list(resident(pids[task], start, end))
        left -= sum(high - low for low, high in runs)
        found[task] += runs
    return found


def mappings(pid: int, *, of_files: bool = False) -> Iterator[tuple[int, int]]:
    """(start, end) of a task's private mappings: those of files, or the others that can be written to
    (proc_pid_maps(5)). Raises OSError when it is gone."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, rights, _, _, inode, *_ = line.split(maxsplit=5)
        if rights[3] == "p" and (inode != "0" if of_files else inode == "0" and rights[1] == "w"):
            start, _, end = addresses.partition("-")
            yield int(start, 16), int(end, 16)


def resident(pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of pages that are there, and the task's own (proc_pid_pagemap(5)). Raises OSError when it is gone."""
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(start // PAGE * 8)
        entries = memoryview(pagemap.read((end - start) // PAGE * 8)).cast("Q")
    low = None
    for address, entry in zip(range(start, end, PAGE), entries, strict=False):
        is_there = bool(entry & _PRESENT) and not entry & _FILE_OR_SHARED
        if is_there and low is None:
            low = address
        elif not is_there and low is not None:
            yield low, address
            low = None
    if low is not None:
        yield low, end


# ── the source's end ──


class Advance:
    """Sends memory ahead, and keeps a copy of it, by which it knows what has changed since."""

    def __init__(self, connection: socket.socket, packer: Packer) -> None:
        self._connection, self._packer = connection, packer
        self._sent: dict[Window, bytes] = {}
        """Of the last round alone: a window that was none in it may have been sent since in other pieces."""
        self._batch: list[tuple[int, int, bytes]] = []
        self._batch_bytes = 0
        self._buffer = Buffer(BLOCK)

    def round(self, memory: FrozenMemory, ranges: Ranges) -> None:
        """Send what is not there as it now is, of tasks that may be running; returns when it is there. Raises
        OSError."""
        self._send_changed(memory, ranges)
        self._connection.sendall(_FRAME.pack(_ROUND_OVER, 0, 0, 0))
        receive_exactly(self._connection, memoryview(bytearray(len(_TAKEN))))

    def finish(self, memory: FrozenMemory, ranges: Ranges) -> None:
        """The last round, of tasks that stand still, and what stands. Raises OSError."""
        self._send_changed(memory, ranges)
        standing = [REQUEST.pack(task, start, end - start) for task, start, end in self._sent]
        self._sent.clear()
        self._connection.sendall(_FRAME.pack(_STANDING, len(standing), 0, 0) + b"".join(standing))

    def _send_changed(self, memory: FrozenMemory, ranges: Ranges) -> None:
        """Afterwards the other side has each window that could be read as its copy is here."""
        before, self._sent = self._sent, {}
        for window in windows(ranges):
            view = self._buffer.view[: window.end - window.start]
            try:
                memory.read_into(window.task, window.start, view)
            except OSError:  # given back by the program
                continue
            self._sent[window] = self._compared(window, before.get(window, b""), view)
        self._send_batch()

    def _compared(self, window: Window, before: bytes, view: memoryview) -> bytes:
        if view == before:
            return before
        now = bytes(view)
        for low, high in changed(before, now):
            self._batch.append((window.task, window.start + low, now[low:high]))
            self._batch_bytes += high - low
        if self._batch_bytes >= BATCH:
            self._send_batch()
        return now

    def _send_batch(self) -> None:
        batch, length = self._batch, self._batch_bytes
        self._batch, self._batch_bytes = [], 0
        if not batch:
            return
        ranges = b"".join(REQUEST.pack(task, address, len(body)) for task, address, body in batch)

        def put(parts: Iterable[memoryview]) -> None:
            parts = list(parts)
            head = _FRAME.pack(_PAGES, len(batch), length, sum(map(len, parts)))
            send_all(self._connection, [memoryview(head + ranges), *parts])

        self._packer.send([memoryview(b"".join(body for _, _, body in batch))], put)


def windows(ranges: Ranges) -> Iterator[Window]:
    for task, some in ranges.items():
        for start, end in some:
            while start < end:
                border = min(end, (start // BLOCK + 1) * BLOCK)
                yield Window(task, start, border)
                start = border


def changed(before: bytes, now: bytes) -> Iterator[tuple[int, int]]:
    """(offset, end) of each run of pages that are not what they were; all of it, where it was of another size."""
    if len(before) != len(now):
        yield 0, len(now)
        return
    low = None
    for offset in range(0, len(now), PAGE):
        differs = before[offset : offset + PAGE] != now[offset : offset + PAGE]
        if differs and low is None:
            low = offset
        elif not differs and low is not None:
            yield low, offset
            low = None
    if low is not None:
        yield low, len(now)


# ── the target's end ──


class Larder:
    """What has come ahead. Orders are met from it when the source has said what of it stands."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, int], memoryview] = {}
        self._is_settled = False
        self.received_bytes = 0

    def stock(self, connection: socket.socket) -> None:
        """Take in what comes, until the source has said what stands. Raises OSError, MoveFailed."""
        while not self._is_settled:
            kind, count, length, stored = _FRAME.unpack(_exactly(connection, _FRAME.size))
            if count > _MOST_RANGES or length > 2 * BATCH or stored > length:
                raise OSError(errno.EPROTO, "what came ahead makes no sense")
            ranges = list(REQUEST.iter_unpack(_exactly(connection, count * REQUEST.size)))
            self.received_bytes += _FRAME.size + count * REQUEST.size + stored
            if kind == _PAGES:
                self._put(ranges, _exactly(connection, stored), length)
            elif kind == _STANDING:
                self._settle(ranges)
            else:
                connection.sendall(_TAKEN)

    def serve(self, order: Order) -> bool:
        """Meet an order, if all that it wants is here."""
        if not self._is_settled:
            return False
        wanted = range(order.address, order.address + order.length, PAGE)
        pages = [self._pages.get((order.task, address)) for address in wanted]
        for number, page in enumerate(pages):
            if page is None:
                return False
            order.buffer.view[number * PAGE : (number + 1) * PAGE] = page
        order.blocks = blocks_with_data(order.buffer, order.length)
        return True

    def _put(self, ranges: list[tuple[int, int, int]], body: bytearray, length: int) -> None:
        view = memoryview(body if len(body) == length else unpacked(body, length))
        for task, address, size in ranges:
            for offset in range(0, size, PAGE):
                self._pages[task, address + offset] = view[offset : offset + PAGE]
            view = view[size:]

    def _settle(self, ranges: list[tuple[int, int, int]]) -> None:
        standing = ((task, page) for task, start, size in ranges for page in range(start, start + size, PAGE))
        self._pages = {key: page for key in standing if (page := self._pages.get(key))}
        self._is_settled = True


def _exactly(connection: socket.socket, size: int) -> bytearray:
    body = bytearray(size)
    receive_exactly(connection, memoryview(body))
    return body
