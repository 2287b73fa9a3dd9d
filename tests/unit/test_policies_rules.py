"""How the rules are written, and what is said of those that mean nothing."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import Invalid
from sojourn.policies import Rules
from sojourn.policies.quantities import read_duration, read_size, write_duration, write_size
from sojourn.policies.rules import NodeRule

EXAMPLE = """
dry_run = false
precious = 1

[idle]
after = "45m"

[spot]
checkpoint_every = "10m"

[schedule]
hours = ["mon-fri 8:00-19:00"]
zone = "Europe/Berlin"

[right_size]
most = "64G"

[nodes."gpu*"]
price = 2.5
drain = ["sat-sun 0:00-24:00"]

[nodes.spot]
spot = true
price = 0.3

[users.ada.idle]
after = "never"

[sessions."train*"]
precious = 5
spot = { checkpoint_every = "2m" }
idle = { dry_run = true }
"""


def read(text: str) -> Rules:
    return Rules.read(tomllib.loads(text))


def test_rules_are_read_for_everybody_for_users_and_for_sessions() -> None:
    rules = read(EXAMPLE)
    assert rules.everybody.idle.after == 45 * 60
    assert rules.everybody.right_size.on
    assert rules.everybody.right_size.most == 64 * 2**30
    assert rules.of("ada", "notes").idle.after == math.inf
    trained = rules.of("bob", "train-7")
    assert (trained.precious, trained.spot.checkpoint_every, trained.idle.after) == (5, 120, 45 * 60)
    assert trained.idle.dry_run
    assert rules.rehearses
    assert rules.of("bob", "notes") is rules.everybody


def test_a_nodes_pattern_is_of_names_and_labels() -> None:
    rules = read(EXAMPLE)
    assert rules.node("gpu-1").price == 2.5
    assert rules.node("cheap", ("spot", "eu")).spot
    assert rules.node("gpu-1", ("spot",)).price == 2.5, "the first that fits"
    assert Rules.NONE.node("x", ("spot",)).spot
    assert not Rules.NONE.node("x").spot


def test_without_a_word_only_notices_and_drains_are_heeded() -> None:
    assert {name for name, rule in Rules.NONE.everybody.each() if rule.on} == {"spot", "drain"}
    assert Rules.NONE.everybody.spot.checkpoint_every == math.inf
    assert not read("[idle]\non = false").everybody.idle.on


def test_a_dry_run_of_everything_is_one_of_each() -> None:
    rules = read("dry_run = true\n[idle]\n")
    assert all(rule.dry_run for _, rule in rules.everybody.each())
    assert not read("dry_run = true\n[idle]\ndry_run = false").everybody.idle.dry_run


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[idel]", "policies.idel", "idle"),
        ("[idle]\nafer = '3m'", "policies.idle.afer", "after"),
        ("[idle]\nafter = 30", "policies.idle.after", "a duration"),
        ("[idle]\nafter = '30'", "policies.idle.after", "a duration"),
        ("[idle]\nin_cells = 'yes'", "policies.idle.in_cells", "true or false"),
        ("idle = true", "policies.idle is not a table", "[policies.idle]"),
        ("[right_size]\nmost = 'lots'", "policies.right_size.most", "a size"),
        ("[right_size]\nsaving = 1.5", "policies.right_size.saving", "a share"),
        ("[schedule]\nhours = ['weekdays']", "policies.schedule.hours", "mon-fri"),
        ("[schedule]\nhours = ['mon 8:00-8:00']", "policies.schedule.hours", "mon-fri"),
        ("[schedule]\nhours = ['mon 8:00-25:00']", "policies.schedule.hours", "mon-fri"),
        ("[schedule]\nhours = ['mun 8:00-9:00']", "policies.schedule.hours", "mon-fri"),
        ("[schedule]\nzone = 'Berlin'", "policies.schedule.zone", "Europe/Berlin"),
        ("[schedule]\nzone = '../etc/passwd'", "policies.schedule.zone", "Europe/Berlin"),
        ("precious = -1", "policies.precious", "0 or more"),
        ("[users.ada.idel]", 'policies.users."ada".idel', "idle"),
        ("[users.ada.idle]\nafter = 'x'", 'policies.users."ada".idle.after', "a duration"),
        ("[users.ada.users]", 'policies.users."ada".users', "idle"),
        ("[sessions]\ntrain = 3", 'policies.sessions."train" is not a table', "precious"),
        ("users = 3", "policies.users is not a table", "PATTERN"),
        ("[nodes.gpu]\nprise = 3", 'policies.nodes."gpu".prise', "price"),
    ],
)
def test_what_means_nothing_is_refused_by_its_name(text: str, key: str, hint: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(text)
    assert key in refused.value.message
    assert hint in refused.value.hint


def test_what_is_in_force_is_said_as_the_file_could_say_it() -> None:
    said = read(EXAMPLE).said()
    assert said["idle"] == {"on": True, "dry_run": False, "after": "45m", "in_cells": False}
    assert said["schedule"]["hours"] == ["mon-fri 8:00-19:00"]
    assert said["nodes"]["gpu*"]["price"] == 2.5
    again = Rules.read({key: value for key, value in said.items() if key in ("idle", "spot", "right_size", "schedule")})
    assert again.everybody == read(EXAMPLE).everybody


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("30min", 1800), ("1h30m", 5400), ("2d", 172800), ("250ms", 0.25), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "-3m", "3 weeks", 30, None, True, ["3m"]],
)  # fmt: skip
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_duration(text)


@given(st.integers(0, 10**7))
def test_a_duration_is_said_as_it_can_be_read(seconds: int) -> None:
    assert read_duration(write_duration(float(seconds))) == seconds


@given(st.integers(0, 1000), st.sampled_from(["", "K", "M", "G", "T"]))
def test_a_size_is_said_as_it_can_be_read(count: int, unit: str) -> None:
    size = read_size(f"{count}{unit}")
    assert read_size(write_size(size)) == size


def test_the_documented_file_can_be_read_and_says_all_there_is() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "policies.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    table = tomllib.loads(text)["policies"]
    rules = Rules.read(table)
    assert rules.of("ada", "notes").idle.after == 7200
    for name, rule in rules.everybody.each():
        assert set(table[name]) >= {one.name for one in fields(rule)} - {"on", "dry_run"}, name
    assert set(table["nodes"]["gpu*"]) == {one.name for one in fields(NodeRule)}
