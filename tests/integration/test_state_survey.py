"""The survey of what survives, with real interpreters: a few states by each way that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.objects import measure
from bench.states.notebooks import STATES
from bench.states.races import race
from bench.states.state import State
from bench.states.survey import Row, examined
from bench.states.trials import InterpreterTrial, reference
from bench.states.verdicts import Outcome, Verdict
from sojourn.compare.inside.ways import WAYS, installed

pytestmark = pytest.mark.integration
GENERATOR = "a generator half way"
LATER = "a function that reads what is assigned later"
ARRAYS = "one array under many names"
BOMB = """
import os, signal
class Bomb:
    def __reduce__(self):
        {}
bomb = Bomb()
"""


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    trials = [
        InterpreterTrial(way) for way in ("objects", "cloudpickle", "cloudpickle, forgiving") if way in installed()
    ]
    return {name: examined(STATES[name], trials) for name in (GENERATOR, LATER, ARRAYS)}


def of(rows: dict[str, Row], way: str, names: Sequence[str]) -> list[Outcome]:
    if way not in installed():
        pytest.skip(f"{WAYS[way].module} is not installed")
    return [rows[name].outcomes[way] for name in names]


def test_ours_loses_nothing_in_silence(rows: dict[str, Row]) -> None:
    for outcome in of(rows, "objects", [GENERATOR, LATER, ARRAYS]):
        assert outcome.carried, outcome.failure
        assert outcome.silent == [], outcome.differences
        assert outcome.harmed == ()
        assert outcome.size_bytes > 0


def test_ours_says_that_generators_stay_and_brings_the_rest(rows: dict[str, Row]) -> None:
    (outcome,) = of(rows, "objects", [GENERATOR])
    assert {loss.name for loss in outcome.losses} == {"numbers", "squares", "fresh"}
    assert outcome.verdicts["seen"] is Verdict.IDENTICAL


def test_one_dict_of_cloudpickle_carries_nothing_of_a_namespace_with_a_generator(rows: dict[str, Row]) -> None:
    (outcome,) = of(rows, "cloudpickle", [GENERATOR])
    assert "generator" in outcome.failure
    assert set(outcome.verdicts.values()) == {Verdict.TOLD}


def test_name_by_name_cloudpickle_says_what_it_leaves(rows: dict[str, Row]) -> None:
    (outcome,) = of(rows, "cloudpickle, forgiving", [GENERATOR])
    assert {loss.name for loss in outcome.losses} == {"numbers", "squares", "fresh"}
    assert outcome.verdicts["seen"] is Verdict.IDENTICAL
    assert outcome.silent == []


def test_the_probes_notice_that_functions_of_cloudpickle_have_globals_of_their_own(rows: dict[str, Row]) -> None:
    (outcome,) = of(rows, "cloudpickle", [LATER])
    assert outcome.verdicts["bill(10, 20)"] is Verdict.IDENTICAL
    assert outcome.verdicts["globals().update(rate=0.07) or bill(10, 20)"] is Verdict.CHANGED


def test_arrays_come_over_whole_by_every_way(rows: dict[str, Row]) -> None:
    assert {outcome.verdict for outcome in rows[ARRAYS].outcomes.values()} == {Verdict.IDENTICAL}


def test_an_interpreter_that_dies_or_hangs_is_what_came_of_that_row() -> None:
    dies = BOMB.format("os.kill(os.getpid(), 9)")
    hangs = BOMB.format("signal.pause()")
    if "cloudpickle" not in installed():
        pytest.skip("cloudpickle is not installed")
    for cells, patience_s, words in ((dies, 60.0, "SIGKILL"), (hangs, 3.0, "no end within")):
        state = State("a bomb", cells, unexamined={"bomb": "it is one"}, probes="1 + 1")
        outcome = InterpreterTrial("cloudpickle", patience_s)(state, reference(state))
        assert words in outcome.failure
        assert outcome.verdicts["1 + 1"] is Verdict.TOLD


def test_a_state_whose_cells_fail_is_skipped_with_the_reason() -> None:
    assert "ZeroDivisionError" in examined(State("wrong", "1 / 0"), []).skipped
    deep = State("deep", "deep = []\nfor _ in range(5000):\n    deep = [deep]")
    assert "no portrait of deep: RecursionError" in examined(deep, []).skipped


def test_a_race_times_the_ways_that_carry_the_state_and_leaves_out_the_others() -> None:
    if "cloudpickle" not in installed():
        pytest.skip("cloudpickle is not installed")
    state = STATES[GENERATOR]
    times = race(state, ["cloudpickle", "cloudpickle, forgiving"], [], rounds=1)
    assert set(times) == {"cloudpickle, forgiving"}
    assert times["cloudpickle, forgiving"].seconds > 0


def test_the_bench_tells_of_a_second_move_and_writes_its_page(tmp_path: Path) -> None:
    table = tmp_path / "survival.md"
    told = measure(["aliases across"], ["objects"], rounds=0, second_gb=0.01, table=table)
    assert (told["states"], told["silent_losses"]) == (1, 0)
    assert told["second_move"]["whole"]
    assert told["second_move"]["bytes_share"] < 0.1
    assert "| aliases across names | ✓ |" in table.read_text()
