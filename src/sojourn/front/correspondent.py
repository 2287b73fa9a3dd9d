"""Who talks with the controller for a forwarding, and under which name riders know it."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sojourn.client import Watched
from sojourn.front.errand import WakeErrand
from sojourn.front.forwarding import Forwarding
from sojourn.front.journal import Journal
from sojourn.front.locks import take_lock
from sojourn.front.watcher import Watcher
from sojourn.front.words import ControllerAddress
from sojourn.model import SessionView
from sojourn.transport.routes import relay_of


@contextmanager
def forwarding(
    controller: ControllerAddress, session: SessionView, folder: Path, *, wakes: bool, say: Callable[[str], None]
) -> Iterator[Forwarding]:
    """A forwarding that hears of its session and, with `wakes`, has it woken. `folder` is the front's."""
    with own_front(folder) as front:
        line = Correspondent(controller, session.id, f"{front}.{uuid.uuid4().hex}")
        wake = line.wake if wakes else None
        made = Forwarding(session, line.anchor, relay=line.relay, wake=wake, say=say)
        try:
            line.start(made)
            yield made
        finally:
            line.close()
            made.close()


@contextmanager
def own_front(folder: Path) -> Iterator[str]:
    """The id of a front that no other process of this user has now. It is used again afterwards: what a rider keeps for
    a front that was killed, it keeps until the next one of the same id comes."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    front = Journal(folder).front_id()
    for number in count(1):
        with (folder / f"forward-{number}.lock").open("w") as lock:
            if take_lock(lock):
                yield f"{front}-forward-{number}"
                return


class Correspondent:
    """A thread of its own, with a watcher and, at times, an errand in it."""

    def __init__(self, controller: ControllerAddress, session: str, anchor: str) -> None:
        self.anchor = anchor
        self._session = session
        self._loop = asyncio.new_event_loop()
        self._watcher = Watcher(controller, anchor, self._hear, self._miss)
        self._errand: WakeErrand | None = None
        self._news: Watched | None = None
        self._thread = threading.Thread(target=self._run, name=f"correspondent-{session}", daemon=True)

    def start(self, forwarding: Forwarding) -> None:
        """Tell it what is heard, from now on."""
        self._forwarding = forwarding
        self._work = self._loop.create_task(self._watch())
        self._thread.start()

    def relay(self) -> str:
        """host:port of the controller's relay, wherever it has moved to."""
        return relay_of(self._watcher.client.url)

    def wake(self) -> None:
        """From any thread: have the session woken, and answer with `Forwarding.wake_ended`."""
        self._loop.call_soon_threadsafe(self._begin_errand)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._work.cancel)
            self._thread.join()
        self._loop.close()

    # ── the thread ──

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._work)

    async def _watch(self) -> None:
        await self._watcher.watch(self._session)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._watcher.run()
        finally:
            await self._watcher.client.close()

    def _hear(self, news: Watched) -> None:
        self._news = news
        if self._errand:
            self._errand.hear(news)
        self._forwarding.hear(news)

    def _miss(self, _session: str) -> None:
        self._forwarding.lost("its controller does not know it")

    def _begin_errand(self) -> None:
        self._tasks.create_task(self._rouse())

    async def _rouse(self) -> None:
        self._errand = WakeErrand(self._watcher.client, self._session, None)
        if self._news:
            self._errand.hear(self._news)
        try:
            failure = await self._errand.failure()
        finally:
            self._errand = None
        self._forwarding.wake_ended(failure)
