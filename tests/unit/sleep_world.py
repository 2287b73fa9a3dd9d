"""A small world for the law of sleep: three nodes, a store, clients, and a controller that may be killed at any step.

What a session does is a log: each contact with a client, and each moment of work, adds an entry that never comes again.
So whether a state was lost, woken twice, or shown to clients as the continuation of another can be read from logs.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sojourn import wire
from sojourn.errors import SojournError
from sojourn.lifecycle import (
    CheckpointFound,
    ControllerStarted,
    DepartTo,
    Limits,
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
    place,
)
from sojourn.model import MoveReport, Program, SavePhase, SaveReport, SessionSpec, SessionStatus

LIMITS = Limits()
NODES = ("ada", "bob", "eve")
SPEC = SessionSpec(program=Program(argv=("python",)))
Log = tuple[int, ...]
Instruction = wire.Instruction | DepartTo | SaveTo | WakeFrom


@dataclass
class Image:
    """A whole checkpoint in the store."""

    session: str
    log: Log
    damaged: bool = False


@dataclass
class Store:
    images: dict[str, Image] = field(default_factory=dict)
    reachable: bool = True
    full: bool = False


@dataclass
class Copy:
    """What a node holds of a session in one incarnation. `trip`: the id of the move, save or wake."""

    state: str
    epoch: int
    log: Log = ()
    trip: str | None = None
    keep: bool = False
    aside: Log | None = None
    """Of a save that lets its session go on: the state as it was copied aside."""
    checkpoint: str | None = None
    scathed: bool = False

    @property
    def live(self) -> bool:
        return self.state in ("running", "filling")

    @property
    def saving(self) -> bool:
        return self.keep or (self.trip or "").startswith("save")


@dataclass
class Node:
    """As its agent's contract says: everything here is in the journal, and outlives a crash of the agent."""

    name: str
    copies: dict[tuple[str, int], Copy] = field(default_factory=dict)
    journal: deque[Any] = field(default_factory=deque)
    inbox: deque[Instruction] = field(default_factory=deque)
    over: dict[str, Any] = field(default_factory=dict)
    """How each trip ended here: said again when it is asked for again."""
    online: bool = True
    dead: bool = False
    given_up: bool = False

    def held(self, session: str) -> tuple[wire.Held, ...]:
        return tuple(
            wire.Held(session=session, incarnation=number, state=copy.state, move=copy.trip)  # type: ignore[arg-type]
            for (whose, number), copy in self.copies.items()
            if whose == session
        )

    def of(self, session: str, trip: str, *states: str) -> tuple[tuple[str, int], Copy] | None:
        found = (pair for pair in self.copies.items() if pair[0][0] == session and pair[1].trip == trip)
        return next((pair for pair in found if pair[1].state in states), None)

    def end(self, trip: str, said: Any) -> None:
        self.over[trip] = said
        self.journal.append(said)


@dataclass
class Clients:
    """Those of one session: what they have heard in this epoch, and the oldest incarnation that they still take."""

    epoch: int = 0
    incarnation: int = 0
    told: int = 0
    """The newest incarnation that the controller has told them of."""
    heard: Log = ()


