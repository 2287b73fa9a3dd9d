"""`sojourn policies` against a made-up controller."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from sojourn.cli import main, policies
from sojourn.client import Decided, Policies
from sojourn.policies import Rules

WHY = "aws takes here away in 30 s; to there in 2.0 s"
NOW = Decided(kind="move", session="s1", node="here", target="there", rule="spot", why=WHY, urgent=True)
FAILED = Decided(
    kind="suspend", session="s2", node="here", rule="idle", why="idle for 31m", at=time.time() - 90,
    ended_at=time.time() - 80, error={"code": "save_failed", "message": "the store is full", "hint": ""},
)  # fmt: skip
REHEARSED = Decided(kind="suspend", session="s1", node="here", rule="idle", why="w", dry_run=True, at=time.time())
RULES = Rules.read({
    "idle": {"after": "45m", "dry_run": True},
    "users": {"ada": {"idle": {"after": "2h"}}},
    "nodes": {"gpu*": {"price": 2.5, "drain": ["sat-sun 0:00-24:00"]}},
})  # fmt: skip
STATE = Policies(
    rules=RULES.said(),
    decisions=(NOW,),
    done=(REHEARSED, FAILED),
    forecasts=("here: 2.0 s = 1 × 1 s + 1GB / 1GB/s (moved live); 30 s are left: it makes it",),
)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> list[Policies]:
    """What the controller will say."""
    said = [STATE]

    class MadeUp:
        def __enter__(self) -> MadeUp:
            return self

        def __exit__(self, *_: object) -> None: ...

        def policies(self) -> Policies:
            return said[0]

        def sessions(self, everything: bool = False) -> list[Any]:
            return [SimpleNamespace(id="s1", name="thesis"), SimpleNamespace(id="s2", name="")]

    monkeypatch.setattr(policies, "connect", MadeUp)
    return said


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main.app, ["policies", *arguments])


def test_the_rules_what_they_would_do_and_what_they_did(state: list[Policies]) -> None:
    said = " ".join(run().stdout.split())
    for line in (
        "idle dry run after 45m, in_cells false",
        "right_size off",
        "users ada idle.after 2h",
        "drain sat-sun 0:00-24:00",
        "Leaving here: 2.0 s = 1 × 1 s",
        "thesis move to there spot aws takes here away",
        "s2 suspend idle failed: the store is full idle for 31m",
        "thesis suspend idle (dry run) only said",
    ):
        assert line in said


def test_a_dry_run_says_what_would_be_done_now_and_nothing_else(state: list[Policies]) -> None:
    assert run("--dry-run").stdout.splitlines()[1].split()[0] == "thesis"
    assert "the store is full" not in run("--dry-run").stdout
    state[0] = STATE.model_copy(update={"decisions": ()})
    assert run("--dry-run").stdout == "There is nothing to be done now.\n"


def test_as_json_it_is_what_the_api_says(state: list[Policies]) -> None:
    assert Policies.model_validate_json(run("--json").stdout) == STATE
    assert [Decided.model_validate(one) for one in json.loads(run("--dry-run", "--json").stdout)] == [NOW]


def test_settings_that_mean_nothing_are_told(state: list[Policies]) -> None:
    state[0] = STATE.model_copy(update={"problem": "policies.idle.afer is no setting.\nThere are after, in_cells."})
    assert "policies.idle.afer is no setting" in run().stderr
