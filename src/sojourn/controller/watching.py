"""Who watches which session. A slow watcher misses steps in between, never the last one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from sojourn.client.words import Watched
from sojourn.controller.places import place
from sojourn.controller.roster import Roster
from sojourn.lifecycle import Session
from sojourn.lifecycle import next_place as law_next_place
from sojourn.lifecycle import place as law_place


@dataclass(eq=False)
class Watcher:
    """One watching connection."""

    wanted: dict[str, str | None] = field(default_factory=dict)
    """Session -> the anchor the places are for."""
    _news: dict[str, Session] = field(default_factory=dict)
    _any: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, session: Session) -> None:
        self._news[session.id] = session
        self._any.set()

    async def next(self) -> Session:
        """The newest state of a session that has changed."""
        while not self._news:
            self._any.clear()
            await self._any.wait()
        return self._news.pop(next(iter(self._news)))


class Watchers:
    def __init__(self, roster: Roster, clock: Callable[[], float]) -> None:
        self._roster, self._clock = roster, clock
        self._of: defaultdict[str, set[Watcher]] = defaultdict(set)

    def watch(self, watcher: Watcher, session: Session, anchor: str | None) -> None:
        watcher.wanted[session.id] = anchor
        self._of[session.id].add(watcher)
        watcher.see(session)

    def unwatch(self, watcher: Watcher, session: str) -> None:
        watcher.wanted.pop(session, None)
        self._of[session].discard(watcher)
        if not self._of[session]:
            del self._of[session]

    def leave(self, watcher: Watcher) -> None:
        for session in list(watcher.wanted):
            self.unwatch(watcher, session)

    def publish(self, session: Session) -> None:
        for watcher in self._of.get(session.id, ()):
            watcher.see(session)

    def watched(self) -> list[str]:
        return list(self._of)

    def sight(self, session: Session, anchor: str | None) -> Watched:
        now = self._clock()
        return Watched(
            session=session.view(),
            place=place(self._roster, session.id, law_place(session), anchor, now),
            next_place=place(self._roster, session.id, law_next_place(session), anchor, now),
            move=session.move.view(session.id) if session.move else None,
            save=session.save.view(session.id) if session.save else None,
            wake=session.wake.view(session.id) if session.wake else None,
        )
