"""Carries out the law: event in, new state written down, then instructions out and watchers told.

Everything runs in the event loop, one event after the other; a step takes well under a millisecond.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from sojourn.controller import kept, places
from sojourn.controller.roster import Roster
from sojourn.controller.vaults import Vaults
from sojourn.controller.watching import Watchers
from sojourn.database import Database
from sojourn.database import queries as ask
from sojourn.errors import Refused, StoreFailed, Unknown
from sojourn.lifecycle import (
    ClockJumped,
    ControllerStarted,
    DepartTo,
    Event,
    Limits,
    Move,
    NodeDied,
    NodeLeft,
    NodeReturned,
    Reported,
    SaveTo,
    Session,
    SessionWanted,
    Tell,
    Tick,
    WakeFrom,
    decide,
    dismissals,
)
from sojourn.model import StorePass
from sojourn.wire import Held, Report, SessionInstruction

log = logging.getLogger(__name__)


class Reconciler:
    def __init__(
        self,
        database: Database,
        roster: Roster,
        watchers: Watchers,
        vaults: Vaults,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._database, self._roster, self._watchers, self._vaults = database, roster, watchers, vaults
        self._limits, self._clock = limits, clock
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._unsaved: dict[str, Session] = {}
        """Sessions whose newest progress is not written down -> what is."""
        with database.transaction() as connection:
            self._living = {session.id: session for session in ask.living_sessions(connection)}

    def start(self) -> None:
        """The controller was away: nothing it heard before counts as silence."""
        for identity in list(self._living):
            self._befall(identity, ControllerStarted())

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    def living(self) -> list[Session]:
        return list(self._living.values())

    def everything(self) -> list[Session]:
        """The ended ones that are still remembered, too."""
        with self._database.transaction() as connection:
            return [self._living.get(one.id, one) for one in ask.all_sessions(connection)]

    def lost(self) -> list[Session]:
        with self._database.transaction() as connection:
            return ask.lost_sessions(connection)

    def get(self, identity: str) -> Session:
        """By its whole id; raises Unknown."""
        if found := self._find(identity):
            return found
        raise Unknown(f"There is no session {identity!r}.", "`sojourn sessions` shows those there are.")

    def move(self, identity: str) -> tuple[str, Move]:
        """(session, move) by the move's whole id; raises Unknown."""
        with self._database.transaction() as connection:
            found = ask.move(connection, identity)
        if found is None:
            raise Unknown(f"There is no move {identity!r}.", "`sojourn moves` shows those there are.")
        living = self._living.get(found[0])
        return (found[0], living.move) if living and living.move and living.move.id == identity else found

    def moves(self) -> list[tuple[str, Move]]:
        """(session, move), the newest first."""
        with self._database.transaction() as connection:
            written = ask.moves(connection)
        now = {one.move.id: one.move for one in self._living.values() if one.move}
        return [(session, now.get(move.id, move)) for session, move in written]

    async def until(self, identity: str, reached: Callable[[Session], bool]) -> Session:
        """Wait for a state of a session."""
        while not reached(session := self.get(identity)):
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[identity].append(changed)
            await changed
        return session

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, session: Session) -> Session:
        """Write down a new session and have it started; raises Refused when its name is taken."""
        self._require_free(session.name)
        started, tells = decide(session, SessionWanted(), self._clock(), self._limits)
        with self._database.transaction(lasting=True) as connection:
            ask.save_session(connection, None, started)
        self._settle(started, tells)
        return started

    def add_asleep(self, sessions: list[Session]) -> None:
        """Write down forks, all or none; each sleeps until it is wanted. Raises Refused when a name is taken."""
        for session in sessions:
            self._require_free(session.name)
        with self._database.transaction(lasting=True) as connection:
            for session in sessions:
                ask.save_session(connection, None, session)
        for session in sessions:
            self._settle(session, [])

    def apply(self, identity: str, event: Event, durable: bool = True) -> Session:
        """One step of the law. Raises what the law raises, and then nothing has changed.

        `durable`: write it down first. Progress is not worth that.
        """
        before = self.get(identity)
        after, tells = decide(before, event, self._clock(), self._limits)
        if after == before and not tells:
            return after
        if durable or tells:
            self._write(before, after, event)
        else:
            self._unsaved.setdefault(identity, before)
        self._settle(after, tells)
        return after

    def reported(self, node: str, report: Report) -> None:
        """What an agent reports; what speaks of an unknown session is ignored."""
        session = getattr(report.event, "session", "")
        if session and self._find(session):
            self.apply(session, Reported(node, report.event), durable=report.number > 0)

    def node_returned(self, node: str, held: Iterable[Held]) -> None:
        """Set what it holds against what is known. What nobody knows is told to go: no client could reach it."""
        by_session: defaultdict[str, list[Held]] = defaultdict(list)
        for one in held:
            by_session[one.session].append(one)
        concerned = {session.id for session in self._living.values() if node in session.nodes}
        for identity in concerned | by_session.keys():
            mine = tuple(by_session.get(identity, ()))
            if self._find(identity):
                self._befall(identity, NodeReturned(node, mine))
            else:
                log.warning("node %s holds session %s, which nobody knows; it is told to stop it", node, identity)
                self._tell(dismissals(node, mine))

    def node_left(self, node: str) -> None:
        self._concern(node, NodeLeft(node))

    def node_died(self, node: str) -> None:
        self._concern(node, NodeDied(node))

    def clock_jumped(self, seconds: float) -> None:
        for session in self.living():
            self._befall(session.id, ClockJumped(seconds))

    def tick(self) -> None:
        now = self._clock()
        for session in self.living():
            if session.deadline is not None and session.deadline <= now:
                self._befall(session.id, Tick())

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, before: Session, after: Session, event: Event) -> None:
        """A checkpoint is listed in the same step in which the law learns of it."""
        written = self._unsaved.get(before.id, before)
        lasting = after.issued != written.issued or after.checkpoints != written.checkpoints
        with self._database.transaction(lasting=lasting) as connection:
            ask.save_session(connection, written, after)
            if after.checkpoints != before.checkpoints:
                self._list_checkpoints(connection, before, after, event)
        self._unsaved.pop(before.id, None)

    def _list_checkpoints(self, connection: Connection, before: Session, after: Session, event: Event) -> None:
        facts = self._roster.facts(after.save.node) if after.save else None
        if facts and (new := kept.saved(before, after, facts, self._vaults.here())):
            ask.add_checkpoint(connection, new)
        for identity, problem in kept.spoilt(before, after, event).items():
            ask.mark_checkpoint(connection, identity, problem)

    def _require_free(self, name: str) -> None:
        if name and any(one.name == name for one in self._living.values()):
            raise Refused(f"There is a session named {name} already.", "Choose another name.")

    def _find(self, identity: str) -> Session | None:
        if identity in self._living:
            return self._living[identity]
        with self._database.transaction() as connection:
            return ask.session(connection, identity)

    def _concern(self, node: str, event: Event) -> None:
        for session in self.living():
            if node in session.nodes:
                self._befall(session.id, event)

    def _befall(self, identity: str, event: Event) -> None:
        """What comes over many sessions at once: a defect in how one of them takes it must not keep it from the others.
        A database that can't be written to is everybody's."""
        try:
            self.apply(identity, event)
        except SQLAlchemyError:
            raise
        except Exception:
            log.exception("a defect in the law, at session %s", identity)

    def _settle(self, session: Session, tells: list[Tell]) -> None:
        """The state is written: now say so."""
        if session.ended:
            self._living.pop(session.id, None)
        else:
            self._living[session.id] = session
        self._tell(tells)
        self._watchers.publish(session)
        for changed in self._waiting.pop(session.id, ()):
            if not changed.done():
                changed.set_result(None)

    def _tell(self, tells: Iterable[Tell]) -> None:
        for tell in tells:
            if instruction := self._complete(tell.instruction):
                reached = self._roster.tell(tell.node, instruction)
                log.info("%s: %s %s%s", tell.node, instruction.do, instruction.session, "" if reached else " (away)")

    def _complete(self, wanted: SessionInstruction | DepartTo | SaveTo | WakeFrom) -> SessionInstruction | None:
        """With what only the controller can give. None where the store of a checkpoint is not known any more: the law
        waits for an answer in vain, and says so."""
        if isinstance(wanted, DepartTo):
            return places.depart(self._roster, wanted, self._clock())
        try:
            if isinstance(wanted, SaveTo):
                return places.save(wanted, self._vaults.pass_for(self.get(wanted.session).owner))
            if isinstance(wanted, WakeFrom):
                return places.wake(wanted, self._pass_of(wanted))
        except StoreFailed as unknown:
            log.error("session %s: %s", wanted.session, unknown.message)
            return None
        return wanted

    def _pass_of(self, wanted: WakeFrom) -> StorePass:
        """A fork wakes from what another session was saved as."""
        with self._database.transaction() as connection:
            found = ask.checkpoint(connection, wanted.checkpoint)
        owner = found.owner if found else self.get(wanted.session).owner
        return self._vaults.pass_for(owner, found.store if found else None)
