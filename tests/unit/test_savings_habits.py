"""Invented people do what the published figures say: a test for each figure that a trace can show."""

from __future__ import annotations

import io
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from sojourn.savings import Event, Habits, invent, write_trace
from sojourn.savings.habits import DAY, MONDAY

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "trace.csv"

HABITS = Habits()
TRACE = invent(HABITS, users=400, days=28, seed=7)
OF: dict[str, list[Event]] = {}
for one in TRACE:
    OF.setdefault(one.user, []).append(one)
CELLS = {
    user: [(begun.at, ended.at) for begun, ended in pairwise(events) if ended.kind == "idle"]
    for user, events in OF.items()
}
"""Beginnings and ends of each person's cells."""


def test_the_same_seed_gives_the_same_trace_and_another_another() -> None:
    assert invent(HABITS, 5, 7, seed=1) == invent(HABITS, 5, 7, seed=1)
    assert invent(HABITS, 5, 7, seed=1) != invent(HABITS, 5, 7, seed=2)


def test_more_people_leave_the_others_as_they_were() -> None:
    few, many = invent(HABITS, 3, 7, seed=1), invent(HABITS, 6, 7, seed=1)
    assert few == [event for event in many if event.user in {one.user for one in few}]


def test_events_are_in_order_and_in_turn() -> None:
    assert [event.at for event in TRACE] == sorted(event.at for event in TRACE)
    for events in OF.values():
        kinds = [event.kind for event in events]
        assert kinds == ["start", *["busy", "idle"] * (len(kinds) // 2)]


def test_days_with_work_are_as_many_as_datahub_saw_visits() -> None:
    days = sum(len({int((begin - MONDAY) // DAY) for begin, _ in found}) for found in CELLS.values())
    expected = HABITS.visits_per_day / (1 + HABITS.visits_per_day)  # the eager ones come twice on some days
    assert days / 400 / 28 == pytest.approx(expected, rel=0.1)


def test_weekends_are_quiet() -> None:
    seen = {(user, int((begin - MONDAY) // DAY)) for user, found in CELLS.items() for begin, _ in found}
    weekend = sum(day % 7 >= 5 for _, day in seen) / 2
    weekday = sum(day % 7 < 5 for _, day in seen) / 5
    assert weekend / weekday == pytest.approx(HABITS.weekend_share, rel=0.2)


def test_long_cells_last_as_notebookos_saw_them() -> None:
    lengths = [end - begin for found in CELLS.values() for begin, end in found]
    long = [length for length in lengths if length > 10]  # all but a few of those are of the long kind
    assert statistics.median(long) == pytest.approx(120, rel=0.1)
    assert statistics.quantiles(long, n=4)[2] == pytest.approx(300, rel=0.1)
    assert len(long) / len(lengths) == pytest.approx(HABITS.long_share, rel=0.1)


def test_memory_is_reached_in_the_first_visit_and_kept() -> None:
    for events in OF.values():
        held = [event.memory_bytes for event in events]
        assert held == sorted(held)
        assert held[0] == HABITS.empty_bytes


def test_the_example_is_what_its_seed_gives() -> None:
    text = io.StringIO()
    write_trace(invent(HABITS, users=6, days=5, seed=1), text)
    assert EXAMPLE.read_text() == text.getvalue()
