"""Finding out whether a kernel can be heard: a cell that runs before our subscription has reached iopub prints into
the void."""

from __future__ import annotations

from collections.abc import Callable

from sojourn.transport.loop import Loop, Timer

PAUSE_SECONDS = 0.1
MOST_SECONDS = 10.0
"""A kernel that says nothing for so long is busy, or does not answer such questions at all: it is taken as it is."""


class Sounding:
    """`ask()` sends the kernel something that makes it speak on iopub; `heard()` is called when it first does."""

    def __init__(self, loop: Loop, ask: Callable[[], object], heard: Callable[[], None]) -> None:
        self.hears = False
        self._loop, self._ask, self._heard = loop, ask, heard
        self._timer: Timer | None = None
        self._left = 0

    def begin(self) -> None:
        """Ask, soon and until it is heard; does nothing when that is under way, or done."""
        if self._timer is None and not self.hears:
            self._left = round(MOST_SECONDS / PAUSE_SECONDS)
            self._timer = self._loop.later(0, self._sound)

    def spoke(self) -> None:
        """It was heard."""
        if not self.hears:
            self.reset()
            self.hears = True
            self._heard()

    def reset(self) -> None:
        """Our subscription is gone."""
        self.hears = False
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _sound(self) -> None:
        if not self._left:
            self.spoke()
            return
        self._left -= 1
        self._ask()
        self._timer = self._loop.later(PAUSE_SECONDS, self._sound)
