"""What the next cell is told."""

from __future__ import annotations

from sojourn.front.tidings import LeftBehind, rewound
from sojourn.model import LostName, MovePhase, MoveReport, MoveView

LEFT = MoveReport(left=("/raw (empty there)", "/data"))


def move(phase: MovePhase, identity: str = "m1", report: MoveReport = LEFT) -> MoveView:
    return MoveView(
        id=identity,
        session="s",
        source="here",
        target="there",
        strategy="lazy",
        phase=phase,
        report=report,
        started_at=1.0,
    )


def test_of_each_move_it_is_told_once_what_stayed_behind() -> None:
    left = LeftBehind()
    assert left.tell(None) == ""
    assert left.tell(move(MovePhase.DEPARTING)) == ""
    told = left.tell(move(MovePhase.FILLING))
    assert told.startswith("[this session is on there now, and left behind: /raw (empty there), /data.")
    assert left.tell(move(MovePhase.DONE)) == ""
    assert left.tell(move(MovePhase.DONE, "m2"))
    assert left.tell(move(MovePhase.DONE, "m3", MoveReport())) == ""


def test_names_that_stayed_behind_and_what_arrived_otherwise_are_told_in_a_line_each() -> None:
    left = LeftBehind()
    left.tell(None)
    lost = (
        LostName(name="gen", path="gen", why="a running generator, created in cell 7"),
        LostName(name="model", path="model.lock", why="a lock"),
    )
    report = MoveReport(lost=lost, notes=("breakpoints were dropped",))
    assert left.tell(move(MovePhase.FILLING, report=report)).splitlines() == [
        "Left behind on here: gen (a running generator, created in cell 7).",
        "Left behind on here: model (model.lock: a lock).",
        "Breakpoints were dropped.",
    ]
    assert left.tell(move(MovePhase.DONE, report=report)) == ""


def test_an_old_move_and_a_failed_one_are_no_news() -> None:
    left = LeftBehind()
    assert left.tell(move(MovePhase.DONE)) == "", "it was over before"
    assert left.tell(move(MovePhase.DONE)) == ""
    assert left.tell(move(MovePhase.FAILED, "m2")) == ""


def test_an_older_state_is_named_by_its_moment() -> None:
    assert "from an earlier state" in rewound(None, "")
    assert rewound(0.0, "Its node died.").endswith("Its node died.]\n")
