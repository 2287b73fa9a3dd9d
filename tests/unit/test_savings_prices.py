"""The price table and the measured times are read, or what is wrong with them is said."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest

from sojourn.errors import Invalid, Unknown
from sojourn.savings import Times, read_prices, read_times
from sojourn.savings.prices import SHIPPED

MEASURED = {"suspend_s": {"0.1": 0.35, "1": 0.8, "4": 2.3}, "wake_s": {"median": 0.2, "p95": 0.4, "elsewhere": 0.3}}


def test_the_shipped_prices_say_when_and_whence() -> None:
    prices = read_prices()
    assert prices.as_of
    assert "Amazon" in prices.source
    assert all(0 < kind.spot < kind.on_demand for kind in prices.nodes)


def test_a_kind_is_chosen_by_name_else_the_first() -> None:
    prices = read_prices()
    assert prices.kind(None) is prices.nodes[0]
    assert prices.kind("r5.large").memory_bytes == 16 * 2**30
    with pytest.raises(Unknown, match=r"no node 'x9'"):
        prices.kind("x9")


def test_a_share_of_evictions_becomes_a_rate() -> None:
    kind = read_prices().kind("m5.xlarge")
    month = 730 * 3600.0
    chance = random.Random(1)
    gone = [chance.expovariate(kind.evictions_per_s) < month for _ in range(10_000)]
    assert statistics.mean(gone) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("on_demand = 0.192\n", "", "node 1: on_demand is missing"),
        ("cores = 4", 'cores = "four"', "node 1: cores = 'four' is no amount"),
        ("evicted_per_month = 0.3", "evicted_per_month = 30", "node 1: evicted_per_month is 30"),
        ("per_gb_month = 0.023", "", "storage: per_gb_month is missing"),
        ("[[node]]", "[[machine]]", "no [[node]]"),
        ('currency = "USD"', "currency = ", "can't be read as prices"),
    ],
)
def test_a_price_that_is_wrong_is_named(tmp_path: Path, before: str, after: str, what: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(SHIPPED.read_text().replace(before, after))
    with pytest.raises(Invalid) as wrong:
        read_prices(file)
    assert what in wrong.value.message


def test_measured_times_replace_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(MEASURED))
    times = read_times(file, Times(node_start_s=60))
    assert (times.wake_median_s, times.wake_p95_s, times.wake_elsewhere_s) == (0.2, 0.4, 0.3)
    assert times.save_s(2 * 2**30) == pytest.approx(0.3 + 2 * 0.5)
    assert times.node_start_s == 60


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"suspend_s": {}}',
        '{"suspend_s": {"0": 1}}',
        '{"suspend_s": {"1": 0.5}}',
        json.dumps(MEASURED | {"wake_s": {"median": 0}}),
    ],
)
def test_times_that_were_not_measured_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "measured.json"
    file.write_text(text)
    with pytest.raises(Invalid, match="no measured times"):
        read_times(file, Times())


def test_wakes_are_spread_as_they_were_measured() -> None:
    chance = random.Random(1)
    times = Times(wake_median_s=0.2, wake_p95_s=0.4)
    wakes = sorted(times.wake_s(False, chance) for _ in range(10_000))
    assert wakes[5000] == pytest.approx(0.2, rel=0.05)
    assert wakes[9500] == pytest.approx(0.4, rel=0.05)
