"""A small notebook with something that can't travel, carried between real kernels by the ways that use files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sojourn.compare.kernels import spec_of
from sojourn.compare.notebook import Notebook, read_notebook
from sojourn.compare.places import Place
from sojourn.compare.survival import Verdict
from sojourn.compare.trials import TRIALS, Outcome, Scene
from sojourn.compare.wire import Shape
from sojourn.errors import Invalid

pytestmark = pytest.mark.integration
PLAIN = [
    "import random\nchance = random.random()",
    "rows = [chance] * 1000\nalias = rows",
    "def bill(): return rate",
    "rate = 0.19",
]
HALF_WAY = "half_way = (n for n in range(3))\nnext(half_way)"


def notebook(folder: Path, *cells: str) -> Notebook:
    path = folder / "trial.ipynb"
    written = [{"cell_type": "code", "metadata": {}, "source": cell} for cell in cells]
    path.write_text(json.dumps({"nbformat": 4, "metadata": {}, "cells": written}))
    return read_notebook(path)


def tried(way: str, read: Notebook, place: Place | None = None) -> Outcome:
    outcome = TRIALS[way](Scene(read, spec_of(read), place or Place()))
    if outcome.untried:
        pytest.skip(outcome.untried)
    return outcome


def verdicts(outcome: Outcome) -> dict[str, Verdict]:
    return {fate.name: fate.verdict for fate in outcome.fates}


def test_objects_says_what_stays_and_brings_the_rest(tmp_path: Path) -> None:
    outcome = tried("objects", notebook(tmp_path, *PLAIN, HALF_WAY), Place(link=Shape(0.001, 20)))
    assert verdicts(outcome) == dict.fromkeys(["alias", "bill", "chance", "random", "rate", "rows"], Verdict.KEPT) | {
        "half_way": Verdict.TOLD
    }
    assert "created in cell 5" in next(fate.why for fate in outcome.fates if fate.name == "half_way")
    assert outcome.transfer == "reckoned"
    assert outcome.transfer_s == pytest.approx(0.02 + outcome.bytes * 8 / 1e6)
    assert outcome.stands_still_s == pytest.approx(outcome.save_s + outcome.transfer_s + outcome.restore_s)


@pytest.mark.parametrize("way", ["cloudpickle", "dill"])
def test_one_generator_and_the_others_carry_nothing(tmp_path: Path, way: str) -> None:
    outcome = tried(way, notebook(tmp_path, *PLAIN, HALF_WAY))
    assert "generator" in outcome.failure
    assert set(verdicts(outcome).values()) == {Verdict.TOLD}


def test_a_function_that_cloudpickle_cuts_off_from_the_notebook_is_noticed(tmp_path: Path) -> None:
    outcome = tried("cloudpickle", notebook(tmp_path, *PLAIN))
    assert outcome.carried
    assert {name for name, verdict in verdicts(outcome).items() if verdict is not Verdict.KEPT} == {"bill"}
    assert verdicts(outcome)["bill"] is Verdict.CHANGED


def test_a_notebook_that_fails_is_told_by_its_cell(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"Cell 2 of trial\.ipynb failed: ZeroDivisionError"):
        tried("objects", notebook(tmp_path, "x = 1", "x / 0"))
    with pytest.raises(Invalid, match="The kernel died in cell 1"):
        tried("objects", notebook(tmp_path, "import os; os._exit(1)"))


def test_where_no_session_can_move_the_way_says_so(tmp_path: Path) -> None:
    read = notebook(tmp_path, "x = 1")
    outcome = TRIALS["criu-lazy"](Scene(read, spec_of(read), Place(refusal="no root")))
    assert (outcome.untried, outcome.fates) == ("no root", ())
