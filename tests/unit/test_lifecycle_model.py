"""The law against a small world: two nodes that crash, lose messages and hear them twice; a controller that restarts.

Whatever happens and in whatever order: clients never reach two live copies, a whole copy always exists unless a node
died or somebody stopped the session, and once everybody can talk again it settles.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sojourn import wire
from sojourn.errors import Refused, SessionLost, Unreachable
from sojourn.lifecycle import (
    ControllerStarted,
    DepartTo,
    Limits,
    MoveCancelled,
    MoveWanted,
    NodeDied,
    NodeLeft,
    NodeReturned,
    Reported,
    Session,
    SessionWanted,
    StopWanted,
    Tell,
    Tick,
    decide,
    place,
)
from sojourn.model import MoveReport, Program, SessionSpec, SessionStatus

LIMITS = Limits()
ERROR = {"code": "criu_failed", "message": "no", "hint": ""}
NODES = ("here", "there")
STEPS = ("an_instruction_arrives", "the_mover_works", "a_report_arrives")
WISHES = ("somebody_wants_a_move",) * 4 + ("somebody_cancels_it", "somebody_stops_it")
MISHAPS = (
    ("the_line_breaks",)
    + ("the_agent_dials_again",) * 4
    + (
        "the_mover_stumbles",
        "its_criu_is_killed",
        "a_report_arrives_but_not_its_acknowledgement",
        "the_controller_restarts",
        "a_node_dies",
    )
)


@dataclass
class Copy:
    """What a node holds of the session. `whole`: no page is missing."""

    state: str
    move: str | None = None
    prepared: bool = False
    has_images: bool = False
    whole: bool = True
    epoch: int = 1
    scathed: bool = False
    """What its connections carried is lost: it must not go on in this epoch."""

    @property
    def live(self) -> bool:
        return self.state in ("running", "filling")


@dataclass
class Node:
    """A node as its agent's contract says: everything here is in the journal, so a crash of the agent loses nothing
    but the connection."""

    name: str
    copies: dict[int, Copy] = field(default_factory=dict)
    journal: deque[wire.Event] = field(default_factory=deque)
    inbox: deque[wire.Instruction | DepartTo] = field(default_factory=deque)
    over: set[str] = field(default_factory=set)
    """Moves that have ended here."""
    online: bool = True
    dead: bool = False

    def held(self) -> tuple[wire.Held, ...]:
        return tuple(
            wire.Held(session="s", incarnation=number, state=copy.state, move=copy.move)  # type: ignore[arg-type]
            for number, copy in self.copies.items()
        )

    def of(self, move: str, *states: str) -> tuple[int, Copy] | None:
        found = ((number, copy) for number, copy in self.copies.items() if copy.move == move)
        return next(((number, copy) for number, copy in found if copy.state in states), None)


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.nodes = {name: Node(name) for name in NODES}
        self.moves = 0
        self.stopped = False
        self.fenced = False
        """Somebody could not be reached since the last settled moment."""
        self.met: dict[str, int] = {}
        """Move -> the epoch in which clients may have met the copy at its target."""
        self.newest = 0
        """What clients have been told: anything older is refused by them."""
        spec = SessionSpec(program=Program(argv=("python",)))
        self.session = Session(id="s", name="s", owner="o", spec=spec, created_at=0.0, node="here")
        self.feed(SessionWanted())
        self.talk_until_silent()

    # ── the controller ───────────────────────────────────────────────────────────────────────────────────────

    def feed(self, event: object) -> None:
        before = self.session.issued
        self.session, tells = decide(self.session, event, self.now, LIMITS)  # type: ignore[arg-type]
        assert self.session.issued >= before
        for tell in tells:
            self.send(tell)
        if berth := place(self.session):
            assert berth.incarnation >= self.newest, "a place was told that is older than one told before"
        self.newest = max(self.newest, self.session.incarnation)

    def send(self, tell: Tell) -> None:
        node = self.nodes[tell.node]
        if node.online:
            node.inbox.append(tell.instruction)

    def hear(self, node: Node) -> None:
        self.feed(Reported(node.name, node.journal[0]))
        node.journal.popleft()

    # ── what an agent does with an instruction ───────────────────────────────────────────────────────────────

    def obey(self, node: Node) -> None:
        asked = node.inbox.popleft()
        getattr(self, f"_{type(asked).__name__}")(node, asked)

    def _StartSandbox(self, node: Node, asked: wire.StartSandbox) -> None:  # noqa: N802
        if asked.incarnation not in node.copies and "s" not in node.over:
            node.copies[asked.incarnation] = Copy("running", epoch=asked.epoch)
        node.journal.append(wire.SandboxStarted(session="s", incarnation=asked.incarnation, sandbox="runc"))

    def _StopSandbox(self, node: Node, asked: wire.StopSandbox) -> None:  # noqa: N802
        node.copies = {number: copy for number, copy in node.copies.items() if number > asked.incarnation}
        node.journal.append(wire.SandboxStopped(session="s", incarnation=asked.incarnation))

    def _PrepareArrival(self, node: Node, asked: wire.PrepareArrival) -> None:  # noqa: N802
        if asked.move in node.over:
            return
        copy = node.copies.setdefault(asked.incarnation, Copy("arriving", asked.move, whole=False, epoch=asked.epoch))
        copy.prepared = True
        node.journal.append(wire.ArrivalPrepared(move=asked.move, session="s"))

    def _DepartTo(self, node: Node, asked: DepartTo) -> None:  # noqa: N802
        if asked.move in node.over:
            node.journal.append(self.stumble(asked.move, "source", resumed=True))
            return
        for copy in node.copies.values():
            if copy.state == "running":
                copy.state, copy.move = "departing", asked.move
                node.journal.append(wire.SessionFrozen(move=asked.move, session="s"))

    def _CommitMove(self, node: Node, asked: wire.CommitMove) -> None:  # noqa: N802
        if found := node.of(asked.move, "departing", "departed"):
            del node.copies[found[0]]
        node.over.add(asked.move)
        node.journal.append(wire.MoveCommitted(move=asked.move, session="s"))

    def _RollBackMove(self, node: Node, asked: wire.RollBackMove) -> None:  # noqa: N802
        if (hurt := node.of(asked.move, "departing")) and hurt[1].scathed and asked.epoch <= hurt[1].epoch:
            node.journal.append(self.stumble(asked.move, "source", resumed=False, scathed=True))
            return
        node.over.add(asked.move)
        assert asked.epoch > self.met.get(asked.move, 0), "streams go on from what clients met elsewhere"
        found = node.of(asked.move, "departing", "departed", "running") or next(iter(node.copies.items()), None)
        if found is None:
            node.journal.append(wire.SessionDied(session="s", incarnation=asked.incarnation, reason="not here"))
            return
        del node.copies[found[0]]
        node.copies[asked.incarnation] = Copy("running", epoch=asked.epoch)
        node.journal.append(wire.MoveRolledBack(move=asked.move, session="s", incarnation=asked.incarnation))

    def _AbandonArrival(self, node: Node, asked: wire.AbandonArrival) -> None:  # noqa: N802
        if found := node.of(asked.move, "arriving", "filling", "running"):
            del node.copies[found[0]]
        node.over.add(asked.move)
        node.journal.append(wire.ArrivalAbandoned(move=asked.move, session="s"))

    def stumble(self, move: str, side: str, resumed: bool, scathed: bool = False) -> wire.MoveStumbled:
        said = {"move": move, "session": "s", "side": side, "resumed": resumed, "scathed": scathed, "error": ERROR}
        return wire.MoveStumbled.model_validate(said)

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────

    @rule(steps=st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(STEPS)), min_size=1, max_size=8))
    def it_goes_on(self, steps: list[tuple[str, str]]) -> None:
        for name, step in steps:
            getattr(self, step)(name)

    @rule(wish=st.sampled_from(WISHES))
    def somebody_wants_something(self, wish: str) -> None:
        getattr(self, wish)()

    @rule(name=st.sampled_from(NODES), mishap=st.sampled_from(MISHAPS))
    def something_goes_wrong(self, name: str, mishap: str) -> None:
        getattr(self, mishap)(name)

    @rule(seconds=st.sampled_from((1.0, 25.0, 400.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        # Whoever is asked and stays silent for so long counts as out of reach.
        self.fenced |= seconds > LIMITS.answer_s
        self.feed(Tick())

    def an_instruction_arrives(self, name: str) -> None:
        node = self.nodes[name]
        if node.inbox and node.online:
            self.obey(node)

    def a_report_arrives(self, name: str) -> None:
        node = self.nodes[name]
        if node.journal and node.online:
            self.hear(node)

    def a_report_arrives_but_not_its_acknowledgement(self, name: str) -> None:
        node = self.nodes[name]
        if node.journal and node.online:
            self.feed(Reported(node.name, node.journal[0]))
            self.the_line_breaks(name)

    def the_mover_works(self, name: str) -> None:
        for number, copy in list(self.nodes[name].copies.items()):
            self.work(self.nodes[name], number, copy)

    def work(self, node: Node, number: int, copy: Copy) -> None:
        other = next(one for one in self.nodes.values() if one is not node)
        if copy.scathed:
            return
        if copy.state == "departing" and copy.move:
            arrival = other.of(copy.move, "arriving")
            if arrival and arrival[1].prepared and not other.dead:
                copy.state = "departed"
                arrival[1].has_images = True
                node.journal.append(wire.SessionSent(move=copy.move, session="s"))
            else:
                self.resume(node, copy)
        elif copy.state == "arriving" and copy.has_images and copy.move:
            copy.state = "filling"
            self.met[copy.move] = copy.epoch
            node.journal.append(self.arrived(wire.SessionThawed, copy.move, number))
        elif copy.state == "filling" and copy.move and other.of(copy.move, "departed"):
            copy.state, copy.whole = "running", True
            node.journal.append(self.arrived(wire.SessionFilled, copy.move, number))

    def arrived(self, kind: type, move: str, number: int) -> wire.Event:
        event: wire.Event = kind(move=move, session="s", incarnation=number, report=MoveReport())
        return event

    def resume(self, node: Node, copy: Copy) -> None:
        assert copy.move
        node.over.add(copy.move)
        node.journal.append(self.stumble(copy.move, "source", resumed=True))
        copy.state = "running"

    def its_criu_is_killed(self, name: str) -> None:
        """The agent notices it at once or, in every second move, when it lets the session go."""
        node = self.nodes[name]
        for copy in node.copies.values():
            if copy.state == "departing" and copy.move and not copy.scathed:
                copy.scathed = True
                if self.moves % 2:
                    continue
                node.journal.append(self.stumble(copy.move, "source", resumed=False, scathed=True))

    def the_mover_stumbles(self, name: str) -> None:
        node = self.nodes[name]
        for copy in node.copies.values():
            if copy.scathed:
                continue
            if copy.state == "departing":
                self.resume(node, copy)
            elif copy.state == "departed" and copy.move:
                node.journal.append(self.stumble(copy.move, "source", resumed=False))
            elif copy.state in ("arriving", "filling") and copy.move:
                node.journal.append(self.stumble(copy.move, "target", resumed=False))

    def somebody_wants_a_move(self) -> None:
        target = next(name for name in NODES if name != self.session.node)
        if not self.nodes[target].online:
            return
        self.moves += 1
        try:
            self.feed(MoveWanted(f"m{self.moves}", target, "lazy"))
        except (Refused, SessionLost, Unreachable):
            self.moves -= 1

    def somebody_cancels_it(self) -> None:
        with suppress(Refused):
            self.feed(MoveCancelled(f"m{self.moves}"))

    def the_line_breaks(self, name: str) -> None:
        node = self.nodes[name]
        if node.online:
            node.online = False
            node.inbox.clear()
            self.fenced = True
            self.feed(NodeLeft(name))

    def the_agent_dials_again(self, name: str) -> None:
        node = self.nodes[name]
        if not node.online and not node.dead:
            node.online = True
            self.feed(NodeReturned(name, node.held()))

    def the_controller_restarts(self, _: str) -> None:
        for node in self.nodes.values():
            node.online = False
            node.inbox.clear()
        self.fenced = True
        self.feed(ControllerStarted())

    def somebody_stops_it(self) -> None:
        if self.moves < 3:
            return  # most stories should be longer
        self.stopped = True
        self.feed(StopWanted())

    def a_node_dies(self, name: str) -> None:
        node = self.nodes[name]
        if self.moves < 2 or self.any_dead:
            return
        self.the_line_breaks(name)
        node.dead = True
        node.copies.clear()
        node.journal.clear()

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def any_dead(self) -> bool:
        return any(node.dead for node in self.nodes.values())

    @invariant()
    def two_copies_live_only_behind_the_fence(self) -> None:
        """As long as everybody could be reached during the move, there are never two, not even unreachable ones."""
        live = [number for number, copy in self.copies() if copy.live]
        assert len(live) <= 1 or self.fenced, live

    def copies(self) -> list[tuple[int, Copy]]:
        return [pair for node in self.nodes.values() for pair in node.copies.items()]

    @invariant()
    def clients_reach_one_copy_at_most(self) -> None:
        reachable = [number for number, copy in self.copies() if copy.live and number >= self.newest]
        assert len(reachable) <= 1, reachable

    @invariant()
    def a_whole_copy_exists(self) -> None:
        if self.stopped or self.any_dead or self.session.status in (SessionStatus.STARTING, SessionStatus.FAILED):
            return
        assert any(copy.whole for _, copy in self.copies()), (self.session, self.nodes)

    def teardown(self) -> None:
        """Everybody can talk again: it must settle, and nothing but the one copy may be left."""
        for _ in range(12):
            self.talk_until_silent()
            self.now += 400.0
            self.feed(Tick())
            for node in self.nodes.values():
                if node.dead:
                    self.feed(NodeDied(node.name))
        self.talk_until_silent()
        self.require_settled()

    def talk_until_silent(self) -> None:
        for name in NODES:
            self.the_agent_dials_again(name)
        before = None
        while before != (now := repr((self.session, self.nodes))):
            before = now
            for node in self.nodes.values():
                while node.inbox:
                    self.obey(node)
                for number, copy in list(node.copies.items()):
                    self.work(node, number, copy)
                while node.journal:
                    self.hear(node)
        self.fenced = False

    def require_settled(self) -> None:
        session, copies = self.session, self.copies()
        assert session.moving is None, session
        if session.status is SessionStatus.RUNNING:
            assert [(number, copy.state) for number, copy in copies] == [(session.incarnation, "running")], copies
            assert session.incarnation in self.nodes[session.node].copies
            assert not self.stopped
        else:
            assert session.ended, session
            assert not copies, (session, copies)
            assert self.stopped or self.any_dead or session.status is SessionStatus.FAILED


World.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestWorld = World.TestCase


def test_the_world_can_move_a_session() -> None:
    """The world itself works: without any mishap a move ends at the target."""
    world = World()
    assert world.session.status is SessionStatus.RUNNING
    world.somebody_wants_a_move()
    world.talk_until_silent()
    assert (world.session.node, world.session.incarnation, world.session.epoch) == ("there", 2, 1)
    world.require_settled()


def test_a_law_without_the_fence_is_caught() -> None:
    """The invariants can fail: two live copies of the same standing are noticed."""
    world = World()
    world.nodes["there"].copies[1] = replace(world.nodes["here"].copies[1])
    try:
        world.clients_reach_one_copy_at_most()
    except AssertionError:
        return
    raise AssertionError("not noticed")
