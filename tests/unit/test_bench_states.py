"""The notebook states, the portraits by which their values are compared, the verdicts, and the page made of them."""

from __future__ import annotations

import ast
import collections
import functools
import io
import itertools
import json
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from bench.states.notebooks import STATES, THEMES
from bench.states.page import mark, page
from bench.states.races import Time
from bench.states.rows import joined, remember, remembered
from bench.states.stage import Found
from bench.states.state import State, names_in
from bench.states.survey import Row, summary
from bench.states.verdicts import Outcome, Verdict, differences, false_alarms, judge
from sojourn.compare.inside.portraits import portrait
from sojourn.compare.inside.ways import Loss

every_state = pytest.mark.parametrize("state", STATES.values(), ids=list(STATES))


def bound(state: State) -> set[str]:
    """The names that the cells bind, in whatever scope."""
    trees = [ast.parse(TransformerManager().transform_cell(source)) for source in state.sources]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    return names | {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


def test_there_are_many_states_and_each_has_a_name_of_its_own() -> None:
    assert len(STATES) >= 60
    assert len(STATES) == sum(len(states) for states in THEMES.values())


@every_state
def test_the_cells_of_a_state_compile(state: State) -> None:
    assert state.sources
    for source in state.sources:
        compile(TransformerManager().transform_cell(source), state.name, "exec")


@every_state
def test_what_is_not_examined_is_a_name_of_the_state_and_says_why(state: State) -> None:
    assert set(state.unexamined) <= bound(state)
    assert all(state.unexamined.values())


@every_state
def test_probes_are_expressions_and_a_state_without_any_leaves_no_name_out(state: State) -> None:
    assert all(names_in(probe) is not None for probe in state.expressions)
    assert not any(probe.isidentifier() for probe in state.expressions)  # names are examined anyway, and first
    assert len(set(state.expressions)) == len(state.expressions)
    assert state.expressions or not state.unexamined


class Plain:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class Slotted:
    __slots__ = ("a",)


def slotted(a: int) -> Slotted:
    made = Slotted()
    made.a = a
    return made


def ring(length: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(length - 1):
        made = [made]
    made.append(made)
    return made


def numbers_from(first: int) -> Any:
    yield from range(first, first + 3)


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: 0.1 + 0.2, lambda: 0.3),
        (lambda: float("nan"), lambda: 0.0),
        (lambda: True, lambda: 1),
        (lambda: 2**70, lambda: 2**70 + 1),
        (lambda: "x" * 500, lambda: "x" * 499 + "y"),
        (lambda: "half \udc80", lambda: "half \udc81"),
        (lambda: (1, 2), lambda: [1, 2]),
        (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
        (lambda: {"a", "b", "c"}, lambda: {"a", "b", "d"}),
        (lambda: collections.deque([1], maxlen=3), lambda: collections.deque([1], maxlen=4)),
        (lambda: [[1]] * 2, lambda: [[1], [1]]),
        (lambda: ring(1), lambda: ring(2)),
        (lambda: Plain(a=1), lambda: Plain(a=2)),
        (lambda: slotted(1), lambda: slotted(2)),
        (lambda: ValueError("a"), lambda: ValueError("b")),
        (lambda: numbers_from(1), lambda: numbers_from(2)),
        (lambda: itertools.count(3), lambda: itertools.count(4)),
        (lambda: io.StringIO("text"), lambda: io.StringIO("other")),
        (threading.Lock, lambda: locked()),
        (lambda: functools.partial(pow, 2), lambda: functools.partial(pow, 3)),
        (lambda: np.arange(4.0), lambda: np.arange(4)),
        (lambda: np.eye(3), lambda: np.asfortranarray(np.eye(3))),
        (lambda: np.array([0.0]), lambda: np.array([-0.0])),
        (lambda: np.array([None, {"a": 1}]), lambda: np.array([None, {"a": 2}])),
        (lambda: np.random.default_rng(1), lambda: np.random.default_rng(2)),
        (lambda: pd.DataFrame({"a": [1, 2]}), lambda: pd.DataFrame({"a": [1, 3]})),
        (lambda: pd.DataFrame({"a": [1, 2]}), lambda: pd.DataFrame({"b": [1, 2]})),
        (lambda: pd.DataFrame({"a": [1]}, index=["x"]), lambda: pd.DataFrame({"a": [1]}, index=["y"])),
        (lambda: pd.Series([1, None]), lambda: pd.Series([1, None], dtype="Int64")),
        (lambda: pd.Categorical(["a"], ["a", "b"]), lambda: pd.Categorical(["a"], ["a", "c"])),
        (lambda: pd.Series(["a"], dtype="category"), lambda: pd.Series(["a"], dtype=object)),
    ],
)
def test_equal_values_have_equal_portraits_and_others_have_others(
    make: Callable[[], object], other: Callable[[], object]
) -> None:
    drawn = portrait(make())
    json.dumps(drawn, ensure_ascii=False).encode()
    assert json.loads(json.dumps(drawn)) == json.loads(json.dumps(portrait(make())))
    assert drawn != portrait(other())


def locked() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


def test_portraits_show_figures_by_their_pixels() -> None:
    from matplotlib.figure import Figure

    def draw(height: int) -> Figure:
        figure = Figure()
        figure.add_subplot().plot([0, height])
        return figure

    assert portrait(draw(1)) == portrait(draw(1))
    assert portrait(draw(1)) != portrait(draw(2))


