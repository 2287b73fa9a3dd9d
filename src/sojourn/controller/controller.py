"""The controller's parts, put together, and what they do together."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable

from sojourn.controller import places
from sojourn.controller.activity import Activities
from sojourn.controller.authority import Authority
from sojourn.controller.checkpoints import Checkpoints
from sojourn.controller.fitness import born, is_estranged, unstartable, way
from sojourn.controller.images import Images
from sojourn.controller.moves import Moves
from sojourn.controller.plans import Plans
from sojourn.controller.policing import Policing
from sojourn.controller.questions import Questions
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.roster import Line, Roster
from sojourn.controller.sleep import Sleep
from sojourn.controller.tokens import Gate, Person
from sojourn.controller.vaults import Vaults
from sojourn.controller.verbs import Verbs
from sojourn.controller.watching import Watchers
from sojourn.database import Database
from sojourn.database import queries as ask
from sojourn.errors import Invalid, Unknown
from sojourn.lifecycle import Limits, Session, StopWanted
from sojourn.model import NodeView, SessionSpec, Way
from sojourn.placement import choose, needs_of
from sojourn.settings import store_url
from sojourn.wire import Held, VerbAsked

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
JUMP_SECONDS = 2.0
"""Less is a clock that is being trimmed."""
LONGEST_PAUSE_SECONDS = 10.0
DEAD_SECONDS = 600.0
"""A node away for so long is declared dead; if it returns with its sessions after all, they go on."""
REMEMBER_SECONDS = 7 * 24 * 3600.0
"""How long what has ended is remembered."""
REFRESH_SECONDS = 600.0
"""How often watched places are told again, with fresh tickets."""


class Controller:
    def __init__(
        self,
        database: Database,
        *,
        store: str | None = None,
        authority: Authority | None = None,
        limits: Limits | None = None,
        dead_s: float = DEAD_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`store`: where checkpoints go; None: as the settings say. `authority`: vouches for it and its nodes; None:
        it speaks plain."""
        self.database, self.clock, self._dead_s = database, clock, dead_s
        self._refreshed_at, self._ahead = clock(), clock() - time.monotonic()
        self.gate = Gate(database)
        self.authority = authority
        self.roster = Roster(database, clock(), authority)
        self.watchers = Watchers(self.roster, clock)
        self.vaults = Vaults(database, store or store_url())
        self.reconciler = Reconciler(database, self.roster, self.watchers, self.vaults, limits or Limits(), clock)
        self.questions = Questions(self.roster)
        self.images = Images(self.roster, self.questions, self.reconciler.living, clock)
        self.activities = Activities()
        self.plans = Plans(self.roster, self.questions, self.images, self.activities, clock)
        self.moves = Moves(self.reconciler, self.roster, self.images, self.plans)
        self.checkpoints = Checkpoints(database, self.reconciler, self.vaults, clock)
        self.sleep = Sleep(
            self.reconciler,
            self.roster,
            self.questions,
            self.vaults,
            self.checkpoints,
            self.activities,
            self.images,
            clock,
        )
        self.verbs = Verbs(database, self.reconciler, self.roster, self.moves, self.sleep, clock)
        self.policing = Policing(self)

    async def run(self) -> None:
        """Let time pass, until cancelled."""
        self.reconciler.start()
        self.verbs.start()
        self.policing.start()
        try:
            await asyncio.gather(
                _every(TICK_SECONDS, self._tick),
                _every(3600.0, self._prune),
                self.checkpoints.run(),
            )
        finally:
            await self.policing.stop()
            await self.verbs.stop()

    # ── agents ───────────────────────────────────────────────────────────────────────────────────────────────

    def agent_arrived(self, name: str, line: Line, held: tuple[Held, ...]) -> None:
        log.info("node %s is online and holds %d sessions", name, len(held))
        self.roster.arrived(name, line)
        try:
            self.reconciler.node_returned(name, held)
            self.verbs.node_returned(name)
        except BaseException:
            self.agent_left(name, line)
            raise

    def agent_left(self, name: str, line: Line) -> None:
        if self.roster.left(name, line, self.clock()):
            self.questions.node_left(name)
            self.reconciler.node_left(name)

    def verb_asked(self, node: str, event: VerbAsked) -> None:
        """A session may ask only for itself, and only from where it lives."""
        session = self.reconciler.get(event.session)
        if node in session.nodes:
            self.verbs.asked(event)

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────────

    def sessions(self, person: Person, everything: bool) -> list[Session]:
        found = self.reconciler.everything() if everything else self.reconciler.living()
        return [session for session in found if person.may_see(session)]

    def shown(self, node: NodeView, person: Person) -> NodeView:
        """What a person may know of a node: what their own sessions use there, and not what others' do."""
        mine = {session.id for session in self.sessions(person, everything=False)}
        used = tuple(one for one in node.load.used if one.session in mine)
        return node.model_copy(update={"load": node.load.model_copy(update={"used": used})})

    def ways(self) -> list[Way]:
        """From each node to each other one."""
        nodes = self.roster.views()
        return [way(source, target) for source in nodes for target in nodes if source.name != target.name]

    def find(self, name: str, person: Person) -> Session:
        """By id, name, or a unique beginning of the id; the living first. Raises Unknown and Invalid."""
        for candidates in (self.sessions(person, everything=False), self.sessions(person, everything=True)):
            for fits in (_is, _starts):
                found = [session for session in candidates if fits(session, name)]
                if len(found) == 1:
                    return found[0]
                if found:
                    raise Invalid(f"{name!r} may mean {len(found)} sessions.", "Write more of the session's id.")
        raise Unknown(f"There is no session {name!r}.", "`sojourn sessions` shows those there are.")

    async def start_session(self, spec: SessionSpec, person: Person) -> Session:
        """Choose a node and tell it to begin, once the environment is there that the session starts in. Raises Refused
        (the name is taken), DoesNotFit, Unknown, Unreachable, and what keeps an environment from being brought."""
        home = self._home_of(spec)
        stock = await self.images.stock_of(spec.model_copy(update={"pinned": None}))
        nodes = self.roster.views()
        with stock.explained():
            node = choose(
                needs_of(spec.needs, nodes),
                nodes,
                unfit=lambda node: unstartable(spec, node, home) or stock.lacking(node.name),
            )
        born_as = await self._grounded(stock.pin(born(spec, node, nodes), node.name), home, node)
        session = Session(
            id=uuid.uuid4().hex,
            name=spec.name,
            owner=person.name,
            spec=born_as,
            created_at=self.clock(),
            node=node.name,
        )
        return self.reconciler.add(session)

    def _home_of(self, spec: SessionSpec) -> NodeView | None:
        """The node whose root a session is to start on. Raises Unknown, Invalid."""
        if spec.environment is None:
            return None
        if spec.image is not None:
            raise Invalid("A session starts from an image, or in the environment of a node.", "Leave out one of them.")
        return self.roster.view(spec.environment)

    async def _grounded(self, spec: SessionSpec, home: NodeView | None, node: NodeView) -> SessionSpec:
        """The spec of a session that starts at a node, with what it is to stand on there, which is there then."""
        if home is None or not is_estranged(home, node):
            return spec.model_copy(update={"ground": None})
        wanted = places.environment(self.roster, node, spec, self.clock())
        ground = await self.questions.bring_environment(home.name, wanted)
        self.roster.require_online(node.name)
        return spec.model_copy(update={"ground": ground, "sandbox": "runc"})

    def stop_session(self, session: Session) -> Session:
        return self.reconciler.apply(session.id, StopWanted())

    def forget_node(self, name: str) -> None:
        """For a machine that won't come back: its sessions are lost. Raises Unknown, and Busy while it is online."""
        self.roster.forget(name)
        self.reconciler.node_died(name)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        now = self.clock()
        self._notice_jump(now)
        self.roster.hang_up_on_the_silent(time.monotonic())
        self.reconciler.tick()
        if abs(now - self._refreshed_at) > REFRESH_SECONDS:
            self._refresh(now)
        for name, since in self.roster.left_at.items():
            if now - since > self._dead_s:
                self.reconciler.node_died(name)

    def _notice_jump(self, now: float) -> None:
        """Against a clock that is never set and stands still while the machine sleeps: a move that was under way when a
        laptop was closed must not be late when it is opened."""
        ahead = now - time.monotonic()
        jump, self._ahead = ahead - self._ahead, ahead
        if abs(jump) > JUMP_SECONDS:
            log.warning("the clock has jumped by %.0f s", jump)
            self.roster.left_at = {name: since + jump for name, since in self.roster.left_at.items()}
            self.reconciler.clock_jumped(jump)
            self.policing.clock_jumped()

    def _refresh(self, now: float) -> None:
        """By the clock that tickets run out by, so that a machine that has slept tells fresh ones at once."""
        self._refreshed_at = now
        for identity in self.watchers.watched():
            self.watchers.publish(self.reconciler.get(identity))

    def _prune(self) -> None:
        self.activities.forget_all_but({session.id for session in self.reconciler.living()})
        with self.database.transaction() as connection:
            ask.prune(connection, self.clock() - REMEMBER_SECONDS)


def _is(session: Session, name: str) -> bool:
    return name in (session.id, session.name)


def _starts(session: Session, name: str) -> bool:
    return len(name) >= 4 and session.id.startswith(name)


async def _every(seconds: float, act: Callable[[], None]) -> None:
    """What fails is tried again ever more seldom: on a disk that is full every line of a log counts."""
    pause = seconds
    while True:
        try:
            act()
        except Exception:
            log.exception("a defect in the controller")
            pause = min(2 * pause, max(seconds, LONGEST_PAUSE_SECONDS))
        else:
            pause = seconds
        await asyncio.sleep(pause)
