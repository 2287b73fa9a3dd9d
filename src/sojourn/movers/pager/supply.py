"""How bytes get from the frozen tasks' memory into a buffer: read here, or asked of the page source.

A supply takes orders from one thread, the one that fills, and lays what it brought on a tray for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import queue
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sojourn.errors import SojournError
from sojourn.movers.packing import unpacked
from sojourn.movers.pager.frames import ANSWER, BLOCK, LARGEST, REQUEST, runs

if TYPE_CHECKING:
    from sojourn.movers.pager.ahead import Larder

_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Buffer:
    """Memory that is used again and again: fresh memory would cost a page fault of our own for each page."""

    def __init__(self, size: int = LARGEST) -> None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))


_ZEROS = Buffer(BLOCK)


def blocks_with_data(buffer: Buffer, length: int) -> int:
    """The `blocks` of an answer: a bit for each block that is not all zeros."""
    blocks = 0
    for bit, start in enumerate(range(0, length, BLOCK)):
        if _libc.memcmp(buffer.address + start, _ZEROS.address, min(BLOCK, length - start)):
            blocks |= 1 << bit
    return blocks


class FrozenMemory:
    """The memory of frozen tasks: descriptors of their /proc/PID/mem by PID, as the sandbox numbers it."""

    def __init__(self, descriptors: Mapping[int, int]) -> None:
        self._descriptors = dict(descriptors)

    def take(self, descriptors: Mapping[int, int]) -> None:
        """Newer ones, which are this object's from now on."""
        for task, descriptor in descriptors.items():
            if task in self._descriptors:
                os.close(self._descriptors[task])
            self._descriptors[task] = descriptor

    def read(self, task: int, address: int, length: int, buffer: Buffer) -> int:
        """Read into the buffer; returns the blocks that hold data. Raises OSError: never fewer bytes in silence."""
        self.read_into(task, address, buffer.view[:length])
        return blocks_with_data(buffer, length)

    def read_into(self, task: int, address: int, view: memoryview) -> None:
        """Fill a view. Raises OSError."""
        while view:
            got = os.preadv(self._descriptors[task], [view], address)
            if got <= 0:
                raise OSError(errno.EFAULT, f"task {task} has no memory at {address:#x}")
            view, address = view[got:], address + got


def open_memory(tasks: Mapping[int, int]) -> dict[int, int]:
    """Descriptors of the memory of tasks: PID in the sandbox -> PID here, in; PID in the sandbox -> descriptor, out.
    Raises OSError when one is gone."""
    opened: dict[int, int] = {}
    try:
        for task, pid in tasks.items():
            opened[task] = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        for number in opened.values():
            os.close(number)
        raise
    return opened


@dataclass(eq=False)
class Order:
    """`length` bytes of a task's memory, to be brought into a buffer."""

    task: int
    address: int
    length: int
    buffer: Buffer
    blocks: int = 0
    """Set when it was brought."""
    failure: OSError | SojournError | None = None


class Supply(ABC):
    """`tray` holds what was brought; `bell`, an eventfd, is rung for each."""

    def __init__(self, bell: int) -> None:
        self.tray: deque[Order] = deque()
        self.received_bytes = 0
        """Bytes that came over a network."""
        self.broken: OSError | SojournError | None = None
        """Why no more will come."""
        self._bell = bell

    @abstractmethod
    def order(self, order: Order) -> None: ...

    def _bring(self, order: Order) -> None:
        self.tray.append(order)
        os.eventfd_write(self._bell, 1)


class LocalSupply(Supply):
    """Both ends share a kernel: the frozen memory is read directly, and at once."""

    def __init__(self, memory: FrozenMemory, bell: int) -> None:
        super().__init__(bell)
        self._memory = memory

    def order(self, order: Order) -> None:
        self._fetch(order)
        self.tray.append(order)

    def _fetch(self, order: Order) -> None:
        try:
            order.blocks = self._memory.read(order.task, order.address, order.length, order.buffer)
        except OSError as failed:
            order.failure = failed


class LocalBulk(LocalSupply):
    """The same, ahead of who fills, in a thread of its own."""

    def __init__(self, memory: FrozenMemory, bell: int) -> None:
        super().__init__(memory, bell)
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="local-bulk", daemon=True).start()

    def order(self, order: Order) -> None:
        self._orders.put(order)

    def _work(self) -> None:
        while True:
            order = self._orders.get()
            self._fetch(order)
            self._bring(order)


