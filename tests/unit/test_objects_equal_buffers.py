"""Arrays that are equal are not one array, however often a namespace goes back and forth."""

from __future__ import annotations

import io
from typing import Any

import pytest

from sojourn.objects import Seen, capture, restore

np = pytest.importorskip("numpy")


def carried(source: dict[str, Any], target: dict[str, Any], since: Seen, seen: Seen) -> tuple[Seen, Seen]:
    captured, stream = capture(source, since=since), io.BytesIO()
    captured.write(stream)
    stream.seek(0)
    return captured.seen, restore(stream, target, seen=seen).seen


def test_equal_arrays_of_one_component_stay_two() -> None:
    here: dict[str, Any] = {"pair": [np.zeros(100_000), np.zeros(100_000), [1]]}
    there: dict[str, Any] = {}
    ours, theirs = carried(here, there, Seen(), Seen())
    there["pair"][2].append(2)
    theirs, ours = carried(there, here, theirs, ours)
    here["pair"][0][0] = 7
    assert here["pair"][1][0] == 0
    assert here["pair"][2] == [1, 2]
    carried(here, there, ours, theirs)
    assert [array[0] for array in there["pair"][:2]] == [7, 0]


def test_an_array_that_equals_one_of_another_component_stays_apart() -> None:
    here: dict[str, Any] = {"one": np.zeros(100_000), "other": [0]}
    there: dict[str, Any] = {}
    ours, theirs = carried(here, there, Seen(), Seen())
    there["other"] = [np.zeros(100_000)]
    carried(there, here, theirs, ours)
    here["other"][0][0] = 7
    assert here["one"][0] == 0
