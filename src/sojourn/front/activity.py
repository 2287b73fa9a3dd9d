"""What policies want to know of a kernel: whether it executes, and when a person last did something with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sojourn.errors import SojournError

log = logging.getLogger(__name__)

REPEAT_SECONDS = 15.0
"""How often a controller is told of a person who goes on working, or of a cell that goes on running."""
SETTLE_SECONDS = 0.1
"""A cell that ends sooner is not told of; its end is told at once, for somebody may wait for it."""


class Pulse:
    """A switchboard's: `tell(executing, at)` at each turn, and at most once in a second while a person works."""

    def __init__(self, tell: Callable[[bool, float], None]) -> None:
        self._tell = tell
        self._state = (False, 0.0)

    def executes(self, executing: bool) -> None:
        if executing != self._state[0]:
            self._say(executing, self._state[1])

    def attended(self, now: float) -> None:
        """A person does something; `now` is in seconds since the epoch."""
        if now > self._state[1] + 1:
            self._say(self._state[0], now)

    def _say(self, executing: bool, at: float) -> None:
        self._state = (executing, at)
        self._tell(executing, at)


class Activity:
    """A front's, of one kernel. `tell(executing, at)` tells its controller; `at` is in seconds since the epoch."""

    def __init__(self, tell: Callable[[bool, float], Awaitable[None]]) -> None:
        self._tell = tell
        self._state = (False, 0.0)
        self._told = self._state
        self._turned = asyncio.Event()

    def note(self, executing: bool, at: float) -> None:
        """A kernel that begins or stops executing is told of at once, the rest in time."""
        if executing != self._state[0]:
            self._turned.set()
        self._state = (executing, at)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REPEAT_SECONDS):
                    await self._turned.wait()
            self._turned.clear()
            if self._state[0]:
                await asyncio.sleep(SETTLE_SECONDS)
            await self._report()

    async def _report(self) -> None:
        state = self._state
        if state == self._told and not state[0]:
            return
        try:
            await self._tell(*state)
            self._told = state
        except SojournError as silent:  # it is told the next time
            log.debug("the activity of a kernel could not be told: %s", silent)
