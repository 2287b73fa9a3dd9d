"""Stories of the switchboard's law: events in, instructions out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.directive import Directive
from sojourn.errors import DoesNotFit, Invalid, MoveFailed, WakeFailed
from sojourn.switchboard_law import (
    KINDS,
    Abort,
    AnswerEmpty,
    AnswersLost,
    CancelMove,
    CellBegan,
    ConfirmInterrupt,
    DebtsFound,
    Deliver,
    Discard,
    Event,
    Fail,
    Forward,
    GoneOn,
    InputCame,
    Instruction,
    InterruptCame,
    KernelHeard,
    Kind,
    Move,
    MoveEnded,
    PassInterrupt,
    PassShutdown,
    Probe,
    ProgramExited,
    Recall,
    ReplyCame,
    Request,
    RequestCame,
    SayYielded,
    SessionChanged,
    ShutdownCame,
    SwitchboardLaw,
    Tell,
    TimePassed,
    Wake,
    WakeEnded,
    YieldAsked,
)

ALICE, BOB = b"alice", b"bob"


class Story:
    """A law with a clock, and words short enough to read as a story."""

    def __init__(self) -> None:
        self.law = SwitchboardLaw()
        self.now = 100.0
        self.does(SessionChanged("here", moving=False, frozen=False))

    def does(self, event: Event) -> list[str]:
        return [_word(instruction) for instruction in self.law.handle(event, self.now)]

    def asks(self, name: str, place: str | None = None, **how: object) -> list[str]:
        returns = bool(how.pop("returns", False))
        who = how.pop("client", ALICE)
        subshell = how.pop("subshell", None)
        kind = how.pop("kind", Kind.EXECUTE)
        directive = Directive(place, returns) if place else None
        return self.does(RequestCame(Request(name, who, subshell, kind, directive=directive, **how)))  # type: ignore[arg-type]

    def replies(self, name: str, failed: bool = False) -> list[str]:
        return self.does(ReplyCame(name, failed, name))

    def freezes(self) -> list[str]:
        return self.does(SessionChanged("here", moving=True, frozen=True))

    def sleeps(self) -> list[str]:
        return self.does(SessionChanged("here", moving=False, frozen=False, asleep=True))

    def wakes(self, node: str = "here", rewound: str = "") -> list[str]:
        return self.does(SessionChanged(node, moving=False, frozen=False, rewound=rewound))

    def waits(self, seconds: float) -> list[str]:
        self.now += seconds
        return self.does(TimePassed())


def _word(instruction: Instruction) -> str:
    match instruction:
        case Forward(request):
            return f"forward {request.id}"
        case Deliver(message):
            return f"deliver {message}"
        case Abort(request):
            return f"abort {request.id}"
        case Fail(request, name):
            return f"fail {request.id}: {name}"
        case AnswerEmpty(request):
            return f"empty {request.id}"
        case Recall(request):
            return f"recall {request.id}"
        case Wake(place):
            return f"wake {place}" if place else "wake"
        case PassShutdown():
            return "shut down"
        case Discard():
            return "discard"
        case Tell(request):
            return f"tell {request.id}"
        case Move(place):
            return f"move {place}"
        case CancelMove():
            return "cancel move"
        case PassInterrupt():
            return "interrupt"
        case ConfirmInterrupt():
            return "interrupt done"
        case Probe():
            return "probe"
        case SayYielded():
            return "yielded"


@pytest.fixture
def story() -> Story:
    return Story()


# ── a cell that needs another place ──


def test_what_needs_no_other_place_passes(story: Story) -> None:
    assert story.asks("1") == ["forward 1"]
    assert story.asks("2") == ["forward 2"]
    assert story.replies("1") == ["deliver 1"]


def test_a_cell_waits_for_earlier_ones_then_for_the_move(story: Story) -> None:
    story.asks("1")
    story.asks("2", client=BOB)
    assert story.asks("3", "there") == []
    assert story.replies("1") == ["deliver 1"]
    assert story.replies("2") == ["deliver 2", "move there"]
    assert story.does(MoveEnded(moved=True)) == ["forward 3"]


def test_a_cell_does_not_wait_for_what_came_after_it(story: Story) -> None:
    story.asks("1")
    assert story.asks("2", "there") == []
    assert story.asks("3", client=BOB) == ["forward 3"]
    assert story.replies("1") == ["deliver 1", "move there"]


def test_what_the_same_client_sends_queues_behind_it_in_order(story: Story) -> None:
    assert story.asks("1", "there") == ["move there"]
    assert story.asks("2") == []
    assert story.asks("info", kind=Kind.FACT) == []
    assert story.asks("comm", kind=Kind.ACT) == []
    assert story.does(MoveEnded(moved=True)) == ["forward 1", "forward 2", "forward info", "forward comm"]


def test_other_subshells_and_clients_do_not_queue(story: Story) -> None:
    story.asks("1", "there")
    assert story.asks("2", subshell="s") == ["forward 2"]
    assert story.asks("3", client=BOB) == ["forward 3"]


def test_run_all_over_there_and_here(story: Story) -> None:
    story.asks("1")
    story.asks("2", "there")
    story.asks("3")
    story.asks("4", "here")
    assert story.replies("1") == ["deliver 1", "move there"]
    assert story.does(MoveEnded(moved=True)) == ["forward 2", "forward 3"]
    assert story.replies("2") == ["deliver 2"]
    assert story.replies("3") == ["deliver 3", "move here"]
    assert story.does(MoveEnded(moved=True)) == ["forward 4"]


def test_two_clients_move_it_one_after_the_other(story: Story) -> None:
    assert story.asks("1", "there") == ["move there"]
    assert story.asks("2", "here", client=BOB) == []
    assert story.does(MoveEnded(moved=True)) == ["forward 1"]
    assert story.replies("1") == ["deliver 1", "move here"]
    assert story.does(MoveEnded(moved=True)) == ["forward 2"]


def test_a_failed_move_is_the_cells_error(story: Story) -> None:
    story.asks("1", "there")
    story.asks("2")
    error = MoveFailed("no room", "choose another")
    (failed, aborted) = story.law.handle(MoveEnded(moved=False, error=error), story.now)
    assert isinstance(failed, Fail)
    assert (failed.name, failed.message) == ("MoveFailed", "no room")
    assert failed.hint == "choose another The cell did not run."
    assert _word(aborted) == "abort 2"
    assert story.asks("3") == ["forward 3"]


def test_a_directive_that_means_nothing_fails_when_its_turn_comes(story: Story) -> None:
    story.asks("1")
    assert story.asks("2", fault=Invalid("what?")) == []
    assert story.asks("3") == []
    assert story.replies("1") == ["deliver 1", "fail 2: Invalid", "abort 3"]


# ── there and back ──


def test_a_cell_that_returns_holds_its_lane_until_it_is_back(story: Story) -> None:
    story.asks("1", "there", returns=True)
    story.asks("2")
    assert story.does(MoveEnded(moved=True)) == ["forward 1"]
    assert story.asks("3") == []
    assert story.asks("4", client=BOB) == ["forward 4"]
    assert story.replies("1") == ["deliver 1", "move here"]
    assert story.does(MoveEnded(moved=True)) == ["forward 2", "forward 3"]


def test_a_cell_that_is_there_already_has_nowhere_to_return_to(story: Story) -> None:
    story.asks("1", "here", returns=True)
    assert story.does(MoveEnded(moved=False)) == ["forward 1"]
    assert story.replies("1") == ["deliver 1"]


def test_it_returns_after_an_error_too_and_says_when_it_cannot(story: Story) -> None:
    story.asks("1", "there", returns=True)
    story.does(MoveEnded(moved=True))
    assert story.replies("1", failed=True) == ["deliver 1", "move here"]
    assert story.does(MoveEnded(moved=False, error=MoveFailed("no room"))) == ["tell 1"]
    assert story.asks("2") == ["forward 2"]


# ── errors ──


def test_an_error_aborts_what_is_held_and_came_later(story: Story) -> None:
    story.asks("1")
    story.asks("2", "there")
    story.asks("3")
    story.asks("comm", kind=Kind.ACT)
    story.asks("4", "there", client=BOB)
    assert story.replies("1", failed=True) == ["deliver 1", "abort 2", "abort 3", "abort 4", "forward comm"]


def test_an_error_spares_other_subshells_and_what_came_before(story: Story) -> None:
    story.asks("1")
    story.asks("2", "there")
    story.asks("3", "there", client=BOB, subshell="s")
    story.asks("4", client=BOB)
    assert story.replies("4", failed=True) == ["deliver 4"]
    assert story.replies("1", failed=True) == ["deliver 1", "abort 2", "move there"]


@pytest.mark.parametrize("how", [{"silent": True}, {"stops_on_error": False}])
def test_some_errors_abort_nothing(story: Story, how: dict[str, bool]) -> None:
    story.asks("1", **how)
    story.asks("2", "there")
    assert story.replies("1", failed=True) == ["deliver 1", "move there"]


# ── interrupt, restart, death ──


def test_an_interrupt_with_nothing_held_goes_to_the_kernel(story: Story) -> None:
    assert story.does(InterruptCame()) == ["interrupt"]
    story.asks("1")
    assert story.does(InterruptCame()) == ["interrupt"]


def test_an_interrupt_cancels_held_cells_and_their_move(story: Story) -> None:
    story.asks("1", "there")
    story.asks("2")
    assert story.does(InterruptCame()) == ["cancel move", "fail 1: KeyboardInterrupt", "abort 2", "interrupt done"]
    assert story.asks("3") == ["forward 3"]
    assert story.does(MoveEnded(moved=False, error=MoveFailed("cancelled"))) == []


def test_an_interrupt_while_an_earlier_cell_runs_reaches_that_too(story: Story) -> None:
    story.asks("1")
    story.asks("2", "there")
    assert story.does(InterruptCame()) == ["abort 2", "interrupt"]


def test_a_new_move_waits_until_a_cancelled_one_has_ended(story: Story) -> None:
    story.asks("1", "there")
    story.does(InterruptCame())
    assert story.asks("2", "elsewhere") == []
    assert story.does(MoveEnded(moved=True)) == ["move elsewhere"]


def test_a_shutdown_clears_the_hold(story: Story) -> None:
    story.asks("1", "there")
    story.asks("2")
    story.asks("info", kind=Kind.FACT)
    assert story.does(ShutdownCame()) == ["cancel move", "abort 1", "abort 2", "forward info"]


def test_a_kernel_that_died_owes_no_answers(story: Story) -> None:
    story.asks("1")
    story.asks("2", "there", returns=True)
    assert story.does(ProgramExited()) == ["abort 2"]
    assert story.asks("3", "there") == ["move there"]


# ── while it moves ──


def test_a_question_waits_a_second_then_gets_an_empty_answer(story: Story) -> None:
    story.freezes()
    assert story.asks("q", kind=Kind.QUESTION) == ["forward q"]
    assert story.law.next_deadline() == story.now + 1
    assert story.waits(0.5) == []
    assert story.waits(0.5) == ["empty q"]
    assert story.law.next_deadline() is None
    assert story.replies("q") == []
    assert story.replies("q") == ["deliver q"], "the next one with that name is another matter"


def test_the_second_counts_from_when_the_move_began(story: Story) -> None:
    story.asks("q", kind=Kind.QUESTION)
    story.now += 10
    story.freezes()
    assert story.law.next_deadline() == story.now + 1
    assert story.waits(0.5) == []
    assert story.waits(0.5) == ["empty q"]


def test_without_a_move_a_question_waits_as_long_as_it_takes(story: Story) -> None:
    story.asks("q", kind=Kind.QUESTION)
    assert story.law.next_deadline() is None
    assert story.waits(60) == []


def test_a_question_behind_a_held_cell_is_answered_too(story: Story) -> None:
    story.asks("1", "there")
    story.asks("q", kind=Kind.QUESTION)
    story.asks("2")
    assert story.waits(1) == ["empty q"]
    assert story.does(MoveEnded(moved=True)) == ["forward 1", "forward 2"]


def test_a_silent_execute_is_held_while_frozen_and_order_is_kept(story: Story) -> None:
    story.freezes()
    assert story.asks("s", silent=True) == []
    assert story.asks("1") == []
    assert story.does(SessionChanged("there", moving=False, frozen=False)) == ["forward s", "forward 1"]


def test_a_silent_execute_gives_up_after_a_second(story: Story) -> None:
    story.freezes()
    story.asks("s", silent=True)
    story.asks("1")
    assert story.waits(1) == ["abort s", "forward 1"]


def test_executes_flow_into_the_tunnel_of_a_frozen_kernel(story: Story) -> None:
    story.freezes()
    assert story.asks("1") == ["forward 1"]


def test_a_reset_answers_all_that_was_pending_once(story: Story) -> None:
    story.asks("1")
    story.asks("q", kind=Kind.QUESTION)
    story.asks("info", kind=Kind.FACT)
    assert story.does(AnswersLost(MoveFailed("rolled back"))) == [
        "fail 1: MoveFailed",
        "empty q",
        "forward info",
    ]
    assert story.replies("1") == []
    assert story.asks("2") == ["forward 2"]


def test_a_reset_aborts_what_was_held_behind(story: Story) -> None:
    story.asks("1")
    story.asks("2", "there")
    assert story.does(AnswersLost(MoveFailed("rolled back"))) == ["fail 1: MoveFailed", "abort 2"]


def test_what_a_dead_front_owed_is_answered_by_the_kernel_or_by_us(story: Story) -> None:
    debts = tuple(Request(name, ALICE, None, Kind.EXECUTE) for name in ("1", "2"))
    story.does(DebtsFound(debts))
    assert story.asks("3", "there") == []
    assert story.replies("2") == ["deliver 2"]
    assert story.does(AnswersLost(MoveFailed("lost"), debts)) == ["fail 1: MoveFailed", "abort 3"]


def test_the_running_cell_is_known(story: Story) -> None:
    assert story.law.current is None
    story.asks("info", kind=Kind.FACT)
    story.asks("1")
    story.asks("2")
    assert story.law.current is not None
    assert story.law.current.id == "1"


# ── while it sleeps ──

ASLEEP = {
    Kind.EXECUTE: ["wake"],
    Kind.ACT: ["wake"],
    Kind.FACT: ["recall it"],
    Kind.QUESTION: ["empty it"],
    Kind.FORMALITY: [],
}


@pytest.mark.parametrize("kind", Kind)
def test_what_each_kind_does_to_a_sleeping_session(story: Story, kind: Kind) -> None:
    story.sleeps()
    assert story.asks("it", kind=kind) == ASLEEP[kind]
    woken = story.wakes()
    assert woken == ([] if kind in (Kind.FACT, Kind.QUESTION) else ["forward it"])


def test_the_page_says_of_every_message_what_becomes_of_it() -> None:
    page = Path(__file__).parents[2] / "docs" / "sleep.md"
    said: dict[str, Kind] = {}
    kind = ""
    for row in (line.split("|") for line in page.read_text().splitlines() if line.startswith("| ")):
        kind = row[1].strip() or kind
        if kind.upper() in Kind.__members__:
            said |= {name: Kind[kind.upper()] for name in re.findall(r"`([^`]+)`", row[2])}
    assert {name: said.get(name) for name in KINDS} == KINDS
    assert set(KINDS.values()) == set(Kind)


def test_a_cell_wakes_it_once_and_order_is_kept(story: Story) -> None:
    story.sleeps()
    assert story.asks("formality", kind=Kind.FORMALITY) == []
    assert story.asks("1") == ["wake"]
    assert story.asks("2", client=BOB) == []
    assert story.asks("3") == []
    assert story.asks("info", kind=Kind.FACT) == ["recall info"]
    assert story.sleeps() == [], "it says that it wakes"
    assert story.does(WakeEnded()) == []
    assert story.wakes() == ["forward formality", "forward 1", "forward 3", "forward 2"]
    assert story.replies("1") == ["deliver 1"]


def test_a_silent_execute_wakes_nobody(story: Story) -> None:
    story.sleeps()
    assert story.asks("s", silent=True) == ["abort s"]
    assert story.law.next_deadline() is None


def test_during_a_wake_questions_wait_as_during_a_move(story: Story) -> None:
    story.sleeps()
    story.asks("1")
    assert story.asks("q", kind=Kind.QUESTION) == []
    assert story.asks("s", silent=True) == []
    assert story.asks("r", kind=Kind.QUESTION, client=BOB) == []
    assert story.waits(1) == ["empty q", "abort s", "empty r"]
    assert story.wakes() == ["forward 1"]


def test_what_the_kernel_was_asked_before_it_slept_is_answered_after_a_second(story: Story) -> None:
    story.asks("q", kind=Kind.QUESTION)
    story.asks("info", kind=Kind.FACT)
    story.sleeps()
    assert story.waits(1) == ["empty q", "recall info"]
    story.wakes()
    assert story.replies("q") == []
    assert story.replies("info") == []


def test_a_cell_that_crossed_the_freeze_wakes_it(story: Story) -> None:
    story.asks("1")
    assert story.sleeps() == ["wake"]
    assert story.does(WakeEnded(WakeFailed("damaged"))) == ["tell 1"]
    assert story.sleeps() == [], "it is not tried for ever"
    assert story.asks("2", client=BOB) == ["wake"]


def test_a_cell_that_was_frozen_in_its_middle_sleeps_on(story: Story) -> None:
    story.asks("1")
    story.asks("2")
    story.does(CellBegan("1"))
    assert story.sleeps() == []
    assert story.asks("3") == ["wake"]
    assert story.wakes() == ["forward 3"]


def test_an_answer_to_its_question_wakes_it(story: Story) -> None:
    story.asks("1")
    story.does(CellBegan("1"))
    story.sleeps()
    assert story.does(InputCame()) == ["wake"]
    assert story.does(InputCame()) == []
    assert story.does(WakeEnded(WakeFailed("no"))) == ["tell 1"]
    story.wakes()
    assert story.does(InputCame()) == []


def test_a_wake_that_fails_is_told_once_and_it_can_be_tried_again(story: Story) -> None:
    story.sleeps()
    story.asks("1")
    story.asks("2")
    story.asks("3", client=BOB, subshell="s")
    story.asks("comm", kind=Kind.ACT)
    (failed, *rest) = story.law.handle(WakeEnded(WakeFailed("damaged", "restore")), story.now)
    assert isinstance(failed, Fail)
    assert (failed.name, failed.message, failed.hint) == ("WakeFailed", "damaged", "restore The cell did not run.")
    assert [_word(each) for each in rest] == ["abort 2", "fail 3: WakeFailed", "fail comm: WakeFailed"]
    assert story.asks("4") == ["wake"]
    assert story.wakes() == ["forward 4"]


def test_it_wakes_at_the_place_of_the_cell_that_wakes_it(story: Story) -> None:
    story.sleeps()
    assert story.asks("1", "there") == ["wake there"]
    assert story.wakes("there") == ["move there"], "which is done at once"
    assert story.does(MoveEnded(moved=False)) == ["forward 1"]


def test_a_cell_that_returns_wakes_it_at_home(story: Story) -> None:
    story.sleeps()
    assert story.asks("1", "there", returns=True) == ["wake"]
    assert story.wakes() == ["move there"]
    story.does(MoveEnded(moved=True))
    assert story.replies("1") == ["deliver 1", "move here"]


def test_a_place_where_it_cannot_wake_is_the_error_of_that_cell_alone(story: Story) -> None:
    story.sleeps()
    story.asks("1", "there")
    story.asks("2", client=BOB, subshell="s")
    assert story.does(WakeEnded(DoesNotFit("no room"))) == ["fail 1: DoesNotFit", "wake"]
    assert story.wakes() == ["forward 2"]


def test_an_interrupt_wakes_nobody(story: Story) -> None:
    story.sleeps()
    assert story.does(InterruptCame("m")) == ["interrupt done"]
    story.asks("1")
    story.asks("2")
    assert story.does(InterruptCame("m")) == ["fail 1: KeyboardInterrupt", "abort 2", "interrupt done"]
    assert story.wakes() == []


def test_a_frozen_cell_is_interrupted_when_it_wakes_and_once(story: Story) -> None:
    story.asks("1")
    story.does(CellBegan("1"))
    story.sleeps()
    assert story.does(InterruptCame("m")) == ["interrupt", "interrupt done"]
    assert story.does(InterruptCame("m")) == ["interrupt done"]


def test_a_shutdown_discards_it(story: Story) -> None:
    story.sleeps()
    story.asks("1")
    story.asks("comm", kind=Kind.ACT)
    assert story.does(ShutdownCame("m")) == ["abort 1", "discard"]
    story.wakes()
    assert story.does(ShutdownCame("m")) == ["shut down"]


def test_an_older_state_is_told_of_in_the_next_cell(story: Story) -> None:
    story.asks("lost")
    story.does(CellBegan("lost"))
    story.sleeps()
    assert story.asks("1") == ["wake"]
    assert story.does(AnswersLost(MoveFailed("rewound"))) == ["fail lost: MoveFailed"]
    assert story.wakes(rewound="from noon") == ["tell 1", "forward 1"]
    assert story.asks("2") == ["forward 2"]


def test_it_falls_asleep_while_a_cell_is_about_to_move_it(story: Story) -> None:
    story.asks("1", "there")
    assert story.sleeps() == ["wake there"]
    assert story.does(MoveEnded(moved=False, error=MoveFailed("it sleeps"))) == []
    assert story.wakes("there") == ["move there"]


# ── clients yield, and another kernel comes ──


def test_clients_yield_once_the_kernel_owes_nothing_and_is_heard(story: Story) -> None:
    story.asks("1")
    assert story.does(YieldAsked()) == ["probe"]
    assert story.asks("2", client=BOB) == []
    assert story.asks("comm", kind=Kind.ACT) == []
    assert story.does(KernelHeard()) == [], "a cell still runs"
    assert story.replies("1") == ["deliver 1", "yielded"]
    assert story.does(YieldAsked()) == ["yielded"], "said again to who asks again"
    assert story.asks("3") == []
    assert story.does(AnswersLost(MoveFailed("reset"))) == [], "nobody is there yet"
    assert story.does(GoneOn()) == ["forward 2", "forward comm", "forward 3"]
    assert story.asks("4") == ["forward 4"]


def test_a_kernel_that_goes_on_gets_what_was_held(story: Story) -> None:
    story.does(YieldAsked())
    story.asks("1")
    assert story.does(GoneOn()) == ["forward 1"]
    assert story.does(KernelHeard()) == [], "of a yield that is over"


def test_who_waits_while_clients_yield_is_as_patient_as_in_any_move(story: Story) -> None:
    story.asks("before", kind=Kind.FACT)
    story.does(YieldAsked())
    story.asks("question", kind=Kind.QUESTION)
    story.asks("fact", kind=Kind.FACT, channel="control")
    story.asks("silent", silent=True)
    story.asks("cell")
    assert story.waits(0.5) == []
    assert story.waits(0.6) == ["recall before", "empty question", "recall fact", "abort silent"]
    assert story.does(KernelHeard()) == ["yielded"]
    assert story.does(GoneOn()) == ["forward cell"]


def test_the_cell_whose_move_it_is_waits_for_the_next_kernel(story: Story) -> None:
    assert story.asks("1", "there", returns=True) == ["move there"]
    story.does(YieldAsked())
    assert story.does(KernelHeard()) == ["yielded"]
    assert story.does(MoveEnded(moved=True)) == []
    assert story.does(AnswersLost(MoveFailed("reset"))) == []
    assert story.does(GoneOn()) == ["forward 1"]
    assert story.replies("1") == ["deliver 1", "move here"]


def test_a_cell_that_was_at_its_place_when_another_move_began_asks_again(story: Story) -> None:
    assert story.asks("1", "there") == ["move there"]
    story.does(YieldAsked())
    assert story.does(MoveEnded(moved=False)) == []
    assert story.does(GoneOn()) == ["move there"]


def test_no_cell_sets_out_while_clients_yield(story: Story) -> None:
    story.does(YieldAsked())
    assert story.asks("1", "there") == []
    assert story.does(KernelHeard()) == ["yielded"]
    assert story.does(GoneOn()) == ["move there"]


def test_an_interrupt_takes_back_what_is_held_and_the_move_that_is_for_it(story: Story) -> None:
    story.asks("1", "there")
    story.does(YieldAsked())
    story.asks("2")
    held = ["cancel move", "fail 1: KeyboardInterrupt", "abort 2", "interrupt done"]
    assert story.does(InterruptCame("m")) == held
    story.does(KernelHeard())
    assert story.does(InterruptCame("m")) == ["interrupt", "interrupt done"], "who packs the namespace hears it"


def test_what_was_lost_with_the_kernel_is_told_and_facts_are_asked_again_of_the_next(story: Story) -> None:
    story.asks("cell")
    story.asks("fact", kind=Kind.FACT)
    story.does(YieldAsked())
    story.asks("later", kind=Kind.ACT)
    assert story.does(AnswersLost(MoveFailed("reset"))) == ["fail cell: MoveFailed"]
    assert story.does(YieldAsked()) == ["probe"], "the next kernel may have to be left as well"
    assert story.does(GoneOn()) == ["forward fact", "forward later"]


def test_a_session_that_falls_asleep_yields_to_nobody(story: Story) -> None:
    story.does(YieldAsked())
    assert story.asks("1") == []
    assert story.sleeps() == ["wake"]
    assert story.wakes() == ["forward 1"]


def test_a_program_that_has_ended_owes_nothing(story: Story) -> None:
    story.asks("1")
    story.does(YieldAsked())
    story.asks("2")
    assert story.does(ProgramExited()) == ["abort 2", "yielded"]


# ── whatever happens ──

_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from([ALICE, BOB]),
            st.sampled_from([None, "s"]),
            st.sampled_from(list(Kind)),
            st.sampled_from([None, "there", "back"]),
            st.booleans(),
        ),
        st.tuples(
            st.sampled_from(["reply", "error", "arrive", "stay", "interrupt", "freeze", "thaw", "reset", "wait"])
        ),
        st.tuples(st.sampled_from(["sleep", "wake", "refuse", "wait"])),
        st.tuples(st.sampled_from(["yield", "heard", "go on", "swap", "reply"])),
    ),
    max_size=40,
)


@given(_steps)
def test_every_request_is_answered_once_and_lanes_keep_their_order(steps: list[tuple[object, ...]]) -> None:
    world = World()
    for step in steps:
        world.take(*step)
    world.settle()
    assert world.owed == set()


ANSWERED = (Kind.EXECUTE, Kind.QUESTION, Kind.FACT)


class World:
    """A kernel and a front that play along with whatever the law says."""

    def __init__(self) -> None:
        self.law = SwitchboardLaw()
        self.now = 0.0
        self.asked = 0
        self.owed: set[str] = set()
        self.queue: list[str] = []
        self.moves = 0
        self.wakes = 0
        self.asleep = False
        self.resetting = False
        self.yielding = self.yielded = self.probed = False
        self.forwarded: dict[object, list[int]] = {}
        self.handle(SessionChanged("here", False, False))

    def handle(self, event: Event) -> None:
        for instruction in self.law.handle(event, self.now):
            self.obey(instruction)

    def obey(self, instruction: Instruction) -> None:
        match instruction:
            case Forward(request):
                assert not self.asleep, "a sleeping kernel was asked"
                assert not self.yielding, "a kernel was asked that clients have yielded"
                order = self.forwarded.setdefault((request.client, request.subshell), [])
                assert not order or order[-1] < int(request.id) or self.resetting, "a lane was overtaken"
                order.append(int(request.id))
                if request.kind in ANSWERED:
                    self.queue.append(request.id)
            case Deliver(message):
                self.answer(message)
            case Abort(request) | Fail(request) | AnswerEmpty(request) | Recall(request):
                if request.kind in ANSWERED:
                    self.answer(request.id)
            case Move():
                self.moves += 1
                assert self.moves == 1, "two moves at once"
            case Wake():
                self.wakes += 1
                assert self.wakes == 1, "two wakes at once"
                assert self.asleep
            case Probe():
                self.probed = True
            case SayYielded():
                assert not self.owed & set(self.queue), "the kernel owes an answer"
                self.yielded = True

    def answer(self, name: str) -> None:
        assert name in self.owed, "answered twice"
        self.owed.remove(name)

    def take(self, what: object, *how: object) -> None:
        match what:
            case "ask":
                self.ask(*how)  # type: ignore[arg-type]
            case "reply" | "error" if self.queue and not self.asleep:
                name = self.queue.pop(0)
                self.handle(ReplyCame(name, what == "error", name))
            case "arrive" | "stay" if self.moves:
                self.moves = 0
                self.handle(MoveEnded(what == "arrive", None if what == "arrive" else MoveFailed("no")))
            case "interrupt":
                self.handle(InterruptCame())
            case "freeze" | "thaw" if not self.asleep:
                self.handle(SessionChanged("here", what == "freeze", what == "freeze"))
            case "sleep" | "wake":
                self.asleep = what == "sleep"
                self.yielding = self.yielding and not self.asleep
                self.handle(SessionChanged("here", False, False, self.asleep))
                if self.wakes and not self.asleep:
                    self.end_wake(None)
            case "refuse" if self.wakes:
                self.end_wake(WakeFailed("no"))
            case "reset":
                self.queue, self.resetting = [name for name in self.queue if name not in self.owed], True
                self.handle(AnswersLost(MoveFailed("rolled back")))
                self.resetting = self.yielded = self.probed = False
                if self.yielding:
                    self.forwarded.clear()  # what is asked again comes to a kernel that was asked nothing
            case "yield" if not self.asleep:
                self.yielding = True
                self.handle(YieldAsked())
            case "heard" if self.probed:
                self.probed = False
                self.handle(KernelHeard())
            case "go on" if self.yielding:
                self.go_on()
            case "swap" if self.yielding and self.yielded:
                before = set(self.owed)
                self.handle(AnswersLost(MoveFailed("another kernel")))
                assert self.owed == before, "nobody who had yielded was owed anything"
                self.queue.clear()
                self.go_on()
            case "wait":
                self.now += 0.6
                self.handle(TimePassed())

    def go_on(self) -> None:
        self.yielding = self.yielded = self.probed = False
        self.handle(GoneOn())

    def end_wake(self, error: WakeFailed | None) -> None:
        self.wakes = 0
        self.handle(WakeEnded(error))

    def ask(self, client: bytes, subshell: str | None, kind: Kind, place: str | None, flag: bool) -> None:
        self.asked += 1
        name = str(self.asked)
        if kind in ANSWERED:
            self.owed.add(name)
        executes = kind is Kind.EXECUTE
        silent = executes and place is None and flag
        directive = Directive(place, flag) if place and executes else None
        self.handle(RequestCame(Request(name, client, subshell, kind, silent=silent, directive=directive)))

    def settle(self) -> None:
        self.take("wake")
        self.take("thaw")
        self.take("go on")
        for _ in range(3 * self.asked + 3):
            self.take("arrive")
            self.take("reply")
