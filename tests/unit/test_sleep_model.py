"""The law of sleep against a small world in which everything fails (`sleep_world`).

Whatever happens and in whatever order: clients never reach two copies, streams go on only from what clients saw, a
session is never lost while a whole checkpoint of it exists, and once everybody can talk again it settles, awake or in
the newest whole checkpoint. `SOJOURN_MODEL_EXAMPLES` says how many stories are tried.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sleep_world import NODES, Copy, Node, World, fork, new_session

from sojourn.lifecycle import (
    CheckpointDamaged,
    CheckpointsDropped,
    CheckpointWanted,
    MoveWanted,
    RestoreWanted,
    ResumeWanted,
    Session,
    StopWanted,
    SuspendWanted,
)
from sojourn.model import SessionStatus

EXAMPLES = int(os.environ.get("SOJOURN_MODEL_EXAMPLES", "150"))
WORK = ("an_instruction_arrives", "a_mover_works", "a_report_arrives", "all_goes_well_for_a_while", "they_meet_it")
WISHES = ("suspend", "suspend", "resume", "resume", "resume", "checkpoint", "move", "restore", "fork", "drop", "stop")
MISHAPS = (
    "the_line_breaks",
    "a_mover_stumbles",
    "criu_is_killed",
    "the_memory_ends",
    "a_machine_is_gone",
    "a_node_is_given_up",
    "an_instruction_comes_twice",
    "a_report_is_not_acknowledged",
    "the_controller_is_killed_after_writing",
    "the_controller_restarts",
    "the_store_is_away",
    "the_store_is_full",
    "a_chunk_rots",
    "somebody_verifies",
    "it_computes",
)
THINGS = WORK * 9 + WISHES * 2 + MISHAPS + ("the_agent_dials_again", "the_store_is_well") * 4 + ("time_passes",) * 3
NAMES = st.sampled_from(NODES)


class Story(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.law = self.world.law
        self.law.add(new_session("s"))
        self.world.talk()
        self.trips = 0
        self.stopped: set[str] = set()

    def trip(self, kind: str) -> str:
        self.trips += 1
        return f"{kind}{self.trips}"

    def session(self, which: int) -> Session:
        known = list(self.law.sessions.values())
        return known[which % len(known)]

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────

    @rule(things=st.lists(st.tuples(st.sampled_from(THINGS), NAMES, st.integers(0, 5)), min_size=1, max_size=12))
    def things_happen(self, things: list[tuple[str, str, int]]) -> None:
        """All in one rule, so that stories are long, and none is without some kind of event."""
        for what, name, which in things:
            if what in WISHES:
                self.somebody_wants(what, self.session(which), name)
            else:
                getattr(self, what)(self.world.nodes[name], which)

    def somebody_wants(self, wish: str, session: Session, node: str) -> None:
        if self.world.nodes[node].online:
            getattr(self, wish)(session, node)

    def all_goes_well_for_a_while(self, *_: object) -> None:
        """Or else hardly any save would ever end."""
        for node in self.world.nodes.values():
            self.world.dial(node)
            while node.inbox and node.online:
                self.world.obey(node)
            self.world.work(node)
            while node.journal and node.online:
                self.hear(node)

    def they_meet_it(self, _: Node, which: int) -> None:
        self.world.contact(self.session(which).id)

    def time_passes(self, _: Node, which: int) -> None:
        self.world.now += (1.0, 25.0, 400.0)[which % 3]
        self.law.tick()

    def an_instruction_arrives(self, node: Node, _: int) -> None:
        if node.inbox and node.online:
            self.world.obey(node)

    def a_report_arrives(self, node: Node, _: int) -> None:
        if node.journal and node.online:
            self.hear(node)

    def hear(self, node: Node) -> None:
        self.law.hear(node)
        if node.online:
            node.journal.popleft()

    def a_mover_works(self, node: Node, _: int) -> None:
        self.world.work(node)

    def it_computes(self, node: Node, _: int) -> None:
        self.world.compute(node)

    # ── wishes ───────────────────────────────────────────────────────────────────────────────────────────────

    def suspend(self, session: Session, _: str) -> None:
        self.world.try_to(session.id, SuspendWanted(self.trip("save")))

    def checkpoint(self, session: Session, _: str) -> None:
        self.world.try_to(session.id, CheckpointWanted(self.trip("save"), "named", "before"))

    def resume(self, session: Session, node: str) -> None:
        self.world.try_to(session.id, ResumeWanted(self.trip("wake"), node))

    def move(self, session: Session, node: str) -> None:
        self.world.try_to(session.id, MoveWanted(self.trip("move"), node, "lazy"))

    def restore(self, session: Session, node: str) -> None:
        if session.checkpoints:
            kept = session.checkpoints[self.trips % len(session.checkpoints)]
            if self.world.try_to(session.id, RestoreWanted(kept.id, self.trip("wake"), node)):
                self.world.disown(session.id, kept.id)

    def fork(self, session: Session, _: str) -> None:
        made = fork(session, f"f{len(self.law.sessions)}", self.world.now)
        if made and len(self.law.sessions) < 3:
            self.law.add(made)

    def stop(self, session: Session, _: str) -> None:
        if self.trips > 20:  # most stories should be longer
            self.stopped.add(session.id)
            self.law.feed(session.id, StopWanted())

    def drop(self, session: Session, _: str) -> None:
        if not session.checkpoints:
            return
        dropped = session.checkpoints[-1].id
        if not any(one.checkpoint == dropped for one in self.law.sessions.values()):
            for identity in self.law.sessions:
                self.law.feed(identity, CheckpointsDropped((dropped,)))
            self.world.store.images.pop(dropped, None)

    # ── mishaps ──────────────────────────────────────────────────────────────────────────────────────────────

    def the_line_breaks(self, node: Node, _: int) -> None:
        self.world.cut(node)

    def the_agent_dials_again(self, node: Node, _: int) -> None:
        self.world.dial(node)

    def a_mover_stumbles(self, node: Node, _: int) -> None:
        self.world.stumble(node)

    def criu_is_killed(self, node: Node, which: int) -> None:
        self.world.scathe(node, noticed=bool(which % 2))

    def the_memory_ends(self, node: Node, _: int) -> None:
        if self.trips > 3:
            self.world.kill_sessions(node)

    def a_machine_is_gone(self, node: Node, which: int) -> None:
        if self.trips > 3 and which < 2:
            self.world.lose(node)

    def a_node_is_given_up(self, node: Node, _: int) -> None:
        """It may be well all the same, and come back."""
        self.world.cut(node)
        self.world.give_up(node)

    def an_instruction_comes_twice(self, node: Node, _: int) -> None:
        if node.inbox and node.online:
            self.world.obey(node, again=True)

    def a_report_is_not_acknowledged(self, node: Node, _: int) -> None:
        if node.journal and node.online:
            self.law.hear(node)
            self.world.cut(node)

    def the_controller_is_killed_after_writing(self, *_: object) -> None:
        self.law.killed_before_telling = True

    def the_controller_restarts(self, *_: object) -> None:
        self.law.restart()

    def the_store_is_away(self, *_: object) -> None:
        self.world.store.reachable = False

    def the_store_is_full(self, *_: object) -> None:
        self.world.store.full = True

    def the_store_is_well(self, *_: object) -> None:
        self.world.store.reachable, self.world.store.full = True, False

    def a_chunk_rots(self, _: Node, which: int) -> None:
        images = list(self.world.store.images.values())
        if len(images) > which:
            images[which].damaged = True

    def somebody_verifies(self, *_: object) -> None:
        for name, image in self.world.store.images.items():
            if image.damaged:
                for identity in self.law.sessions:
                    self.law.feed(identity, CheckpointDamaged(name, "chunk 1a2b is not what it was."))

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def clients_reach_one_copy_at_most(self) -> None:
        for identity, clients in self.world.clients.items():
            live = [number for _, number, copy in self.world.copies(identity) if copy.live]
            assert sum(number >= clients.incarnation for number in live) <= 1, live

    def teardown(self) -> None:
        self.law.killed_before_telling = False
        self.the_store_is_well()
        self.world.settle()
        for identity in list(self.law.sessions):
            self.require_settled(self.law.sessions[identity])
            self.require_it_wakes(identity)

    def require_settled(self, session: Session) -> None:
        assert (session.moving, session.saving, session.waking) == (None, None, None)
        copies = [(node.name, number, copy.state) for node, number, copy in self.world.copies(session.id)]
        if session.status is SessionStatus.RUNNING:
            assert copies == [(session.node, session.incarnation, "running")], copies
            self.world.contact(session.id)
        else:
            assert not copies, copies
            assert session.status is SessionStatus.SUSPENDED or session.ended, session
        if session.status is SessionStatus.LOST:
            assert not self.whole(session), "lost, although a whole checkpoint exists"
        if session.status is SessionStatus.SUSPENDED:
            self.require_newest(session)

    def whole(self, session: Session) -> dict[str, tuple[int, ...]]:
        images = self.world.store.images.items()
        return {name: one.log for name, one in images if one.session == session.id and not one.damaged}

    def require_newest(self, session: Session) -> None:
        assert session.checkpoint == session.checkpoints[0].id
        slept = self.world.store.images[str(session.checkpoint)].log
        disowned = self.world.disowned.get(session.id, set())
        newer = {
            name
            for name, log in self.whole(session).items()
            if len(log) > len(slept) and log[: len(slept)] == slept and name not in disowned
        }
        assert not newer, (session.checkpoint, newer)

    def require_it_wakes(self, identity: str) -> None:
        """From the newest whole checkpoint: what is damaged is found out, and left for an older one."""
        while (session := self.law.sessions[identity]).status is SessionStatus.SUSPENDED:
            self.law.feed(identity, ResumeWanted(self.trip("wake"), "bob"))
            self.world.settle()
            after = self.law.sessions[identity]
            progressed = after.status is not SessionStatus.SUSPENDED or len(after.checkpoints) < len(
                session.checkpoints
            )
            assert progressed, (session, after)
        self.require_settled(session)


Story.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStory = pytest.mark.timeout(3600)(Story.TestCase)


def quietly(story: Story, wish: str, node: str = "bob") -> Session:
    getattr(story, wish)(story.law.sessions["s"], node)
    story.world.talk()
    return story.law.sessions["s"]


def test_the_world_can_put_a_session_to_sleep_and_wake_it_elsewhere() -> None:
    story = Story()
    story.world.contact("s")
    assert quietly(story, "suspend").status is SessionStatus.SUSPENDED
    session = quietly(story, "resume")
    assert (session.status, session.node, session.incarnation, session.epoch) == (SessionStatus.RUNNING, "bob", 2, 1)
    story.world.contact("s")
    assert story.world.clients["s"].heard == (1, 2)
    story.teardown()


def test_streams_that_would_go_on_from_an_older_state_are_noticed() -> None:
    """The invariants can fail: a copy of what was saved earlier must not keep its epoch."""
    story = Story()
    quietly(story, "checkpoint")
    story.world.contact("s")
    story.world.nodes["ada"].copies.clear()
    story.world.nodes["bob"].copies["s", 2] = Copy("running", epoch=1)
    with pytest.raises(AssertionError, match="streams go on"):
        story.world.contact("s")


def test_two_copies_are_noticed() -> None:
    story = Story()
    story.world.nodes["bob"].copies["s", 1] = Copy("running", epoch=1)
    with pytest.raises(AssertionError, match="reach 2 copies"):
        story.world.contact("s")
