"""A selector, timers and a way in from other threads: what one thread of ours runs on.

asyncio would do the same for ten more megabytes in every rider.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Timer:
    """A callback that is due once; `cancel` any number of times."""

    __slots__ = ("_callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self._callback: Callable[[], None] | None = callback

    @property
    def cancelled(self) -> bool:
        return self._callback is None

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback:
            callback()

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    """Everything but `soon` and `wake` belongs to the thread that runs it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[Timer] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._stopping = False
        self.watch(self._woken, READ, self._drain)

    def watch(self, file: socket.socket | int, mask: int, callback: Callable[[int], None]) -> None:
        """Call `callback(ready)` whenever `file` is ready for one of `mask` (READ, WRITE or both; 0 ends it).

        Watching a file again replaces mask and callback.
        """
        known = self._selector.get_map().get(file)
        if not mask:
            if known:
                self._selector.unregister(file)
        elif known is None:
            self._selector.register(file, mask, callback)
        elif known.events != mask or known.data != callback:
            self._selector.modify(file, mask, callback)

    def forget(self, file: socket.socket | int) -> None:
        """Before closing a file; fine if it was never watched."""
        self.watch(file, 0, _ignore)

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the loop's thread, in order; may be called from any thread."""
        self._soon.append(callback)
        self.wake()

    def wake(self) -> None:
        """End the wait of `run_once`; from any thread, and from a signal handler."""
        with suppress(OSError):  # full: it will wake anyhow; closed: nobody to wake
            self._waker.send(b"\0")

    def waker_fileno(self) -> int:
        """For signal.set_wakeup_fd."""
        return self._waker.fileno()

    def run_once(self, timeout: float | None = None) -> None:
        """Wait at most `timeout` seconds for something to happen, and do all that is due."""
        for key, ready in self._selector.select(self._patience(timeout)):
            if self._selector.get_map().get(key.fd) is key:  # not forgotten by an earlier callback of this round
                key.data(ready)
        self._fire()
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping:
            self.run_once()

    def stop(self) -> None:
        self._stopping = True
        self.wake()

    def close(self) -> None:
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _patience(self, timeout: float | None) -> float | None:
        if self._soon:
            return 0
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return timeout
        wait = max(0.0, self._timers[0].due - time.monotonic())
        return wait if timeout is None else min(wait, timeout)

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            heapq.heappop(self._timers).fire()

    def _drain(self, _ready: int) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass


def _ignore(_ready: int) -> None:
    pass
