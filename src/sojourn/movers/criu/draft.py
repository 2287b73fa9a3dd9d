"""A draft of what CRIU will write of a session's memory, which travels while the session still runs.

CRIU's images hold the pages that can't come later: above all those of files' private mappings that the loader has
written to, some MB of each program, and nearly always the same from its start to its end. At the standstill, pages that
are in the draft are only pointed to.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator

from sojourn.errors import MoveFailed
from sojourn.movers.pager.ahead import mappings, resident
from sojourn.movers.pager.pieces import PAGE
from sojourn.movers.parcels import Parcels

MOST_BYTES = 32 << 20
_BLOCK = 256
"""Pages whose pointers lie together."""
_ITSELF = 0xFFFFFFFF
"""In the place of a pointer: the page is not in the draft, and follows."""


class Draft:
    """Pages, known to both sides by their number."""

    def __init__(self, pages: Iterable[bytes] = ()) -> None:
        self.pages = list(dict.fromkeys(pages))
        self._numbers = {page: number for number, page in enumerate(self.pages)}

    @classmethod
    def of(cls, pids: Iterable[int]) -> Draft:
        """Of tasks that may run, and end."""
        pages: list[bytes] = []
        for pid in pids:
            try:
                pages += _written(pid)
            except OSError:
                continue
        return cls(pages[: MOST_BYTES // PAGE])

    def send(self, parcels: Parcels) -> None:
        parcels.send_stream(self.pages)

    @classmethod
    def receive(cls, parcels: Parcels) -> Draft:
        """Raises MoveFailed."""
        body = bytearray()
        for chunk in parcels.receive_stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise MoveFailed("The other side of the move sent nonsense: a draft that does not end.")
        return cls(bytes(body[at : at + PAGE]) for at in range(0, len(body), PAGE))

    def shortened(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """An image, in chunks of whole blocks but for the last, with pointers in the place of pages; as it is, where
        there is no draft."""
        for chunk in chunks:
            if not self.pages:
                yield chunk
                continue
            for at in range(0, len(chunk), _BLOCK * PAGE):
                yield self._shortened(chunk[at : at + _BLOCK * PAGE])

    def _shortened(self, block: bytes) -> bytes:
        pages = [block[at : at + PAGE] for at in range(0, len(block), PAGE)]
        numbers = [self._numbers.get(page, _ITSELF) for page in pages]
        themselves = (page for page, number in zip(pages, numbers, strict=True) if number == _ITSELF)
        return struct.pack(f"!{len(numbers)}I", *numbers) + b"".join(themselves)

    def restored(self, size: int, shortened: Exactly) -> Iterator[bytes]:
        """The image of that size again. Raises MoveFailed."""
        while size > 0:
            block = min(size, _BLOCK * PAGE)
            if not self.pages:
                size -= block
                yield shortened.take(block)
                continue
            count = -(-block // PAGE)
            for number in struct.unpack(f"!{count}I", shortened.take(4 * count)):
                page = self._page(number) if number != _ITSELF else shortened.take(min(PAGE, size))
                size -= len(page)
                yield page

    def _page(self, number: int) -> bytes:
        if number >= len(self.pages):
            raise MoveFailed(
                f"The other side of the move sent nonsense: page {number} of a draft of {len(self.pages)}."
            )
        return self.pages[number]


def _written(pid: int) -> Iterator[bytes]:
    """The pages of a task's files that it, or the loader for it, has written to. Raises OSError when it is gone."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in mappings(pid, of_files=True):
            for low, high in resident(pid, start, end):
                body = os.pread(memory, high - low, low)
                yield from (body[at : at + PAGE] for at in range(0, len(body), PAGE))
    finally:
        os.close(memory)


class Exactly:
    """A stream, taken in parts of given sizes."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream, self._left = stream, memoryview(b"")

    def take(self, size: int) -> bytes:
        """Raises MoveFailed when it ends before."""
        taken = bytearray()
        while len(taken) < size:
            if not self._left:
                self._left = memoryview(next(self._stream, b""))
            if not self._left:
                raise MoveFailed("CRIU's images did not come whole.")
            missing = size - len(taken)
            taken += self._left[:missing]
            self._left = self._left[missing:]
        return bytes(taken)

    @property
    def is_over(self) -> bool:
        return not self._left and not next(self._stream, b"")
