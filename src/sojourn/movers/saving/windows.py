"""A task's memory as chunks: windows of CHUNK bytes, at addresses that are multiples of CHUNK.

What lies between the pages of a window reads as zeros. So where a page lies in its chunk depends on its address alone:
pages that come and go beside it leave the other windows, and their chunks, as they were. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sojourn.chunks import CHUNK, Run
from sojourn.movers.pager.pieces import Piece, Pieces

LARGEST_READ = 4 << 20
"""Bytes. Long enough to be quick, short enough to be shared out among threads."""


@dataclass(frozen=True)
class Window:
    """One chunk of a task's memory."""

    task: int
    address: int
    pages: tuple[tuple[int, int], ...]
    """(start, end) of its pages, in order; addresses."""

    @property
    def size(self) -> int:
        """Bytes in its pages."""
        return sum(end - start for start, end in self.pages)


class Read(NamedTuple):
    """`length` bytes of a task's memory that lie in one piece, and where they go in an array of windows."""

    task: int
    address: int
    length: int
    offset: int


def windows(task: int, pieces: Iterable[Piece]) -> Iterator[Window]:
    """The windows that hold any of a task's pages, upwards."""
    address, pages = -1, list[tuple[int, int]]()
    for start, end in Pieces(pieces).extents():
        while start < end:
            base = start // CHUNK * CHUNK
            if base != address:
                if pages:
                    yield Window(task, address, tuple(pages))
                address, pages = base, []
            border = min(base + CHUNK, end)
            pages.append((start, border))
            start = border
    if pages:
        yield Window(task, address, tuple(pages))


def reads(array: Sequence[Window]) -> Iterator[Read]:
    """What brings the pages of all windows into an array of them, CHUNK bytes each: as few reads as possible."""
    found: Read | None = None
    for number, window in enumerate(array):
        for start, end in window.pages:
            offset = number * CHUNK + start - window.address
            if found and _follows(found, window.task, start, offset) and found.length + end - start <= LARGEST_READ:
                found = found._replace(length=found.length + end - start)
                continue
            if found:
                yield found
            found = Read(window.task, start, end - start, offset)
    if found:
        yield found


def _follows(before: Read, task: int, address: int, offset: int) -> bool:
    return (before.task, before.address + before.length, before.offset + before.length) == (task, address, offset)


def runs(array: Iterable[Window], chunks: Iterable[str]) -> dict[str, list[Run]]:
    """The manifest's `memory`: each window's chunk, those without a gap between them together."""
    found: dict[str, list[tuple[int, list[str]]]] = {}
    for window, chunk in zip(array, chunks, strict=True):
        of_task = found.setdefault(str(window.task), [])
        if not of_task or of_task[-1][0] + len(of_task[-1][1]) * CHUNK != window.address:
            of_task.append((window.address, []))
        of_task[-1][1].append(chunk)
    return {
        task: [Run(address, len(ids) * CHUNK, tuple(ids)) for address, ids in of_task]
        for task, of_task in found.items()
    }
