"""`sojourn nodes --moves`: letters in a table, and every reason below it in words."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from sojourn.cli import lists, main
from sojourn.cli.ways import legend
from sojourn.model import Obstacle, Way

CPU = Obstacle(kind="cpu", message="The target's CPU lacks avx512f, which the session may use.", hint="…")
CRIU = Obstacle(kind="criu", message="CRIU 4.1 at the target can't read images of CRIU 4.2.", hint="…")
LIVE = Obstacle(kind="live", message="mac can't take live moves: runc needs Linux.", hint="…")
WAYS = [
    Way(source="big", target="small", obstacles=(CPU, CRIU)),
    Way(source="small", target="big"),
    Way(source="big", target="mac", obstacles=(LIVE,)),
    Way(source="mac", target="big", obstacles=(LIVE,)),
    Way(source="small", target="mac", obstacles=(LIVE,)),
    Way(source="mac", target="small", obstacles=(LIVE, CRIU)),
]


class MadeUpClient:
    def __init__(self, ways: list[Way]) -> None:
        self._ways = ways

    def __enter__(self) -> MadeUpClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ways(self) -> list[Way]:
        return self._ways


def run(monkeypatch: pytest.MonkeyPatch, ways: list[Way], *arguments: str) -> str:
    monkeypatch.setattr(lists, "connect", lambda: MadeUpClient(ways))
    result = CliRunner().invoke(main.app, ["nodes", "--moves", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_row_is_where_a_session_is_and_a_column_where_it_would_go(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.split() for line in run(monkeypatch, WAYS).splitlines()]
    assert lines[:4] == [
        ["FROM", "/", "TO", "big", "mac", "small"],
        ["big", "·", "L", "C", "V"],
        ["mac", "L", "·", "L", "V"],
        ["small", "✓", "L", "·"],
    ]


def test_each_reason_is_told_once_with_the_pairs_it_is_true_of() -> None:
    assert list(legend(WAYS)) == [
        "\nL can't take live moves   C a lesser CPU   V an older CRIU\n",
        "L  mac can't take live moves: runc needs Linux.",
        "C  big → small: The target's CPU lacks avx512f, which the session may use.",
        "V  big → small, mac → small: CRIU 4.1 at the target can't read images of CRIU 4.2.",
        "C: not for sessions that were started for the whole fleet (`cpu` = fleet).",
    ]


def test_where_all_can_go_there_is_nothing_to_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(legend([Way(source="big", target="small")])) == []
    assert "There is no other node" in run(monkeypatch, [])


def test_where_only_objects_go_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [Way(source="big", target="mac", obstacles=(LIVE,), objects=True), Way(source="mac", target="big")]
    said = run(monkeypatch, ways)
    assert said.splitlines()[1].split() == ["big", "·", "L", "o"]
    assert "o Python sessions go as objects" in said


def test_as_json_every_pair_comes_with_its_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.loads(run(monkeypatch, WAYS, "--json"))[0]
    assert (first["source"], first["target"]) == ("big", "small")
    assert [obstacle["kind"] for obstacle in first["obstacles"]] == ["cpu", "criu"]
