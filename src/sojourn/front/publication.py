"""What a kernel publishes, on its way to all who listen.

ZeroMQ drops what a listener has no room for, without a word. Here it is told to say so instead (XPUB_NODROP), and what
follows is kept until there is room, in order, for all alike: who opens a laptop gets the output of hours at once,
faster than Jupyter reads it. Where more comes than is kept, listeners read that there was more, at that very place.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from sojourn.transport.loop import Loop

KEPT_BYTES = 256 << 20
"""As much as a rider keeps on its node's disk."""
PATIENCE_SECONDS = 60.0
"""How long all others wait for one who takes nothing at all, as a program that was stopped. Then it misses what it has
no room for, as with a kernel of its own."""
_LOOK_SECONDS = 0.01

Frames = Sequence[bytes | zmq.Frame]


class Publication:
    """Belongs to the thread of its loop, which `begin` gives it, before anything is sent."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._kept: deque[tuple[Frames, int]] = deque()
        self._kept_bytes = 0
        self._moved_at = 0.0
        """When something was taken last, while something is kept."""
        socket.setsockopt(zmq.XPUB_NODROP, 1)

    def begin(self, loop: Loop, notice: Callable[[], None]) -> None:
        """`notice()` sends those who listen, by `send`, the word that there was more."""
        self._loop, self._notice = loop, notice

    def send(self, frames: Frames) -> None:
        if self._kept:
            self._keep(frames)
        elif not self._push(frames):
            self._moved_at = time.monotonic()
            self._loop.later(_LOOK_SECONDS, self._look)
            self._keep(frames)

    def _push(self, frames: Frames) -> bool:
        """Whether all had room for it; else nobody has got it."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def _keep(self, frames: Frames) -> None:
        size = sum(map(len, frames))
        self._kept.append((frames, size))
        self._kept_bytes += size
        if self._kept_bytes > KEPT_BYTES:
            self._kept = deque(list(self._kept)[:1])  # the next in turn, so that the notice comes behind it
            self._kept_bytes = self._kept[0][1]
            self._notice()

    def _look(self) -> None:
        """Whether there is room again."""
        now = time.monotonic()
        while self._kept and self._push(self._kept[0][0]):
            self._done(now)
        if self._kept and now - self._moved_at > PATIENCE_SECONDS:
            self._pass_over(now)
        if self._kept:
            self._loop.later(_LOOK_SECONDS, self._look)

    def _done(self, now: float) -> None:
        self._kept_bytes -= self._kept.popleft()[1]
        self._moved_at = now

    def _pass_over(self, now: float) -> None:
        """Let those who have no room miss the next message. ZeroMQ leaves them aside then, until they read again."""
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        self._push(self._kept[0][0])
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._done(now)
