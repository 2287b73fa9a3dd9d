"""One stream of a tunnel: its window each way, and which directions still live."""

from __future__ import annotations

from sojourn.errors import TunnelFailed

WINDOW_BYTES = 2 * 1024 * 1024
"""What each end may send on a stream before the other has passed it on: 100 MB/s over a 20 ms road."""

_GRANT_BYTES = WINDOW_BYTES // 4
"""Credit is granted in lumps, not for every key press."""


class Stream:
    __slots__ = ("_passed_on", "_received", "ended_here", "ended_there", "may_send", "number", "target")

    def __init__(self, number: int, target: str) -> None:
        self.number = number
        self.target = target
        self.may_send = WINDOW_BYTES
        self.ended_here = False
        self.ended_there = False
        self._received = 0
        """Bytes of the other end's window that are not granted again."""
        self._passed_on = 0
        """Bytes of those that this end has got rid of."""

    @property
    def over(self) -> bool:
        return self.ended_here and self.ended_there

    def sent(self, count: int) -> None:
        self.may_send -= count

    def received(self, count: int) -> None:
        """Raises TunnelFailed when the other end sends more than it was allowed to."""
        self._received += count
        if self.ended_there or self._received > WINDOW_BYTES:
            raise TunnelFailed(f"The other end of the tunnel sent more on stream {self.number} than it may.")

    def passed_on(self, count: int) -> int:
        """`count` bytes have left this end; returns the credit to grant now, mostly 0."""
        self._passed_on += count
        if self._passed_on < _GRANT_BYTES:
            return 0
        credit, self._passed_on = self._passed_on, 0
        self._received -= credit
        return credit

    def granted(self, credit: int) -> None:
        self.may_send += credit