class Law:
    """The controller: one state of each session, written down before anything is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sessions: dict[str, Session] = {}
        self.killed_before_telling = False

    def add(self, session: Session) -> None:
        self.sessions[session.id] = session
        self.world.clients[session.id] = Clients()
        if session.status is SessionStatus.PENDING:
            self.feed(session.id, SessionWanted())

    def feed(self, identity: str, event: Any) -> None:
        before = self.sessions[identity]
        after, tells = decide(before, event, self.world.now, LIMITS)
        assert after.issued >= before.issued
        assert after.epoch >= before.epoch
        self.sessions[identity] = after
        self._publish(after)
        if self.killed_before_telling:
            self.killed_before_telling = False
            return self.restart()
        for tell in tells:
            self._send(tell)
        return self._look_into_the_store(after)

    def _publish(self, session: Session) -> None:
        clients = self.world.clients[session.id]
        if berth := place(session):
            assert berth.incarnation >= clients.told, "a place older than one told before"
        clients.told = max(clients.told, session.incarnation)
        clients.incarnation = max(clients.incarnation, session.incarnation)

    def _send(self, tell: Tell) -> None:
        node = self.world.nodes[tell.node]
        if node.online:
            node.inbox.append(tell.instruction)

    def _look_into_the_store(self, session: Session) -> None:
        """What the controller does when a save was given up with its node."""
        save = session.save
        given_up = save and save.phase is SavePhase.FAILED and not save.saved and session.status not in _AWAKE
        if given_up and save and save.id in self.world.store.images:
            self.feed(session.id, CheckpointFound(save.id))

    def restart(self) -> None:
        for node in self.world.nodes.values():
            node.online = False
            node.inbox.clear()
        for identity in list(self.sessions):
            self.feed(identity, ControllerStarted())

    def tick(self) -> None:
        for identity in list(self.sessions):
            self.feed(identity, Tick())

    def hear(self, node: Node) -> None:
        said = node.journal[0]
        if said.session in self.sessions:
            self.feed(said.session, Reported(node.name, said))

    def hello(self, node: Node) -> None:
        node.online, node.given_up = True, False
        for identity in list(self.sessions):
            if node.online and (node.name in self.sessions[identity].nodes or node.held(identity)):
                self.feed(identity, NodeReturned(node.name, node.held(identity)))

    def concern(self, node: Node, event: Any) -> None:
        for identity in list(self.sessions):
            if node.name in self.sessions[identity].nodes:
                self.feed(identity, event)


_AWAKE = (SessionStatus.RUNNING, SessionStatus.MOVING, SessionStatus.FILLING, SessionStatus.SUSPENDING)


class World:
    """Nodes, store and clients; `law` in the middle."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes = {name: Node(name) for name in NODES}
        self.store = Store()
        self.clients: dict[str, Clients] = {}
        self.law = Law(self)
        self._entry = itertools.count(1)
        self.woken: dict[str, int] = {}
        """Checkpoint -> the newest incarnation that was thawed from it."""
        self.disowned: dict[str, set[str]] = {}
        """Session -> checkpoints of a life that was given up for an older one."""

    def copies(self, session: str) -> Iterator[tuple[Node, int, Copy]]:
        for node in self.nodes.values():
            for (whose, number), copy in node.copies.items():
                if whose == session:
                    yield node, number, copy

    # ── what an agent does with an instruction ───────────────────────────────────────────────────────────────

    def obey(self, node: Node, again: bool = False) -> None:
        asked = node.inbox[0] if again else node.inbox.popleft()
        getattr(self, f"_{type(asked).__name__}")(node, asked)

    def _StartSandbox(self, node: Node, asked: wire.StartSandbox) -> None:  # noqa: N802
        key = (asked.session, asked.incarnation)
        if key not in node.copies and f"start {key}" not in node.over:
            node.copies[key] = Copy("running", asked.epoch)
        started = wire.SandboxStarted(session=asked.session, incarnation=asked.incarnation, sandbox="runc")
        node.end(f"start {key}", started)

    def _StopSandbox(self, node: Node, asked: wire.StopSandbox) -> None:  # noqa: N802
        for session, number in list(node.copies):
            if session == asked.session and number <= asked.incarnation:
                del node.copies[session, number]
        node.journal.append(wire.SandboxStopped(session=asked.session, incarnation=asked.incarnation))

    def _PrepareArrival(self, node: Node, asked: wire.PrepareArrival) -> None:  # noqa: N802
        if asked.move not in node.over:
            key = (asked.session, asked.incarnation)
            node.copies.setdefault(key, Copy("arriving", asked.epoch, trip=asked.move))
            node.journal.append(wire.ArrivalPrepared(move=asked.move, session=asked.session))

    def _DepartTo(self, node: Node, asked: DepartTo) -> None:  # noqa: N802
        if asked.move in node.over:
            node.journal.append(node.over[asked.move])
            return
        for (session, _), copy in node.copies.items():
            if session == asked.session and copy.state == "running" and not copy.aside:
                copy.state, copy.trip = "departing", asked.move
                node.journal.append(wire.SessionFrozen(move=asked.move, session=session))

    def _SaveTo(self, node: Node, asked: SaveTo) -> None:  # noqa: N802
        if asked.save in node.over:
            node.journal.append(node.over[asked.save])
            return
        copy = node.copies.get((asked.session, asked.incarnation))
        if copy and copy.state == "running" and copy.trip != asked.save:
            copy.state, copy.trip, copy.keep = "departing", asked.save, asked.keep
            node.journal.append(wire.SessionFrozen(move=asked.save, session=asked.session))

    def _WakeFrom(self, node: Node, asked: WakeFrom) -> None:  # noqa: N802
        if asked.wake in node.over:
            node.journal.append(node.over[asked.wake])
            return
        fresh = Copy("arriving", asked.epoch, trip=asked.wake, checkpoint=asked.checkpoint)
        node.copies.setdefault((asked.session, asked.incarnation), fresh)

    def _CommitMove(self, node: Node, asked: wire.CommitMove) -> None:  # noqa: N802
        if found := node.of(asked.session, asked.move, "departing", "departed"):
            del node.copies[found[0]]
        node.end(asked.move, wire.MoveCommitted(move=asked.move, session=asked.session))

    def _RollBackMove(self, node: Node, asked: wire.RollBackMove) -> None:  # noqa: N802
        found = node.of(asked.session, asked.move, "departing", "departed", "running")
        if found and found[1].scathed and asked.epoch <= found[1].epoch:
            node.journal.append(self._stumble(asked.session, asked.move, scathed=True))
            return
        here = [pair for pair in node.copies.items() if pair[0][0] == asked.session]
        found = found or next((pair for pair in here if pair[1].state != "arriving"), None)
        if found is None:
            died = wire.SessionDied(session=asked.session, incarnation=asked.incarnation, reason="it is not here")
            node.end(asked.move, died)
            return
        (_, number), copy = found
        if not copy.live:
            assert self.woken.get(asked.move, 0) <= number, "what slept in a checkpoint goes on, and was woken as well"
        del node.copies[found[0]]
        node.copies[asked.session, asked.incarnation] = Copy("running", asked.epoch, copy.log)
        rolled = wire.MoveRolledBack(move=asked.move, session=asked.session, incarnation=asked.incarnation)
        node.end(asked.move, rolled)

    def _AbandonArrival(self, node: Node, asked: wire.AbandonArrival) -> None:  # noqa: N802
        if found := node.of(asked.session, asked.move, "arriving", "filling", "running"):
            del node.copies[found[0]]
        node.end(asked.move, wire.ArrivalAbandoned(move=asked.move, session=asked.session))

    def _stumble(
        self, session: str, trip: str, resumed: bool = False, scathed: bool = False, code: str = "criu_failed"
    ) -> wire.MoveStumbled:
        error = {"code": code, "message": "no", "hint": ""}
        side: Any = "target" if trip.startswith("wake") else "source"
        known = {"move": trip, "session": session, "side": side, "resumed": resumed, "scathed": scathed}
        return wire.MoveStumbled.model_validate({**known, "error": error})

    # ── what movers do ───────────────────────────────────────────────────────────────────────────────────────

    def work(self, node: Node) -> None:
        for (session, number), copy in list(node.copies.items()):
            if copy.scathed or copy.trip is None:
                continue
            if copy.saving:
                self._save(node, session, number, copy)
            elif copy.checkpoint:
                self._wake(node, session, number, copy)
            else:
                self._move(node, session, number, copy)

    def _save(self, node: Node, session: str, number: int, copy: Copy) -> None:
        assert copy.trip
        if copy.state not in ("departing", "running"):
            return
        if not self.store.reachable or self.store.full:
            self.fail_to_save(node, session, copy)
        elif copy.keep and copy.state == "departing":
            copy.state, copy.aside = "running", copy.log
        elif copy.keep:
            assert copy.aside is not None
            self._saved(node, session, number, copy.trip, copy.aside)
            self._no_trip(copy)
        else:
            copy.state = "departed"
            self._saved(node, session, number, copy.trip, copy.log)

    def _saved(self, node: Node, session: str, number: int, save: str, log: Log) -> None:
        self.store.images[save] = Image(session, log)
        node.end(save, wire.SessionSaved(save=save, session=session, incarnation=number, report=SaveReport()))

    def fail_to_save(self, node: Node, session: str, copy: Copy) -> None:
        assert copy.trip
        node.end(copy.trip, self._stumble(session, copy.trip, resumed=True, code="store_failed"))
        copy.state = "running"
        self._no_trip(copy)

    def _no_trip(self, copy: Copy) -> None:
        copy.trip, copy.keep, copy.aside = None, False, None

    def _wake(self, node: Node, session: str, number: int, copy: Copy) -> None:
        assert copy.checkpoint
        assert copy.trip
        if copy.state not in ("arriving", "filling") or copy.trip in node.over:
            return
        image = self.store.images.get(copy.checkpoint)
        if not self.store.reachable:
            node.end(copy.trip, self._stumble(session, copy.trip, code="store_failed"))
        elif image is None or image.damaged:
            node.end(copy.trip, self._stumble(session, copy.trip, code="damaged"))
        elif copy.state == "arriving":
            copy.state, copy.log = "filling", image.log
            self.disown(session, copy.checkpoint)
            self.woken[copy.checkpoint] = max(number, self.woken.get(copy.checkpoint, 0))
            node.journal.append(self._arrived(wire.SessionThawed, session, copy.trip, number))
        else:
            copy.state = "running"
            node.journal.append(self._arrived(wire.SessionFilled, session, copy.trip, number))

    def disown(self, session: str, checkpoint: str) -> None:
        """It goes back to this one."""
        images = {name for name, image in self.store.images.items() if image.session == session}
        self.disowned[session] = (self.disowned.get(session, set()) | images) - {checkpoint}

    def _move(self, node: Node, session: str, number: int, copy: Copy) -> None:
        assert copy.trip
        others = [one for one in self.nodes.values() if one is not node and not one.dead]
        if copy.state == "departing":
            arrival = next((found for one in others if (found := one.of(session, copy.trip, "arriving"))), None)
            if arrival is None:
                self.fail_to_save(node, session, copy)
                return
            copy.state, arrival[1].log, arrival[1].aside = "departed", copy.log, copy.log
            node.journal.append(wire.SessionSent(move=copy.trip, session=session))
        elif copy.state == "arriving" and copy.aside is not None:
            copy.state, copy.aside = "filling", None
            node.journal.append(self._arrived(wire.SessionThawed, session, copy.trip, number))
        elif copy.state == "filling" and any(one.of(session, copy.trip, "departed") for one in others):
            copy.state = "running"
            node.journal.append(self._arrived(wire.SessionFilled, session, copy.trip, number))

    def _arrived(self, kind: type, session: str, trip: str, number: int) -> Any:
        return kind(move=trip, session=session, incarnation=number, report=MoveReport())

    # ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────

    def stumble(self, node: Node) -> None:
        for (session, _), copy in list(node.copies.items()):
            if copy.trip is None or copy.scathed or copy.trip in node.over:
                continue
            if copy.state == "departing" or (copy.saving and copy.live):
                self.fail_to_save(node, session, copy)
            elif copy.state == "departed":
                node.journal.append(self._stumble(session, copy.trip))
            elif copy.state in ("arriving", "filling"):
                stumbled = self._stumble(session, copy.trip).model_copy(update={"side": "target"})
                node.end(copy.trip, stumbled)

    def scathe(self, node: Node, noticed: bool) -> None:
        """CRIU is killed in the middle of a dump; the agent notices at once, or when it lets the session go."""
        for (session, _), copy in list(node.copies.items()):
            if copy.state == "departing" and copy.trip and not copy.scathed:
                copy.scathed = True
                if noticed:
                    node.journal.append(self._stumble(session, copy.trip, scathed=True))

    def kill_sessions(self, node: Node) -> None:
        """Out of memory: whatever runs there dies by itself."""
        for (session, number), copy in list(node.copies.items()):
            if copy.live:
                del node.copies[session, number]
                died = wire.SessionDied(session=session, incarnation=number, reason="out of memory")
                node.end(copy.trip or f"life {session}.{number}", died)

    def cut(self, node: Node) -> None:
        if node.online:
            node.online = False
            node.inbox.clear()
            self.law.concern(node, NodeLeft(node.name))

    def lose(self, node: Node) -> None:
        """The machine is gone with its disk; one of the same name may come in its place."""
        self.cut(node)
        node.copies.clear()
        node.journal.clear()
        node.over.clear()
        node.dead = True

    def give_up(self, node: Node) -> None:
        if not node.online and not node.given_up:
            node.given_up = True
            self.law.concern(node, NodeDied(node.name))

    def dial(self, node: Node) -> None:
        if node.online:
            return
        if node.dead:
            self.give_up(node)
            node.dead = False
        self.law.hello(node)

    # ── clients ──────────────────────────────────────────────────────────────────────────────────────────────

    def contact(self, session: str) -> None:
        """Clients meet whichever copy they may, hear all it has said, and make it say more."""
        clients = self.clients[session]
        reachable = [
            (number, copy) for _, number, copy in self.copies(session) if self._may_meet(clients, number, copy)
        ]
        assert len(reachable) <= 1, f"clients reach {len(reachable)} copies"
        for number, copy in reachable:
            if copy.epoch == clients.epoch:
                assert copy.log[: len(clients.heard)] == clients.heard, "streams go on from a state clients never saw"
            copy.log = (*copy.log, next(self._entry))
            clients.epoch, clients.incarnation, clients.heard = copy.epoch, number, copy.log

    def _may_meet(self, clients: Clients, number: int, copy: Copy) -> bool:
        return copy.live and number >= clients.incarnation and copy.epoch >= clients.epoch

    def compute(self, node: Node) -> None:
        """What runs goes on by itself, be there clients or not."""
        for copy in node.copies.values():
            if copy.live:
                copy.log = (*copy.log, next(self._entry))

    # ── until all is quiet ───────────────────────────────────────────────────────────────────────────────────

    def settle(self) -> None:
        """Everybody can talk again, and time passes."""
        for _ in range(5):
            self.talk()
            self.now += 400.0
            self.law.tick()
        self.talk()

    def talk(self) -> None:
        for node in self.nodes.values():
            self.dial(node)
        for _ in range(60):
            before = self._stands()
            heard = [self._converse(node) for node in self.nodes.values()]
            if not any(heard) and self._stands() == before:
                return
        raise AssertionError("the law and its nodes never stop talking")

    def _converse(self, node: Node) -> bool:
        said = bool(node.inbox or node.journal)
        while node.inbox:
            self.obey(node)
        self.work(node)
        while node.journal:
            self.law.hear(node)
            node.journal.popleft()
        return said

    def _stands(self) -> list[tuple[str, int, str, str | None]]:
        copies = [pair for node in self.nodes.values() for pair in node.copies.items()]
        return [(session, number, copy.state, copy.trip) for (session, number), copy in copies]

    def try_to(self, session: str, event: Any) -> bool:
        try:
            self.law.feed(session, event)
        except SojournError:
            return False
        return True


def new_session(identity: str, node: str = "ada") -> Session:
    return Session(identity, identity, "ada", SPEC, 0.0, node)


def fork(session: Session, identity: str, now: float) -> Session | None:
    """As the controller makes it: a session of its own that sleeps in the nearest checkpoint of another."""
    if not session.checkpoints:
        return None
    kept = session.checkpoints[0]
    made = replace(new_session(identity, session.node), status=SessionStatus.SUSPENDED, created_at=now)
    return replace(made, checkpoint=kept.id, checkpoints=(kept,), origin=session.id)
