"""Having a session moved, or woken, for a cell: ask, wait while something else happens to it, give up only for a
reason."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Generic, TypeVar

from sojourn.client import AsyncClient, Moved, Watched
from sojourn.errors import Busy, MoveFailed, SojournError, Unreachable, WakeFailed
from sojourn.model import SessionStatus, SessionView

log = logging.getLogger(__name__)

BUSY_SECONDS = 10.0
"""How long a controller may say that a session is busy, while nothing that we know of keeps it busy."""
SILENT_SECONDS = 60.0
"""How long a controller may not answer at all. It knows of the wish after a restart, so it is asked again."""
_PASSING = (
    SessionStatus.PENDING,
    SessionStatus.STARTING,
    SessionStatus.MOVING,
    SessionStatus.FILLING,
    SessionStatus.SUSPENDING,
    SessionStatus.WAKING,
)

Answer = TypeVar("Answer")


class Errand(Generic[Answer]):
    """One wish for a session, to be asked of its controller until it is granted."""

    def __init__(self, client: AsyncClient, session: str, place: str | None) -> None:
        self._client = client
        self._session = session
        self._place = place
        self._news: Watched | None = None
        self._changed = asyncio.Event()
        self._cancelled = False

    def hear(self, news: Watched) -> None:
        self._news = news
        self._changed.set()

    async def run(self) -> Answer:
        """Returns once the session is there and runs. Raises what the controller refused with, MoveFailed when
        cancelled, Unreachable when the controller stays silent."""
        clock = asyncio.get_running_loop()
        began = clock.time()
        while not self._cancelled:
            try:
                return await self._ask()
            except Busy:
                if not self._is_passing and clock.time() > began + BUSY_SECONDS:
                    raise
            except Unreachable:
                if clock.time() > began + SILENT_SECONDS:
                    raise
            await self._wait_for_news()
        raise MoveFailed(f"The move to {self._place} was cancelled.", "Run the cell again to move after all.")

    async def _ask(self) -> Answer:
        raise NotImplementedError

    @property
    def _is_passing(self) -> bool:
        return self._news is not None and self._news.session.status in _PASSING

    async def _wait_for_news(self) -> None:
        self._changed.clear()
        with suppress(TimeoutError):  # then the controller is asked again: it knows better
            await asyncio.wait_for(self._changed.wait(), 0.5)


class MoveErrand(Errand[Moved]):
    """One wish of a cell to have its session moved."""

    _asking = False

    async def cancel(self) -> None:
        """Best effort: a session that has left can't be called back."""
        self._cancelled = True
        self._changed.set()
        move = self._news.session.move if self._news else None
        if self._asking and move:
            try:
                await self._client.cancel_move(move)
            except SojournError as late:
                log.info("move %s goes on: %s", move, late.message)

    async def _ask(self) -> Moved:
        self._asking = True
        try:
            return await self._client.move(self._session, self._place or "", wait="thawed")
        finally:
            self._asking = False


class WakeErrand(Errand[SessionView]):
    """One wish to have a session woken: where it sleeps, or at a place."""

    async def failure(self) -> SojournError | None:
        """Run it; what went wrong, if anything did."""
        try:
            await self.run()
        except SojournError as refused:
            return refused
        except Exception as surprise:
            log.exception("waking session %s", self._session)
            return WakeFailed(f"Session {self._session} could not be woken: {surprise!r}")
        return None

    async def _ask(self) -> SessionView:
        return await self._client.resume(self._session, self._place, wait="thawed")
