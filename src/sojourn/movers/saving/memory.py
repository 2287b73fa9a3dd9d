"""Where the bytes of chunks are read: from the frozen tasks themselves, from a copy that was set aside, from images."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from sojourn.chunks import CHUNK, Body
from sojourn.movers.pager.supply import Buffer, FrozenMemory
from sojourn.movers.saving.windows import Window, reads

_ROOM_LEFT = 256 << 20
"""Bytes of the node's memory that a copy leaves free; a tenth of what is free too, if that is more."""
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, since Linux 5.14."""
_STRIDE = 32 << 20
_ZEROS = bytes(CHUNK)

Item = TypeVar("Item")


def room_aside(expected: int, free_bytes: int) -> int:
    """Bytes that a copy of a memory of about the expected size may take, on a node where so many are free; 0: none.
    It may turn out larger than expected, for a window counts whole, and programs grow."""
    allowed = free_bytes - max(_ROOM_LEFT, free_bytes // 10)
    return 0 if expected > allowed else min(2 * expected + _ROOM_LEFT, allowed) // CHUNK * CHUNK


class Source(ABC):
    """What chunks are made of, by their number. Safe from many threads, each with a buffer of its own."""

    @property
    @abstractmethod
    def count(self) -> int: ...

    @abstractmethod
    def read(self, number: int, buffer: Buffer) -> memoryview:
        """Up to CHUNK bytes, good until the buffer is used again, or the number `done`. Raises OSError."""

    def done(self, number: int) -> None:  # noqa: B027 (where nothing was copied nothing can be given back)
        """This one is not needed any more."""


class Straight(Source):
    """Windows read from tasks that stand frozen meanwhile."""

    def __init__(self, tasks: FrozenMemory, array: Sequence[Window]) -> None:
        self._tasks, self._array = tasks, array

    @property
    def count(self) -> int:
        return len(self._array)

    def read(self, number: int, buffer: Buffer) -> memoryview:
        window = self._array[number]
        if window.size < CHUNK:
            buffer.view[:] = _ZEROS
        for start, end in window.pages:
            self._tasks.read_into(window.task, start, buffer.view[start - window.address : end - window.address])
        return buffer.view


class Aside(Source):
    """A copy of all windows, given back to the kernel window by window.

    Memory that nobody has touched yet costs several times what is copied into it, so it is taken before the freeze.
    """

    def __init__(self, room: int, threads: int) -> None:
        """`room`: the most bytes that it may hold."""
        self._copy = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages copies all the same, a few times slower
            self._copy.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._copy)
        self._threads, self._count = threads, 0

    @property
    def count(self) -> int:
        return self._count

    def fits(self, array: Sequence[Window]) -> bool:
        return len(array) * CHUNK <= len(self._view)

    def take(self, expected: int) -> None:
        """Touch the memory for so many bytes."""

        def touch() -> None:
            for start in starts:
                self._copy.madvise(_POPULATE_WRITE, start, min(_STRIDE, expected - start))

        expected = min(-(-expected // CHUNK) * CHUNK, len(self._view))
        starts = Shared(range(0, expected, _STRIDE))
        with contextlib.suppress(OSError):  # an older kernel touches it while it copies
            in_threads(self._threads, touch)

    def bring(self, tasks: FrozenMemory, array: Sequence[Window]) -> None:
        """Returns when all is copied: the tasks may then go on. Raises OSError."""

        def copy() -> None:
            for task, address, length, offset in parts:
                tasks.read_into(task, address, self._view[offset : offset + length])

        parts = Shared(reads(array))
        in_threads(self._threads, copy)
        self._count = len(array)
        if (end := len(array) * CHUNK) < len(self._view):
            self._copy.madvise(mmap.MADV_DONTNEED, end, len(self._view) - end)

    def read(self, number: int, buffer: Buffer) -> memoryview:
        return self._view[number * CHUNK : (number + 1) * CHUNK]

    def done(self, number: int) -> None:
        self._copy.madvise(mmap.MADV_DONTNEED, number * CHUNK, CHUNK)


class Images(Source):
    """Files, one after the other, each cut into chunks."""

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        self._folder, self._sizes = folder, sizes
        self._parts = [(name, offset) for name, size in sizes.items() for offset in range(0, size, CHUNK)]

    @property
    def count(self) -> int:
        return len(self._parts)

    def read(self, number: int, buffer: Buffer) -> memoryview:
        name, offset = self._parts[number]
        with (self._folder / name).open("rb", buffering=0) as file:
            file.seek(offset)
            return buffer.view[: file.readinto(buffer.view)]

    def bodies(self, chunks: Iterable[str]) -> dict[str, Body]:
        """The manifest's `images`, given the chunk of each part."""
        left = iter(chunks)
        return {
            name: Body(size, tuple(itertools.islice(left, -(-size // CHUNK)))) for name, size in self._sizes.items()
        }


class Shared(Generic[Item]):
    """An iterator that several threads draw from."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items, self._lock = iter(items), threading.Lock()

    def __iter__(self) -> Shared[Item]:
        return self

    def __next__(self) -> Item:
        with self._lock:
            return next(self._items)


def in_threads(count: int, work: Callable[[], None]) -> None:
    """The same work in several threads; raises what the first of them raised, when all have ended."""
    with ThreadPoolExecutor(count) as pool:
        done = [pool.submit(work) for _ in range(count)]
    for one in done:
        one.result()
