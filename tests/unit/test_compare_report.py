"""What is shown of a comparison: medians, the worst fates, the table, the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sojourn.cli.compare import COLUMNS, _notes, _rows
from sojourn.compare.page import page, writable
from sojourn.compare.report import Comparison, chosen, middle
from sojourn.compare.survival import Fate, Verdict
from sojourn.compare.trials import TRIALS, Outcome
from sojourn.compare.wire import Shape
from sojourn.errors import Invalid

KEPT = Fate("a", Verdict.KEPT, "list")
TOLD = Fate("<gen>", Verdict.TOLD, "generator", "a running generator")
SILENT = Fate("b", Verdict.SILENT, "int 7", "it is not there")
LAZY = Outcome(
    "criu-lazy", save_s=0.1, transfer="measured", stands_still_s=0.2, all_there_s=0.9, bytes=10**8, fates=(KEPT,)
)
OBJECTS = Outcome("objects", save_s=1.0, transfer="reckoned", transfer_s=2.0, bytes=1000, fates=(TOLD, SILENT, KEPT))
DILL = Outcome("dill", failure="nothing was saved: TypeError", fates=(replace(KEPT, verdict=Verdict.TOLD),))
KISHU = Outcome("kishu", untried="not installed. python -m pip install kishu")
BOTH = Comparison("/work/trial.ipynb", "python3", 3, 1, Shape(1, 20), ("here", "there"), (LAZY, OBJECTS, DILL, KISHU))


def test_figures_are_medians_and_fates_those_of_the_worst_try() -> None:
    tries = [replace(OBJECTS, save_s=seconds, fates=(KEPT,)) for seconds in (3.0, 1.0)] + [replace(OBJECTS, save_s=2.0)]
    assert middle(tries).save_s == 2.0
    assert middle(tries).count(Verdict.SILENT) == 1
    assert middle([*tries, DILL]) is DILL


def test_losses_are_shown_from_the_worst_on_and_not_of_ways_that_carried_nothing() -> None:
    assert [(outcome.way, fate.name) for outcome, fate in BOTH.losses()] == [("objects", "b"), ("objects", "<gen>")]


def test_the_table_has_a_row_for_each_way() -> None:
    rows = _rows(BOTH)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    table = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}
    assert table["criu-lazy"]["STANDS STILL"] == "0.20 s"
    assert table["objects"]["TRANSFER"] == "≈ 2.00 s"
    assert (table["objects"]["TOLD"], table["objects"]["SILENT"]) == ("1", "1")
    assert (table["dill"]["SAVE"], table["dill"]["TOLD"]) == ("–", "1")
    assert set(table["kishu"].values()) == {"kishu", "–"}


def test_what_the_table_leaves_out_is_said_below() -> None:
    notes = "\n".join(_notes(BOTH))
    assert "kishu was not tried: not installed. python -m pip install kishu" in notes
    assert "dill carried nothing: nothing was saved: TypeError" in notes
    assert "reckoned from the bytes" in notes


def test_json_has_every_name_and_counts() -> None:
    outcome = BOTH.to_json()["outcomes"][1]
    assert outcome["names"] == {"kept": 1, "told": 1, "changed": 0, "silent": 1, "unexamined": 0}
    assert outcome["fates"][0] == {
        "name": "<gen>",
        "verdict": "told",
        "kind": "generator",
        "why": "a running generator",
    }


def test_ways_are_chosen_by_name() -> None:
    assert chosen(None) == list(TRIALS)
    assert chosen("dill, objects") == ["dill", "objects"]
    with pytest.raises(Invalid, match="no way 'pickle'"):
        chosen("pickle")


def test_the_page_stands_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    writable(tmp_path / "out.html")
    text = page(BOTH, "trial.ipynb", [COLUMNS, *_rows(BOTH)], _notes(BOTH))
    assert text.count("<svg") == 1
    assert "&lt;gen&gt;" in text
    assert "<gen>" not in text
    assert "lost in silence" in text
    assert 'src="' not in text
    with pytest.raises(Invalid, match="can't be written"):
        writable(tmp_path / "nowhere" / "out.html")
