"""Which pages CRIU left for the pager: its images `pagemap-PID.img` (criu/images/pagemap.proto)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from sojourn.movers.pager.pieces import PAGE, Piece
from sojourn.movers.protobuf import decode

_HEAD_BYTES = 8
_VADDR, _COMPAT_PAGES, _FLAGS, _PAGES = 1, 2, 4, 5
_LAZY = 2


def lazy_pieces(images: Path) -> dict[int, list[Piece]]:
    """PID in the sandbox -> the ranges whose pages are still in the frozen task's memory."""
    found = {}
    for file in images.glob("pagemap-*.img"):
        if named := re.fullmatch(r"pagemap-(\d+)\.img", file.name):
            found[int(named[1])] = list(_lazy(file.read_bytes()))
    return found


def _lazy(image: bytes) -> Iterator[Piece]:
    for entry in entries(image):
        if entry.get(_FLAGS, 0) & _LAZY:
            start, pages = entry[_VADDR], entry.get(_PAGES) or entry[_COMPAT_PAGES]
            yield Piece(start, start + pages * PAGE, start)


def entries(image: bytes) -> Iterator[dict[int, int]]:
    """The entries of a pagemap image: after 8 bytes of magic, messages with their length (4 bytes) before them, of
    which the first is a head."""
    position, first = _HEAD_BYTES, True
    while position < len(image):
        (length,) = struct.unpack_from("<I", image, position)
        body = image[position + 4 : position + 4 + length]
        position += 4 + length
        if not first:
            yield {number: value for number, value in decode(body).items() if isinstance(value, int)}
        first = False
