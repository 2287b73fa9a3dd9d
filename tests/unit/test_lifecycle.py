"""Stories: events in, instructions out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sojourn import wire
from sojourn.errors import Busy, Refused, SessionLost, Unreachable
from sojourn.lifecycle import (
    Berth,
    ClockJumped,
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
    Tick,
    decide,
    next_place,
    place,
)
from sojourn.model import MovePhase, MoveReport, Program, SessionSpec, SessionStatus, Shipment
from sojourn.wire import Held

LIMITS = Limits(start_s=100, prepare_s=100, send_s=100, thaw_s=50, fill_s=50, fence_s=20, answer_s=30)
ERROR = {"code": "criu_failed", "message": "criu said no", "hint": "look"}
SPEC = SessionSpec(program=Program(argv=("python",)))


class Story:
    """A session, and everything the nodes were told since the last look."""

    def __init__(self, **changes: Any) -> None:
        self.now = 0.0
        self.session = Session("s", "s", "ada", SPEC, 0.0, "here")
        self.session = replace(self.session, **changes)
        self.told: list[tuple[str, Any]] = []

    def feed(self, event: Any) -> Story:
        self.session, tells = decide(self.session, event, self.now, LIMITS)
        self.told += [(tell.node, tell.instruction) for tell in tells]
        return self

    def hear(self, node: str, kind: type, **fields: Any) -> Story:
        names = kind.model_fields  # type: ignore[attr-defined]
        known = {"session": "s", "move": "m", "report": MoveReport(), "reason": "killed", "error": ERROR}
        values = {name: value for name, value in known.items() if name in names} | fields
        return self.feed(Reported(node, kind(**values)))

    def after(self, seconds: float) -> Story:
        self.now += seconds
        return self.feed(Tick())

    def instructions(self) -> list[tuple[str, str]]:
        """(node, what) since the last look."""
        told = [(node, "depart" if isinstance(one, DepartTo) else one.do) for node, one in self.told]
        self.told.clear()
        return told

    @property
    def status(self) -> SessionStatus:
        return self.session.status

    @property
    def phase(self) -> MovePhase | None:
        return self.session.move.phase if self.session.move else None

    @property
    def copy(self) -> tuple[str, int, int]:
        return self.session.node, self.session.incarnation, self.session.epoch


def running() -> Story:
    story = Story().feed(SessionWanted()).hear("here", wire.SandboxStarted, incarnation=1, sandbox="runc")
    story.told.clear()
    return story


def preparing() -> Story:
    return running().feed(MoveWanted("m", "there", "lazy", ("tcp 10.0.0.1:5432",)))


def departing() -> Story:
    story = preparing().hear("there", wire.ArrivalPrepared)
    story.told.clear()
    return story


def sent() -> Story:
    return departing().hear("here", wire.SessionFrozen).hear("here", wire.SessionSent)


def filling() -> Story:
    return sent().hear("there", wire.SessionThawed, incarnation=2)


def committing() -> Story:
    return filling().hear("there", wire.SessionFilled, incarnation=2)


def held(state: str, incarnation: int, move: str | None = None) -> Held:
    return Held(session="s", incarnation=incarnation, state=state, move=move)  # type: ignore[arg-type]


# ── start and end ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_starts() -> None:
    story = Story().feed(SessionWanted())
    assert (story.status, story.instructions()) == (SessionStatus.STARTING, [("here", "start_sandbox")])
    story.hear("here", wire.SandboxStarted, incarnation=1, sandbox="runc")
    assert (story.status, place(story.session)) == (SessionStatus.RUNNING, Berth("here", 1, 1))
    assert story.session.sandbox == "runc"


def test_a_session_that_cannot_start_says_why() -> None:
    story = Story().feed(SessionWanted()).hear("here", wire.SandboxFailedToStart, incarnation=1)
    assert (story.status, story.session.reason) == (SessionStatus.FAILED, "criu said no look")


def test_a_start_that_takes_too_long_is_taken_back_even_if_it_succeeds_later() -> None:
    story = Story().feed(SessionWanted()).after(101)
    assert story.status is SessionStatus.FAILED
    story.told.clear()
    story.hear("here", wire.SandboxStarted, incarnation=1, sandbox="runc")
    assert story.instructions() == [("here", "stop_sandbox")]


def test_a_start_is_told_again_to_an_agent_that_lost_it() -> None:
    story = Story().feed(SessionWanted()).feed(NodeLeft("here")).feed(NodeReturned("here", ()))
    assert story.instructions() == [("here", "start_sandbox")] * 2


def test_a_stop_waits_for_the_node() -> None:
    story = running().feed(StopWanted())
    assert (story.status, story.instructions()) == (SessionStatus.STOPPING, [("here", "stop_sandbox")])
    story.hear("here", wire.SandboxStopped, incarnation=1)
    assert (story.status, place(story.session)) == (SessionStatus.STOPPED, None)


def test_a_stop_does_not_wait_for_ever_and_is_told_again() -> None:
    story = running().feed(NodeLeft("here")).feed(StopWanted()).after(31)
    assert story.status is SessionStatus.STOPPED
    story.told.clear()
    story.feed(NodeReturned("here", (held("running", 1),)))
    assert story.instructions() == [("here", "stop_sandbox")]


def test_a_program_that_exits_ends_only_sessions_that_want_it() -> None:
    story = running().hear("here", wire.ProgramExited, incarnation=1, code=1)
    assert story.status is SessionStatus.RUNNING
    story.session = replace(story.session, spec=SPEC.model_copy(update={"ends_with_program": True}))
    story.hear("here", wire.ProgramExited, incarnation=1, code=1)
    assert (story.status, story.session.reason) == (SessionStatus.STOPPING, "Its program ended with code 1.")


def test_a_session_that_dies_is_lost_with_its_reason() -> None:
    story = running().hear("here", wire.SessionDied, incarnation=1)
    assert (story.status, story.session.reason) == (SessionStatus.LOST, "killed")


def test_what_another_node_says_does_not_count() -> None:
    story = running().hear("there", wire.SessionDied, incarnation=1)
    assert story.status is SessionStatus.RUNNING


def test_a_node_that_dies_and_comes_back_brings_its_session_back() -> None:
    story = running().feed(NodeLeft("here")).feed(NodeDied("here"))
    assert story.status is SessionStatus.LOST
    story.feed(NodeReturned("here", (held("running", 1),)))
    assert (story.status, story.session.reason, story.session.ended_at) == (SessionStatus.RUNNING, "", None)


def test_a_node_that_comes_back_without_it_has_lost_it() -> None:
    assert running().feed(NodeLeft("here")).feed(NodeReturned("here", ())).status is SessionStatus.LOST


# ── a move, as it should go ──────────────────────────────────────────────────────────────────────────────────


def test_a_move_from_end_to_end() -> None:
    story = preparing()
    assert (story.status, story.instructions()) == (SessionStatus.MOVING, [("there", "prepare_arrival")])
    assert (place(story.session), next_place(story.session)) == (Berth("here", 1, 1), None)
    story.hear("there", wire.ArrivalPrepared)
    assert story.instructions() == [("here", "depart")]
    assert (place(story.session), next_place(story.session)) == (Berth("here", 1, 1), Berth("there", 2, 1))
    story.hear("here", wire.SessionFrozen).hear("here", wire.SessionSent)
    story.hear("there", wire.SessionThawed, incarnation=2, report=MoveReport(frozen_s=0.1))
    assert (story.status, place(story.session), next_place(story.session)) == (
        SessionStatus.FILLING,
        Berth("there", 2, 1),
        None,
    )
    assert story.instructions() == []
    story.hear("there", wire.SessionFilled, incarnation=2, report=MoveReport(filled_s=0.5))
    assert (story.status, story.instructions()) == (SessionStatus.RUNNING, [("here", "commit_move")])
    story.hear("here", wire.MoveCommitted)
    assert (story.phase, story.session.view().move) == (MovePhase.DONE, None)
    assert story.session.move
    report = story.session.move.report
    assert (report.frozen_s, report.filled_s, report.connections_reset) == (0.1, 0.5, ("tcp 10.0.0.1:5432",))


def test_the_thaw_may_be_heard_before_the_sending() -> None:
    story = departing().hear("there", wire.SessionThawed, incarnation=2).hear("here", wire.SessionSent)
    assert (story.status, story.copy) == (SessionStatus.FILLING, ("there", 2, 1))


def test_events_that_come_twice_change_nothing() -> None:
    story = committing().hear("here", wire.MoveCommitted)
    story.told.clear()
    before = story.session
    story.hear("there", wire.ArrivalPrepared).hear("here", wire.SessionFrozen).hear("here", wire.SessionSent)
    story.hear("there", wire.SessionThawed, incarnation=2).hear("there", wire.SessionFilled, incarnation=2)
    story.hear("here", wire.MoveCommitted).hear("here", wire.MoveStumbled, side="source", resumed=True)
    assert (story.session, story.instructions()) == (before, [])


def test_what_goes_ahead_may_take_long_and_the_session_runs_on() -> None:
    """Every piece of news puts off the deadline; it stands still only once its node says so."""
    story = departing()
    for done in (1, 2, 3):
        half = Shipment(what="environment", done_bytes=done, total_bytes=3)
        story.after(LIMITS.send_s * 0.9).hear("here", wire.ShipmentProgressed, shipment=half)
    assert story.phase is MovePhase.DEPARTING
    assert story.session.move is not None
    assert not story.session.move.view("s").stands_still
    assert story.session.move.report.shipments == (half,)
    story.hear("here", wire.SessionFrozen)
    assert story.session.move.view("s").stands_still
    story.hear("here", wire.SessionSent).hear("there", wire.SessionThawed, incarnation=2)
    assert not story.session.move.view("s").stands_still
    assert story.session.move.report.shipments == (half,)


@pytest.mark.parametrize("begun", [preparing, departing, sent, filling, committing])
def test_a_second_move_is_busy(begun: Any) -> None:
    story = begun()
    before = story.session
    with pytest.raises(Busy):
        story.feed(MoveWanted("m2", "elsewhere", "lazy"))
    assert story.session == before


def test_busy_knows_how_long() -> None:
    story = filling()
    story.now = 10
    story.hear("there", wire.FillProgressed, done_bytes=25, total_bytes=100)
    with pytest.raises(Busy, match="about 30 s"):
        story.feed(MoveWanted("m2", "here", "lazy"))


def test_what_has_ended_or_cannot_be_reached_does_not_move() -> None:
    with pytest.raises(SessionLost):
        running().hear("here", wire.SessionDied, incarnation=1).feed(MoveWanted("m", "there", "lazy"))
    with pytest.raises(Refused):
        running().feed(StopWanted()).feed(MoveWanted("m", "there", "lazy"))
    with pytest.raises(Unreachable):
        running().feed(NodeLeft("here")).feed(MoveWanted("m", "there", "lazy"))
    with pytest.raises(Busy, match="starting"):
        Story().feed(SessionWanted()).feed(MoveWanted("m", "there", "lazy"))


# ── before the session was sent: as if nothing had happened ──────────────────────────────────────────────────


def stays(story: Story) -> None:
    assert (story.status, story.phase, story.copy) == (SessionStatus.RUNNING, MovePhase.FAILED, ("here", 1, 1))
    assert ("there", "abandon_arrival") in story.instructions()


def test_the_target_stumbles_while_it_prepares() -> None:
    story = preparing().hear("there", wire.MoveStumbled, side="target", resumed=False)
    assert story.session.reason == "The move to there failed: criu said no"
    stays(story)


@pytest.mark.parametrize("node", ["here", "there"])
def test_a_node_leaves_while_the_target_prepares(node: str) -> None:
    stays(preparing().feed(NodeLeft(node)))


def test_preparing_takes_too_long() -> None:
    stays(preparing().after(101))


def test_the_source_stumbles_and_goes_on_by_itself() -> None:
    stays(departing().hear("here", wire.MoveStumbled, side="source", resumed=True))


def test_a_move_is_cancelled_in_time() -> None:
    stays(preparing().feed(MoveCancelled("m")))


def test_incarnations_are_never_given_out_twice() -> None:
    story = preparing().hear("there", wire.MoveStumbled, side="target", resumed=False)
    story.feed(MoveWanted("m2", "there", "lazy"))
    assert story.session.move
    assert story.session.move.incarnation == 3


def test_the_source_dies_before_it_has_sent() -> None:
    story = preparing().hear("here", wire.SessionDied, incarnation=1)
    assert (story.status, story.session.reason) == (SessionStatus.LOST, "killed")


# ── after it was sent: only the law decides ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("begun", "epoch"), [(sent, 1), (filling, 2)])
def test_the_target_is_gone_before_the_source_goes_on(begun: Any, epoch: int) -> None:
    """Streams are reset only if clients may have met the copy at the target."""
    story = begun().hear("there", wire.MoveStumbled, side="target", resumed=False)
    assert (story.status, place(story.session)) == (SessionStatus.MOVING, None)
    assert story.instructions() == [("there", "abandon_arrival")]
    story.hear("there", wire.ArrivalAbandoned)
    assert story.instructions() == [("here", "roll_back_move")]
    story.hear("here", wire.MoveRolledBack, incarnation=3)
    assert (story.status, story.copy, story.phase) == (SessionStatus.RUNNING, ("here", 3, epoch), MovePhase.FAILED)
    assert "criu said no" in story.session.reason


def test_a_source_that_says_it_resumed_after_sending_is_not_believed() -> None:
    story = sent().hear("here", wire.MoveStumbled, side="source", resumed=True)
    assert (story.phase, story.instructions()) == (MovePhase.ROLLING_BACK, [("there", "abandon_arrival")])


def scathed(story: Story) -> Story:
    return story.hear("here", wire.MoveStumbled, side="source", resumed=False, scathed=True)


def test_a_scathed_source_goes_on_at_once_and_every_stream_is_reset() -> None:
    story = scathed(departing().hear("here", wire.SessionFrozen))
    assert (story.status, place(story.session)) == (SessionStatus.MOVING, None)
    assert story.instructions() == [("there", "abandon_arrival"), ("here", "roll_back_move")]
    before = story.session
    assert (scathed(story).session, story.instructions()) == (before, [])  # it may come twice
    story.hear("there", wire.ArrivalAbandoned).hear("here", wire.MoveRolledBack, incarnation=3)
    assert (story.status, story.copy, story.phase) == (SessionStatus.RUNNING, ("here", 3, 2), MovePhase.FAILED)
    assert "criu said no" in story.session.reason
    assert scathed(story).copy == ("here", 3, 2)
    assert story.instructions() == []


def test_a_source_scathed_while_the_target_is_called_back_is_reset_too() -> None:
    story = scathed(departing().feed(MoveCancelled("m")))
    assert story.instructions() == [("there", "abandon_arrival")]
    story.hear("there", wire.ArrivalAbandoned).hear("here", wire.MoveRolledBack, incarnation=3)
    assert story.copy == ("here", 3, 2)


def test_a_source_found_scathed_when_it_was_let_go_is_let_go_again() -> None:
    """The first time its streams were to go on."""
    story = departing().feed(MoveCancelled("m")).hear("there", wire.ArrivalAbandoned)
    assert story.copy == ("here", 3, 1)
    story.told.clear()
    assert scathed(story).instructions() == [("here", "roll_back_move")]
    story.hear("here", wire.MoveRolledBack, incarnation=3)  # of the first, should it come
    assert story.phase is MovePhase.ROLLING_BACK
    assert story.hear("here", wire.MoveRolledBack, incarnation=4).copy == ("here", 4, 2)


@pytest.mark.parametrize("begun", [sent, filling])
def test_a_target_out_of_reach_is_fenced(begun: Any) -> None:
    story = begun().feed(NodeLeft("there")).after(19)
    assert story.instructions() == []
    story.after(1)
    assert ("here", "roll_back_move") in story.instructions()
    story.hear("here", wire.MoveRolledBack, incarnation=3)
    story.hear("there", wire.SessionFilled, incarnation=2)  # too late
    assert story.copy == ("here", 3, 2)
    story.told.clear()
    story.feed(NodeReturned("there", (held("filling", 2, "m"),)))
    assert story.instructions() == [("there", "abandon_arrival")]


def test_a_target_that_comes_back_in_time_goes_on() -> None:
    story = filling().feed(NodeLeft("there")).after(19)
    story.feed(NodeReturned("there", (held("filling", 2, "m"),))).after(19)
    assert (story.status, story.instructions()) == (SessionStatus.FILLING, [])
    story.feed(NodeReturned("there", (held("running", 2, "m"),)))
    assert story.instructions() == [("here", "commit_move")]


def test_a_thaw_that_is_told_while_the_target_is_called_back_counts() -> None:
    story = sent().hear("here", wire.MoveStumbled, side="source", resumed=False)
    story.hear("there", wire.SessionThawed, incarnation=2).hear("there", wire.ArrivalAbandoned)
    story.hear("here", wire.MoveRolledBack, incarnation=3)
    assert story.copy == ("here", 3, 2)


def test_a_target_that_comes_back_empty_handed() -> None:
    story = filling().feed(NodeLeft("there")).feed(NodeReturned("there", ()))
    assert story.instructions() == [("there", "abandon_arrival")]
    story.hear("there", wire.ArrivalAbandoned)
    assert story.instructions() == [("here", "roll_back_move")]


def test_a_fill_that_stands_still_is_rolled_back_but_progress_counts() -> None:
    story = filling().after(49).hear("there", wire.FillProgressed, done_bytes=1, total_bytes=9).after(49)
    assert story.phase is MovePhase.FILLING
    assert story.after(50).instructions() == [("there", "abandon_arrival")]


def test_the_source_leaves_while_filling_and_is_waited_for() -> None:
    story = filling().feed(NodeLeft("here")).after(10_000)
    assert (story.status, story.instructions()) == (SessionStatus.FILLING, [])
    story.hear("there", wire.SessionFilled, incarnation=2)
    assert (story.status, story.copy) == (SessionStatus.RUNNING, ("there", 2, 1))
    story.told.clear()
    story.feed(NodeReturned("here", (held("departed", 1, "m"),)))
    assert story.instructions() == [("here", "commit_move")]


def test_the_source_is_declared_dead_while_filling() -> None:
    story = filling().feed(NodeLeft("here")).feed(NodeDied("here"))
    assert story.status is SessionStatus.FILLING  # it may have every page, and say so in a moment
    story.after(20)
    assert (story.status, story.instructions()) == (SessionStatus.LOST, [("there", "abandon_arrival")])
    assert "here" in story.session.reason


def test_a_dead_source_that_comes_back_frozen_goes_on() -> None:
    story = filling().feed(NodeLeft("here")).feed(NodeDied("here")).after(20)
    story.told.clear()
    story.feed(NodeReturned("here", (held("departed", 1, "m"),))).hear("there", wire.ArrivalAbandoned)
    assert story.instructions() == [("there", "abandon_arrival"), ("here", "roll_back_move")]
    story.hear("here", wire.MoveRolledBack, incarnation=3)
    assert (story.status, story.copy) == (SessionStatus.RUNNING, ("here", 3, 2))


def test_the_source_dies_but_the_target_has_every_page() -> None:
    story = filling().hear("here", wire.SessionDied, incarnation=1)
    assert story.status is SessionStatus.FILLING
    story.hear("there", wire.SessionFilled, incarnation=2)
    assert (story.status, story.phase, story.instructions()) == (SessionStatus.RUNNING, MovePhase.DONE, [])


def test_the_source_dies_and_the_target_cannot_go_on() -> None:
    story = filling().hear("here", wire.SessionDied, incarnation=1)
    story.hear("there", wire.MoveStumbled, side="target", resumed=False)
    assert story.status is SessionStatus.LOST


def test_a_move_that_has_left_cannot_be_cancelled() -> None:
    with pytest.raises(Busy, match="left"):
        filling().feed(MoveCancelled("m"))
    story = departing().feed(MoveCancelled("m"))
    assert story.instructions() == [("there", "abandon_arrival")]


def test_a_commit_that_is_not_answered_does_not_hold_the_session_up() -> None:
    story = committing()
    story.told.clear()
    story.after(31)
    assert (story.phase, story.instructions()) == (MovePhase.DONE, [("here", "commit_move")])


def test_a_stop_while_filling_kills_both() -> None:
    story = filling().feed(StopWanted())
    assert {node: one.incarnation for node, one in story.told} == {"here": 1, "there": 2}
    story.hear("here", wire.SandboxStopped, incarnation=1)
    assert story.status is SessionStatus.STOPPING
    assert story.hear("there", wire.SandboxStopped, incarnation=2).status is SessionStatus.STOPPED


def test_old_news_never_kills_the_copy_in_charge() -> None:
    """It came by move m; a report of m that comes again must not be answered with abandon."""
    story = committing().hear("here", wire.MoveCommitted).feed(MoveWanted("m2", "here", "lazy"))
    story.told.clear()
    story.hear("there", wire.ArrivalPrepared).hear("there", wire.SessionThawed, incarnation=2)
    assert story.instructions() == []


# ── a controller that was away ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("begun", "here", "there", "told"),
    [
        (preparing, held("running", 1), None, [("there", "prepare_arrival")]),
        (departing, held("running", 1), held("arriving", 2, "m"), [("here", "depart")]),
        (departing, held("departing", 1, "m"), held("arriving", 2, "m"), []),
        (departing, held("departed", 1, "m"), held("filling", 2, "m"), []),
        (departing, held("departed", 1, "m"), held("running", 2, "m"), [("here", "commit_move")]),
        (sent, held("departed", 1, "m"), None, [("there", "abandon_arrival")]),
        (filling, held("departed", 1, "m"), held("filling", 2, "m"), []),
        (committing, held("departed", 1, "m"), held("running", 2), [("here", "commit_move")]),
    ],
)
def test_a_controller_restarts_in_the_middle(
    begun: Any, here: Held | None, there: Held | None, told: list[tuple[str, str]]
) -> None:
    story = begun()
    story.told.clear()
    story.now = 1000.0
    story.feed(ControllerStarted()).feed(Tick())
    story.feed(NodeReturned("here", (here,) if here else ())).feed(NodeReturned("there", (there,) if there else ()))
    assert story.instructions() == told


def test_a_controller_that_was_away_does_not_take_its_own_silence_for_an_answer() -> None:
    story = filling()
    story.now = 10_000.0
    story.feed(ControllerStarted()).feed(Tick())
    assert (story.status, story.instructions()) == (SessionStatus.FILLING, [])


def test_time_in_which_nobody_could_answer_makes_nobody_late() -> None:
    story = Story().feed(SessionWanted())
    story.feed(ClockJumped(7200)).after(7299)
    assert story.session.status is SessionStatus.STARTING
    story.after(2)
    assert story.session.status is SessionStatus.FAILED


def test_a_clock_that_jumps_is_nothing_to_who_waits_for_nothing() -> None:
    story = Story(status=SessionStatus.RUNNING)
    before = story.session
    story.feed(ClockJumped(-7200))
    assert (story.session, story.told) == (before, [])


def test_a_source_that_was_given_up_too_early_still_goes_on() -> None:
    story = departing().feed(NodeLeft("here")).feed(NodeDied("here"))
    story.feed(NodeReturned("here", (held("departing", 1, "m"),)))
    story.hear("there", wire.MoveStumbled, side="target", resumed=False).hear("there", wire.ArrivalAbandoned)
    assert (story.status, story.phase, story.copy) == (SessionStatus.MOVING, MovePhase.ROLLING_BACK, ("here", 3, 1))