@dataclass(eq=False)
class Line:
    """A connection to the page source, and what was asked over it, in order."""

    connection: socket.socket
    waiting: deque[Order] = field(default_factory=deque)
    stocks: bool = False
    """It carries what goes ahead before it carries answers."""
    broken: OSError | SojournError | None = None
    """Set when no more answers will come."""


class RemoteSupply(Supply):
    """The pages come over connections to the page source; several, because one thread can't both read and send. What
    has come ahead lies in the larder, which the first connection of the bulk stocks."""

    def __init__(self, connections: Sequence[socket.socket], bell: int, larder: Larder, *, stocks: bool) -> None:
        super().__init__(bell)
        self._larder = larder
        self._lines = [Line(connection) for connection in connections]
        self._lines[0].stocks = stocks
        self._threads = [
            threading.Thread(target=self._receive, args=(line,), name="remote-supply", daemon=True)
            for line in self._lines
        ]
        for thread in self._threads:
            thread.start()

    def order(self, order: Order) -> None:
        if self._larder.serve(order):
            self.tray.append(order)
            return
        line = min(self._lines, key=lambda line: len(line.waiting))
        line.waiting.append(order)
        with contextlib.suppress(OSError):  # the receiving thread sees the same end
            line.connection.sendall(REQUEST.pack(order.task, order.address, order.length))
        if line.broken:  # it may have ended before this order came
            self._give_up(line)

    def close(self) -> None:
        """Nothing rings the bell afterwards: it may be closed, too."""
        for line in self._lines:
            with contextlib.suppress(OSError):  # it has ended
                line.connection.shutdown(socket.SHUT_RDWR)
        for line, thread in zip(self._lines, self._threads, strict=True):
            thread.join()
            line.connection.close()

    def _receive(self, line: Line) -> None:
        head = bytearray(ANSWER.size)
        try:
            if line.stocks:
                self._larder.stock(line.connection)
            while True:
                receive_exactly(line.connection, memoryview(head))
                self._take(line.connection, line.waiting[0], head)
                self._bring(line.waiting.popleft())
        except (OSError, SojournError) as failed:
            line.broken = self.broken = failed
            self._give_up(line)
            os.eventfd_write(self._bell, 1)

    def _give_up(self, line: Line) -> None:
        """In either thread."""
        with contextlib.suppress(IndexError):
            while True:
                order = line.waiting.popleft()
                order.failure = line.broken
                self._bring(order)

    def _take(self, connection: socket.socket, order: Order, head: bytearray) -> None:
        length, order.blocks, stored = ANSWER.unpack(head)
        self.received_bytes += len(head) + stored
        if not length:
            order.failure = OSError(order.blocks, f"the source could not read task {order.task} at {order.address:#x}")
            return
        if length != order.length:
            raise OSError(errno.EPROTO, f"{length} bytes came where {order.length} were asked for")
        parts = [order.buffer.view[start:end] for start, end, present in runs(order.blocks, length) if present]
        size = sum(map(len, parts))
        if stored == size:
            for part in parts:
                receive_exactly(connection, part)
        else:
            _unpack_into(parts, connection, stored, size)


def _unpack_into(parts: Sequence[memoryview], connection: socket.socket, stored: int, size: int) -> None:
    if stored > size:
        raise OSError(errno.EPROTO, f"{stored} bytes came where {size} were due")
    body = bytearray(stored)
    receive_exactly(connection, memoryview(body))
    left = memoryview(unpacked(body, size))
    for part in parts:
        part[:], left = left[: len(part)], left[len(part) :]


def send_all(connection: socket.socket, parts: Iterable[memoryview]) -> None:
    """Send several buffers as one."""
    left = list(parts)
    while left:
        sent = connection.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def receive_exactly(connection: socket.socket, view: memoryview) -> None:
    """Fill a view; raises ConnectionResetError when the other side ends first."""
    while view:
        got = connection.recv_into(view)
        if not got:
            raise ConnectionResetError(errno.ECONNRESET, "the page source closed the connection")
        view = view[got:]
