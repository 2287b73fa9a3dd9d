"""What the two ends of the pager say to each other: requests one way, pages the other way, in the order asked.

A request is `(task, address, length)`: the task is a PID as the sandbox numbers it. The answer is `(length, blocks,
stored)` and the bytes of those 64 KB blocks whose bit is set in `blocks`, lowest first; the others are zeros. `stored`
bytes follow: if they are fewer than those blocks have, they are packed (`packing`). An answer with length 0 carries an
errno in `blocks`: the memory could not be read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

BLOCK = 65536
BLOCKS = 32
LARGEST = BLOCK * BLOCKS
"""The most bytes in one request."""

REQUEST = struct.Struct("!IQI")
ANSWER = struct.Struct("!III")


def runs(blocks: int, length: int) -> Iterator[tuple[int, int, bool]]:
    """(offset, end, present) of each run of blocks that are alike, over `length` bytes."""
    start, count = 0, -(-length // BLOCK)
    for position in range(1, count + 1):
        present = bool(blocks >> start & 1)
        if position == count or bool(blocks >> position & 1) != present:
            yield start * BLOCK, min(position * BLOCK, length), present
            start = position
