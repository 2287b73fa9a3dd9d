"""Regimes beside each other: as rows, as JSON, as a picture, by the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sojourn.cli.main import app
from sojourn.errors import Invalid
from sojourn.policies import Rules
from sojourn.savings import Habits, Setting, compare, invent, read_prices, vary
from sojourn.savings.plots import draw
from sojourn.savings.report import DISCOUNTS

PRICES = read_prices()
SETTING = Setting(PRICES, PRICES.kind("m5.large"))
RULES = Rules.read({"idle": {}})
TRACE = invent(Habits(), 8, 5, seed=2)
COMPARED = compare(TRACE, SETTING, RULES)
VARIED = vary(TRACE, SETTING, RULES)


def run(*argv: str) -> str:
    result = CliRunner().invoke(app, ["savings", *argv], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_suspending_is_cheaper_and_spot_cheaper_still() -> None:
    factors = [COMPARED.factor(outcome) for outcome in COMPARED.outcomes]
    always, cull, suspend, spot = factors
    assert always == 1.0
    assert cull > 1.0
    assert 1.0 < suspend < spot < suspend * SETTING.kind.on_demand / SETTING.kind.spot


def test_only_culling_has_cells_run_again() -> None:
    always, cull, suspend, _ = COMPARED.rows()
    assert (always["rerun_hours"], suspend["rerun_hours"]) == (0, 0)
    assert cull["rerun_hours"] > 0
    assert suspend["wait_s"]["p99"] < cull["wait_s"]["median"]


def test_what_is_varied_agrees_with_what_is_compared() -> None:
    assert VARIED.idle[30][0] == pytest.approx(COMPARED.factor(COMPARED.outcomes[2]))
    free = replace(SETTING, kind=replace(SETTING.kind, evictions_per_s=0.0))
    spot = compare(TRACE, free, RULES).outcomes[3]
    assert list(VARIED.spot[0.0]) == list(DISCOUNTS)
    full_price = spot.node_hours * SETTING.kind.on_demand + spot.storage
    assert VARIED.spot[0.0][0.0] == pytest.approx(COMPARED.outcomes[0].cost / full_price)
    assert VARIED.spare[4] == pytest.approx(VARIED.idle[30])
    assert all(with_room <= without for with_room, without in VARIED.wake.values())


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    draw(COMPARED, VARIED, SETTING, tmp_path / "costs.svg")
    assert "times cheaper than always on" in (tmp_path / "costs.svg").read_text()
    with pytest.raises(Invalid, match="no picture"):
        draw(COMPARED, VARIED, SETTING, tmp_path / "costs.txt")


def test_the_command_says_it_in_json(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    assert "events" in run("generate", "--users", "8", "--days", "5", "--seed", "2", "--out", str(trace))
    said = json.loads(run("--trace", str(trace), "--kind", "m5.large", "--json"))
    assert [row["regime"] for row in said["regimes"]] == ["always on", "cull", "suspend", "suspend, spot"]
    assert said["regimes"][0]["cost"] == pytest.approx(COMPARED.outcomes[0].cost, abs=0.01)
    assert said["prices"]["as_of"] == PRICES.as_of


def test_the_command_takes_rules_and_shows_a_table(tmp_path: Path) -> None:
    trace, rules = tmp_path / "trace.csv", tmp_path / "config.toml"
    run("generate", "--users", "3", "--days", "2", "--out", str(trace))
    rules.write_text('[policies.idle]\nafter = "never"\n')
    rows = run("--trace", str(trace), "--rules", str(rules)).splitlines()
    assert rows[0].split()[:2] == ["COST", "USD"]
    assert " 1.0× " in next(row for row in rows if row.startswith("suspend "))


def test_a_trace_is_generated_to_the_screen() -> None:
    assert run("generate", "--users", "2", "--days", "1").startswith("session,user,event,at,memory\n")
