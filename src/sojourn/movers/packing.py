"""Pieces of a stream, plain or packed: compressed, where their pace says that this pays and they get smaller by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import zstandard

from sojourn.errors import MoveFailed
from sojourn.movers.pace import Pace

_LEVEL = 1
"""Of zstd: 400 MB/s and more from one core; lower levels are hardly quicker, higher ones hardly smaller."""
_WORTH = 0.95
"""What is not made smaller than this stays plain: it costs the other side nothing."""
_SHORT = 64 << 10
"""Pieces up to this size say nothing of a link: they disappear in its buffers."""


class Packer:
    """What one thread sends; several may share a pace."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)

    def send(self, parts: Sequence[memoryview], put: Callable[[Sequence[memoryview]], None]) -> None:
        """Have `put` send a piece, which lies in several parts, or what was made of it: fewer bytes than it has if and
        only if it is packed. Raises what `put` raises."""
        size = sum(map(len, parts))
        packed, since = bool(size) and self._pace.packs(), time.perf_counter()
        put(self._packed(parts, size) if packed else parts)
        if size > _SHORT:
            self._pace.took(packed, size, time.perf_counter() - since)

    def _packed(self, parts: Sequence[memoryview], size: int) -> Sequence[memoryview]:
        body = self._compressor.compress(parts[0] if len(parts) == 1 else b"".join(parts))
        return [memoryview(body)] if len(body) <= size * _WORTH else parts


def unpacked(body: bytes | bytearray, most: int) -> bytes:
    """The piece that was packed. Raises MoveFailed when it is none, or has more bytes than `most`."""
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= most:
            raise MoveFailed(f"The other side of the move sent nonsense: a packed piece of {size} bytes.")
        return zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as broken:
        raise MoveFailed(f"The other side of the move sent nonsense: {broken}.") from broken
