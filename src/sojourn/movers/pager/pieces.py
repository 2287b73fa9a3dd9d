"""Which ranges of an address space still miss their pages.

A piece knows where its bytes lie at the source, because a program may move its memory (`mremap`) before the pages are
in. No I/O here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PAGE = 4096


class Piece(NamedTuple):
    """The addresses `start` to `end` (bytes, page-aligned, end excluded) miss the pages that lie at `origin` at the
    source."""

    start: int
    end: int
    origin: int

    def part(self, start: int, end: int) -> Piece:
        return Piece(start, end, self.origin + start - self.start)


class Pieces:
    """Disjoint pieces in the order of their addresses."""

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces = sorted(pieces)
        self._starts = [piece.start for piece in self._pieces]

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def bytes(self) -> int:
        return sum(piece.end - piece.start for piece in self._pieces)

    def at(self, address: int) -> Piece | None:
        """The piece that holds an address."""
        piece = self.after(address)
        return piece if piece and piece.start <= address else None

    def after(self, address: int) -> Piece | None:
        """The piece that holds an address, or else the first one above it."""
        position = self._position(address)
        return self._pieces[position] if position < len(self._pieces) else None

    def extents(self) -> Iterator[tuple[int, int]]:
        """(start, end) of each run of pieces without a gap between them."""
        start = end = 0
        for piece in self._pieces:
            if piece.start != end:
                if start < end:
                    yield start, end
                start = piece.start
            end = piece.end
        if start < end:
            yield start, end

    def cut(self, start: int, end: int) -> list[Piece]:
        """Take out all between two addresses; returns what was there."""
        first = self._position(start)
        last = first
        taken: list[Piece] = []
        kept: list[Piece] = []
        while last < len(self._pieces) and self._pieces[last].start < end:
            piece = self._pieces[last]
            low, high = max(piece.start, start), min(piece.end, end)
            taken.append(piece.part(low, high))
            kept += [piece.part(a, b) for a, b in ((piece.start, low), (high, piece.end)) if a < b]
            last += 1
        self._pieces[first:last] = kept
        self._starts[first:last] = [piece.start for piece in kept]
        return taken

    def add(self, pieces: Iterable[Piece]) -> None:
        """Put pieces in; nothing may be there yet."""
        for piece in pieces:
            position = bisect_right(self._starts, piece.start)
            self._pieces.insert(position, piece)
            self._starts.insert(position, piece.start)

    def move(self, start: int, length: int, to: int) -> None:
        """The program moved a range of its memory to another address."""
        moved = self.cut(start, start + length)
        self.add(Piece(p.start + to - start, p.end + to - start, p.origin) for p in moved)

    def _position(self, address: int) -> int:
        """Index of the first piece that ends above an address."""
        position = bisect_right(self._starts, address)
        if position and self._pieces[position - 1].end > address:
            return position - 1
        return position
