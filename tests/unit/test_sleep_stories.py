"""Stories of sleep: events in, instructions out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sojourn import wire
from sojourn.errors import Busy, Refused, SessionLost, Unknown
from sojourn.lifecycle import (
    Berth,
    CheckpointDamaged,
    CheckpointFound,
    CheckpointsDropped,
    CheckpointWanted,
    ControllerStarted,
    Kept,
    Limits,
    MoveWanted,
    NodeDied,
    NodeLeft,
    NodeReturned,
    Reported,
    RestoreWanted,
    ResumeWanted,
    SaveTo,
    Session,
    StopWanted,
    SuspendWanted,
    Tick,
    WakeFrom,
    decide,
    next_place,
    place,
)
from sojourn.model import MoveReport, Program, SavePhase, SaveReport, SessionSpec, SessionStatus, WakePhase
from sojourn.wire import Held

LIMITS = Limits(fill_s=50, fence_s=20, answer_s=30, save_s=100, wake_s=100)
SPEC = SessionSpec(program=Program(argv=("python",)))
STORE_ERROR = {"code": "store_failed", "message": "The disk is full.", "hint": ""}
DAMAGED = {"code": "damaged", "message": "Chunk 1a2b is not what it was.", "hint": ""}


class Story:
    """A running session, and everything the nodes were told since the last look."""

    def __init__(self, **changes: Any) -> None:
        self.now = 1000.0
        running = Session("s", "s", "ada", SPEC, 0.0, "here", SessionStatus.RUNNING)
        self.session = replace(running, **changes)
        self.told: list[tuple[str, Any]] = []

    def feed(self, event: Any) -> Story:
        self.session, tells = decide(self.session, event, self.now, LIMITS)
        self.told += [(tell.node, tell.instruction) for tell in tells]
        return self

    def hear(self, node: str, kind: type, **fields: Any) -> Story:
        names = kind.model_fields  # type: ignore[attr-defined]
        report = SaveReport() if kind is wire.SessionSaved else MoveReport()
        trip = self.session.waking.id if self.session.waking else "c1"
        known = {"session": "s", "move": trip, "save": "c1", "report": report, "reason": "killed", "error": STORE_ERROR}
        values = {name: value for name, value in known.items() if name in names} | fields
        return self.feed(Reported(node, kind(**values)))

    def stumbles(self, node: str = "here", **fields: Any) -> Story:
        return self.hear(node, wire.MoveStumbled, **{"side": "source", "resumed": False} | fields)

    def after(self, seconds: float) -> Story:
        self.now += seconds
        return self.feed(Tick())

    def instructions(self) -> list[tuple[str, str]]:
        told = [(node, type(one).__name__) for node, one in self.told]
        self.told.clear()
        return told

    @property
    def status(self) -> SessionStatus:
        return self.session.status

    @property
    def save(self) -> SavePhase | None:
        return self.session.save.phase if self.session.save else None

    @property
    def wake(self) -> WakePhase | None:
        return self.session.wake.phase if self.session.wake else None

    @property
    def copy(self) -> tuple[str, int, int]:
        return self.session.node, self.session.incarnation, self.session.epoch

    @property
    def kept(self) -> list[str]:
        return [one.id for one in self.session.checkpoints]


def running(*checkpoints: str) -> Story:
    return Story(checkpoints=tuple(Kept(name, 900.0 - number) for number, name in enumerate(checkpoints)))


def suspending(*checkpoints: str) -> Story:
    return running(*checkpoints).feed(SuspendWanted("c1"))


def suspended(*checkpoints: str) -> Story:
    story = suspending(*checkpoints).hear("here", wire.SessionFrozen).hear("here", wire.SessionSaved, incarnation=1)
    story.hear("here", wire.MoveCommitted)
    story.told.clear()
    return story


def waking(*checkpoints: str) -> Story:
    story = suspended(*checkpoints).feed(ResumeWanted("w1", "there"))
    story.told.clear()
    return story


def filling(*checkpoints: str) -> Story:
    return waking(*checkpoints).hear("there", wire.SessionThawed, incarnation=2)


def held(state: str, incarnation: int, trip: str | None = None) -> Held:
    return Held(session="s", incarnation=incarnation, state=state, move=trip)  # type: ignore[arg-type]


# ── to sleep, and awake again ────────────────────────────────────────────────────────────────────────────────


def test_a_session_falls_asleep() -> None:
    story = suspending()
    assert (story.status, story.told) == (SessionStatus.SUSPENDING, [("here", SaveTo("c1", "s", 1, keep=False))])
    story.told.clear()
    story.hear("here", wire.SessionFrozen).hear("here", wire.FillProgressed, done_bytes=5, total_bytes=10)
    assert place(story.session) == Berth("here", 1, 1), "clients of a frozen session wait where they are"
    story.hear("here", wire.SessionSaved, incarnation=1)
    assert (story.status, story.save, story.session.exact) == (SessionStatus.SUSPENDED, SavePhase.RELEASING, True)
    assert (story.instructions(), place(story.session), story.kept) == ([("here", "CommitMove")], None, ["c1"])
    story.hear("here", wire.MoveCommitted)
    view = story.session.view()
    assert (story.save, view.save, view.checkpoint) == (SavePhase.DONE, None, "c1")


def test_a_session_wakes_elsewhere_and_its_streams_go_on() -> None:
    story = suspended().feed(ResumeWanted("w1", "there"))
    assert story.told == [("there", WakeFrom("w1", "s", 2, 1, "c1", SPEC))]
    assert (place(story.session), next_place(story.session)) == (None, Berth("there", 2, 1))
    story.hear("there", wire.SessionThawed, incarnation=2)
    assert (story.status, place(story.session)) == (SessionStatus.FILLING, Berth("there", 2, 1))
    story.hear("there", wire.SessionFilled, incarnation=2)
    assert (story.status, story.copy, story.session.reason) == (SessionStatus.RUNNING, ("there", 2, 1), "")
    assert (story.session.checkpoint, story.wake, story.session.deadline) == (None, WakePhase.DONE, None)


def test_a_session_goes_on_while_it_is_saved() -> None:
    story = running().feed(CheckpointWanted("c1", "named", "before"))
    assert (story.status, story.session.view().save) == (SessionStatus.RUNNING, "c1")
    story.hear("here", wire.SessionFrozen).hear("here", wire.SessionSaved, incarnation=1)
    assert (story.status, story.save, story.kept) == (SessionStatus.RUNNING, SavePhase.DONE, ["c1"])
    assert story.instructions() == [("here", "SaveTo")]


@pytest.mark.parametrize("begun", [suspending, waking, filling])
@pytest.mark.parametrize(
    "wish", [SuspendWanted("c2"), CheckpointWanted("c2", "named"), MoveWanted("m", "there", "lazy")]
)
def test_one_thing_at_a_time(begun: Any, wish: Any) -> None:
    story = begun()
    before = story.session
    with pytest.raises(Busy):
        story.feed(wish)
    assert story.session == before


def test_busy_knows_how_long() -> None:
    story = suspending()
    story.now += 10
    story.hear("here", wire.FillProgressed, done_bytes=25, total_bytes=100)
    with pytest.raises(Busy, match="about 30 s"):
        story.feed(ResumeWanted("w1", "here"))


def test_a_second_wish_to_wake_is_the_same_wish() -> None:
    for story in (waking(), filling(), running()):
        before = story.session
        assert (story.feed(ResumeWanted("w2", "elsewhere")).session, story.instructions()) == (before, [])


def test_what_sleeps_does_not_move() -> None:
    with pytest.raises(Refused, match="sleeps"):
        suspended().feed(MoveWanted("m", "there", "lazy"))


def test_events_that_come_twice_change_nothing() -> None:
    story = filling().hear("there", wire.SessionFilled, incarnation=2)
    before = story.session
    story.hear("here", wire.SessionSaved, incarnation=1).hear("here", wire.MoveCommitted)
    story.hear("there", wire.SessionThawed, move="w1", incarnation=2)
    story.hear("there", wire.SessionFilled, move="w1", incarnation=2)
    story.stumbles("there", move="w1", side="target")
    assert (story.session, story.instructions()) == (before, [])


# ── saves that fail ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_save_that_fails_leaves_the_session_running() -> None:
    story = suspending().stumbles(resumed=True)
    assert (story.status, story.copy, story.save) == (SessionStatus.RUNNING, ("here", 1, 1), SavePhase.FAILED)
    assert story.session.reason == "It could not be suspended: The disk is full."
    assert story.session.save
    assert story.session.save.error == STORE_ERROR


def test_what_cannot_go_on_by_itself_is_told_to() -> None:
    story = suspending().stumbles()
    assert (story.save, place(story.session), story.copy) == (SavePhase.ROLLING_BACK, None, ("here", 2, 1))
    assert story.instructions() == [("here", "SaveTo"), ("here", "RollBackMove")]
    story.hear("here", wire.MoveRolledBack, incarnation=2)
    assert (story.status, place(story.session)) == (SessionStatus.RUNNING, Berth("here", 2, 1))


def test_a_rollback_that_nobody_answers_is_told_again_while_its_node_is_there() -> None:
    story = suspending().stumbles().after(61)
    assert story.instructions() == [("here", "SaveTo"), ("here", "RollBackMove"), ("here", "RollBackMove")]
    assert story.session.deadline is not None
    assert story.feed(NodeLeft("here")).session.deadline is None
    story.feed(NodeReturned("here", (held("departed", 1, "c1"),)))
    assert story.session.deadline is not None


def test_what_lost_its_connections_goes_on_in_a_new_epoch() -> None:
    story = suspending().stumbles(scathed=True)
    assert story.copy == ("here", 2, 2)
    assert story.stumbles(scathed=True).copy == ("here", 2, 2), "said twice, known once"


def test_a_save_that_never_ends_is_rolled_back_and_its_checkpoint_still_counts() -> None:
    story = suspending().after(101)
    assert (story.save, story.status) == (SavePhase.ROLLING_BACK, SessionStatus.SUSPENDING)
    story.hear("here", wire.SessionSaved, incarnation=1).hear("here", wire.MoveRolledBack, incarnation=2)
    assert (story.status, story.save, story.kept) == (SessionStatus.RUNNING, SavePhase.DONE, ["c1"])


def test_a_node_that_is_away_while_it_saves_is_waited_for() -> None:
    story = suspending().feed(NodeLeft("here")).after(10_000)
    assert (story.status, story.save) == (SessionStatus.SUSPENDING, SavePhase.SAVING)
    story.told.clear()
    assert story.feed(NodeReturned("here", (held("running", 1),))).instructions() == [("here", "SaveTo")]
    assert story.feed(NodeReturned("here", (held("departed", 1, "c1"),))).instructions() == []
    assert story.hear("here", wire.SessionSaved, incarnation=1).status is SessionStatus.SUSPENDED


def test_a_frozen_copy_is_told_again_to_go() -> None:
    story = suspending().hear("here", wire.SessionSaved, incarnation=1).feed(NodeLeft("here"))
    story.told.clear()
    story.feed(NodeReturned("here", (held("departed", 1, "c1"),)))
    assert (story.status, story.instructions()) == (SessionStatus.SUSPENDED, [("here", "CommitMove")])
    story.feed(ResumeWanted("w1", "there")).feed(NodeReturned("here", (held("departed", 1, "c1"),)))
    assert story.instructions() == [("there", "WakeFrom"), ("here", "CommitMove")]


# ── wakes that fail ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_wake_that_fails_before_its_thaw_changes_nothing() -> None:
    story = waking().stumbles("there", side="target")
    assert (story.wake, story.instructions()) == (WakePhase.ABANDONING, [("there", "AbandonArrival")])
    with pytest.raises(Busy):
        story.feed(ResumeWanted("w2", "here"))
    story.hear("there", wire.ArrivalAbandoned)
    assert (story.status, story.session.exact, story.session.checkpoint) == (SessionStatus.SUSPENDED, True, "c1")
    assert story.session.reason == "It could not be woken on there: The disk is full."
    assert story.feed(ResumeWanted("w2", "here")).copy == ("here", 3, 1)


def test_after_a_thaw_streams_are_reset() -> None:
    story = filling().stumbles("there", side="target").hear("there", wire.ArrivalAbandoned)
    assert (story.status, story.session.exact) == (SessionStatus.SUSPENDED, False)
    story.feed(ResumeWanted("w2", "here"))
    assert story.session.epoch == 2


def test_a_node_that_can_not_be_asked_may_have_thawed_it() -> None:
    story = waking().feed(NodeLeft("there")).after(21)
    assert (story.status, story.session.exact) == (SessionStatus.SUSPENDED, False)
    story.told.clear()
    story.feed(NodeReturned("there", (held("filling", 2, "w1"),)))
    assert (story.status, story.instructions()) == (SessionStatus.SUSPENDED, [("there", "AbandonArrival")])


def test_a_damaged_checkpoint_is_left_for_an_older_one() -> None:
    story = waking("c0").stumbles("there", side="target", error=DAMAGED).hear("there", wire.ArrivalAbandoned)
    assert (story.status, story.session.checkpoint, story.kept) == (SessionStatus.SUSPENDED, "c0", ["c0"])
    assert not story.session.exact
    assert "Chunk 1a2b is not what it was. It sleeps in a checkpoint that is 100 s old" in story.session.reason


def test_without_an_older_one_it_is_lost() -> None:
    story = waking().stumbles("there", side="target", error=DAMAGED).hear("there", wire.ArrivalAbandoned)
    assert (story.status, story.session.checkpoint) == (SessionStatus.LOST, None)
    with pytest.raises(SessionLost, match="1a2b"):
        story.feed(ResumeWanted("w2", "here"))


def test_what_verifying_finds_counts() -> None:
    story = suspended("c0").feed(CheckpointDamaged("c1", "Chunk 1a2b is missing."))
    assert (story.status, story.session.checkpoint) == (SessionStatus.SUSPENDED, "c0")
    assert running("c0").feed(CheckpointDamaged("c0", "…")).kept == []


def test_a_wake_is_told_again_to_an_agent_that_lost_it() -> None:
    story = waking().feed(ControllerStarted()).feed(NodeReturned("there", ()))
    assert story.instructions() == [("there", "WakeFrom")]
    story.feed(NodeReturned("there", (held("running", 2, "w1"),)))
    assert (story.status, story.copy) == (SessionStatus.RUNNING, ("there", 2, 1))


def test_a_session_that_runs_while_its_node_is_away_is_not_given_up() -> None:
    assert filling().feed(NodeLeft("there")).after(1000).status is SessionStatus.FILLING


# ── nodes that die ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_whose_node_dies_sleeps_in_its_newest_checkpoint() -> None:
    story = running("c1", "c0").feed(NodeLeft("here")).feed(NodeDied("here"))
    assert (story.status, story.session.checkpoint, story.session.exact) == (SessionStatus.SUSPENDED, "c1", False)
    assert "a checkpoint that is 100 s old; what came later is lost." in story.session.reason
    story.feed(ResumeWanted("w1", "there"))
    assert (story.session.incarnation, story.session.epoch) == (2, 2)
    story.hear("there", wire.SessionFilled, incarnation=2)
    assert story.session.reason == "It went on from a checkpoint that was 100 s old."


def test_one_that_comes_back_is_the_session_again() -> None:
    story = running("c1").feed(NodeDied("here")).feed(NodeReturned("here", (held("running", 1),)))
    assert (story.status, story.copy, story.session.checkpoint) == (SessionStatus.RUNNING, ("here", 1, 1), None)


def test_but_not_once_something_was_woken() -> None:
    story = running("c1").feed(NodeDied("here")).feed(ResumeWanted("w1", "there"))
    story.told.clear()
    story.feed(NodeReturned("here", (held("running", 1),)))
    assert (story.status, story.instructions()) == (SessionStatus.WAKING, [("here", "StopSandbox")])


def test_a_save_given_up_with_its_node_may_still_end_well() -> None:
    story = suspending("c0").feed(NodeDied("here"))
    assert (story.status, story.session.checkpoint) == (SessionStatus.SUSPENDED, "c0")
    story.feed(NodeReturned("here", (held("departed", 1, "c1"),)))
    assert story.status is SessionStatus.SUSPENDING
    story.hear("here", wire.SessionSaved, incarnation=1)
    assert (story.status, story.session.checkpoint, story.session.exact) == (SessionStatus.SUSPENDED, "c1", True)


def test_a_checkpoint_that_nobody_could_tell_of_is_found_in_the_store() -> None:
    story = suspending().feed(NodeDied("here"))
    assert story.status is SessionStatus.LOST
    story.feed(CheckpointFound("c1"))
    assert (story.status, story.session.checkpoint, story.session.exact) == (SessionStatus.SUSPENDED, "c1", False)


def test_a_session_that_is_killed_falls_back_but_one_that_is_stopped_does_not() -> None:
    assert running("c1").hear("here", wire.SessionDied, incarnation=1).status is SessionStatus.SUSPENDED
    story = running("c1").feed(StopWanted()).hear("here", wire.SessionDied, incarnation=1)
    assert (story.status, story.session.checkpoint) == (SessionStatus.STOPPED, None)


# ── stop, restore, drop ──────────────────────────────────────────────────────────────────────────────────────


def test_what_sleeps_is_discarded_without_a_thaw() -> None:
    story = suspended().feed(StopWanted())
    assert (story.status, story.instructions()) == (SessionStatus.STOPPED, [])


@pytest.mark.parametrize(("begun", "node"), [(suspending, "here"), (waking, "there"), (filling, "there")])
def test_a_stop_ends_whatever_is_under_way(begun: Any, node: str) -> None:
    story = begun()
    story.told.clear()
    story.feed(StopWanted())
    assert (story.status, story.instructions()) == (SessionStatus.STOPPING, [(node, "StopSandbox")])
    assert (story.session.saving, story.session.waking) == (None, None)


def test_a_session_is_taken_back() -> None:
    story = running("c1", "c0").feed(RestoreWanted("c0", "w1", "there"))
    assert story.instructions() == [("here", "StopSandbox"), ("there", "WakeFrom")]
    assert (story.status, story.kept, story.session.epoch) == (SessionStatus.WAKING, ["c0", "c1"], 2)
    assert story.hear("there", wire.SessionFilled, incarnation=2).status is SessionStatus.RUNNING


def test_a_session_is_taken_back_only_to_what_it_has() -> None:
    with pytest.raises(Unknown, match="c7"):
        running("c1").feed(RestoreWanted("c7", "w1", "there"))
    with pytest.raises(Busy):
        waking().feed(RestoreWanted("c1", "w2", "there"))


def test_what_it_sleeps_in_is_not_dropped() -> None:
    with pytest.raises(Refused, match="sleeps in checkpoint c1"):
        suspended("c0").feed(CheckpointsDropped(("c0", "c1")))
    assert suspended("c0").feed(CheckpointsDropped(("c0",))).kept == ["c1"]