def test_a_portrait_sees_through_a_weak_reference() -> None:
    one, like, unlike = Plain(a=1), Plain(a=1), Plain(a=2)
    assert portrait(weakref.ref(one)) == portrait(weakref.ref(like)) != portrait(weakref.ref(unlike))


def test_a_loss_speaks_for_the_probes_that_mention_its_name() -> None:
    before = {"conn.port": 1, "config['db']": 2, "rate": 3, "total()": 4}
    after = {"conn.port": ["raised", "NameError: conn"], "config['db']": None, "rate": 3, "total()": 5}
    verdicts = judge(before, after, [Loss("conn", "a socket"), Loss('config["db"].conn', "a socket")])
    assert verdicts == {
        "conn.port": Verdict.TOLD,
        "config['db']": Verdict.TOLD,
        "rate": Verdict.IDENTICAL,
        "total()": Verdict.CHANGED,
    }


def test_what_shows_nothing_any_more_without_a_word_is_silent() -> None:
    assert judge({"x": 1}, {"x": ["raised", "NameError: x"]}, []) == {"x": Verdict.SILENT}
    assert judge({"x": 1}, {}, []) == {"x": Verdict.SILENT}


def test_an_error_that_was_there_before_is_identical() -> None:
    raised = ["raised", "ValueError: no"]
    assert judge({"x()": raised}, {"x()": raised}, []) == {"x()": Verdict.IDENTICAL}
    assert judge({"x()": raised}, {"x()": 3}, []) == {"x()": Verdict.CHANGED}


def test_differences_show_before_and_after() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == {"b": "2 → 3"}


def test_a_name_told_as_lost_that_is_all_there_is_a_false_alarm() -> None:
    verdicts = {"a": Verdict.IDENTICAL, "b": Verdict.TOLD, "b + 1": Verdict.IDENTICAL}
    assert false_alarms(verdicts, [Loss("a", ""), Loss("b", ""), Loss("c", "")]) == ("a",)


def outcome(way: str, **verdicts: Verdict) -> Outcome:
    return Outcome("s", way, verdicts, save_s=1.0, restore_cold_s=1.0, size_bytes=10)


def rows() -> list[Row]:
    before = Found(answers={"a": 1, "b": 2})
    first = Row(
        State("first", "a = b = 1", "a is b"),
        before,
        outcomes={
            "objects": replace(outcome("objects", a=Verdict.IDENTICAL, b=Verdict.TOLD), losses=(Loss("b", "b: why"),)),
            "dill": outcome("dill", a=Verdict.CHANGED, b=Verdict.SILENT),
        },
        times={"objects": Time(1.0, 1.0, 10), "dill": Time(2.0, 1.0, 10)},
    )
    second = Row(State("second", "c = 1", needs=("nothing_of_this_name",)), skipped="needs nothing_of_this_name")
    return [first, second]


def test_the_summary_counts_what_is_lost_in_silence_and_compares_times() -> None:
    told = summary(rows())
    assert (told["states"], told["silent_losses"], told["probes"]) == (1, 0, 2)
    assert told["skipped"] == {"second": "needs nothing_of_this_name"}
    assert told["survival"]["dill"]["changed"] == told["survival"]["dill"]["silent"] == 1
    assert told["speedup"] == {"cloudpickle": None, "dill": 1.5}
    assert told["worst"]["dill"] == {"ratio": 0.667, "state": "first", "behind_ms": -1000.0}
    json.dumps(told)


def test_marks_of_the_table() -> None:
    assert mark(outcome("w", a=Verdict.IDENTICAL)) == "✓"
    assert mark(outcome("w", a=Verdict.IDENTICAL, b=Verdict.TOLD)) == "◐ 1"
    assert mark(outcome("w", a=Verdict.SILENT, b=Verdict.TOLD, c=Verdict.CHANGED)) == "✗ 2"
    assert mark(Outcome("s", "w", {"a": Verdict.TOLD}, failure="save: TypeError")) == "○"
    assert mark(None) == ""


def test_the_page_shows_states_by_way_what_was_said_and_what_was_not() -> None:
    states = [row.state for row in rows()]
    shown = page({"A theme": states}, rows())
    assert "| first | ◐ 1 | ✗ 2 |" in shown
    assert "| second | *needs nothing_of_this_name* |" in shown
    assert "`b: why`" in shown
    assert "dill: `a`, `b`" in shown


def test_rows_in_a_file_are_kept_for_the_ways_that_are_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert remembered(path) == {}
    first, second = rows()
    remember(path, [first, second])
    assert remembered(path) == {"first": first, "second": second}
    again = replace(first, outcomes={"dill": outcome("dill", a=Verdict.IDENTICAL, b=Verdict.IDENTICAL)}, times={})
    remember(path, [again])
    kept = remembered(path)["first"]
    assert kept.outcomes == {**first.outcomes, **again.outcomes}
    assert kept.times == first.times


def test_rows_of_a_state_that_was_altered_are_not_kept() -> None:
    first, _ = rows()
    altered = replace(first, state=replace(first.state, cells="a = 2"), outcomes={}, times={})
    assert joined(first, altered) == altered


def test_a_state_whose_module_is_missing_is_known() -> None:
    assert State("s", "x = 1", needs=("json", "nothing_of_this_name")).missing() == ["nothing_of_this_name"]
