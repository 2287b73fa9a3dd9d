"""A cell that visits leaves its home as if it had run there."""

from __future__ import annotations

import contextlib
import io
import socket
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import Damaged, Immovable
from sojourn.objects import carriers
from sojourn.objects.companion import Away
from sojourn.objects.visit import Brought, Home, touched

Namespace = dict[str, Any]
SETTINGS_BYTES = 50_000
"""More than what modules keep comes to, of which a process that has run many tests has more."""


@pytest.fixture(autouse=True, scope="module")
def few_carriers() -> Iterator[None]:
    """The others find what pytest has done to its own process."""
    few = {name: each for name, each in carriers.carriers.items() if "random" in name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carriers, "carriers", few)
        yield


def ran(source: str) -> Namespace:
    """The namespace in which a cell has run."""
    namespace: Namespace = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace


class Pair:
    """A home and its companion."""

    def __init__(self, here: Namespace) -> None:
        self.here = here
        self.there: Namespace = {"__name__": "__main__"}
        self.home, self.away = Home(here), Away(self.there)
        self.sent = self.returned = 0
        """Bytes, of the last visit."""

    def visit(self, cell: str) -> Brought:
        """Run a cell there; whatever it raises is its own affair."""
        out, back = io.BytesIO(), io.BytesIO()
        self.sent = self.home.pack(cell).write(out)
        out.seek(0)
        self.away.take(out)
        with contextlib.suppress(Exception):
            exec(compile(cell, "cell", "exec"), self.there)
        self.returned = self.away.pack_back().write(back)
        back.seek(0)
        return self.home.merge(back)


# ── as if it had run here ────────────────────────────────────────────────────────────────────────────────────

BEGUN = """
import numpy as np
class Node:
    def __init__(self, name): self.name, self.peers = name, []
    def __hash__(self): return hash(self.name)
    def __eq__(self, other): return self.name == other.name
class Slotted:
    __slots__ = ("held",)
def counter():
    count = 0
    def more(by=1):
        nonlocal count
        count += by
        return count
    return more
def keep(value):
    global kept
    kept = value
    log.append(value)
def fresh(): return [len(log), np.arange(3.0) * len(log)]
n0, n1, n2 = [1], {"k": 1}, Node("n")
n3, n4, n5 = np.arange(4.0), Slotted(), {"x"}
n4.held = n0
log, tally = [], counter()
whole = np.arange(30_000.0)
part = whole[10:20]
"""
NAMES = [f"n{index}" for index in range(6)]
_one, _other = st.sampled_from(NAMES), st.sampled_from(NAMES)
STEPS = st.one_of(
    st.builds("{} = {}".format, _one, _other),
    st.builds("{} = [{}]".format, _one, _other),
    st.builds("{} = ({}, 1)".format, _one, _other),
    st.builds("{} = {{'k': {}}}".format, _one, _other),
    st.builds("del {}".format, _one),
    st.builds("{}.append({})".format, _one, _other),
    st.builds("{}['k'] = {}".format, _one, _other),
    st.builds("{}.pop('k')".format, _one),
    st.builds("{}.peers.append({})".format, _one, _other),
    st.builds("{}.name = 'renamed'".format, _one),
    st.builds("{}.held = {}".format, _one, _other),
    st.builds("del {}.held".format, _one),
    st.builds("{}[0] = {}".format, _one, _other),
    st.builds("{} += 1".format, _one),
    st.builds("{}.add('y')".format, _one),
    st.builds("{} = fresh()".format, _one),
    st.builds("keep({})".format, _one),
    st.sampled_from(["tally()", "tally.seen = n0", "Node.size = n1", "part += 1", "whole = whole * 2", "1 / 0"]),
    st.sampled_from(["n2 = Node('m')", "n1[Node('m')] = n2", "n5 = {n2}", "n0 = part[2:]", "part = part.copy()"]),
)


def shape(namespace: Namespace) -> list[Any]:
    """All that can be told of a namespace: equal for two of them if and only if their graphs are alike."""
    numbers: dict[int, int] = {}
    steps: list[Any] = []

    def walk(value: Any) -> None:
        if id(value) in numbers:
            steps.append(("again", numbers[id(value)]))
            return
        if isinstance(value, int | float | str | None):
            steps.append((type(value).__name__, value))
            return
        numbers[id(value)] = len(numbers)
        steps.append((type(value).__name__, len(numbers)))
        for each in _held(value, steps):
            walk(each)

    for name in sorted(name for name in namespace if not name.startswith("__") and name != "np"):
        steps.append(name)
        walk(namespace[name])
    return steps


def _held(value: Any, steps: list[Any]) -> list[Any]:
    if isinstance(value, np.ndarray):
        steps.append(value.tolist())
        owner = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        return [] if owner is value else [owner]
    if isinstance(value, dict):
        return [each for pair in value.items() for each in pair]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, set):
        return sorted(value, key=lambda each: str(getattr(each, "name", each)))
    if type(value).__name__ == "function":
        return [*(cell.cell_contents for cell in value.__closure__ or ()), vars(value)]
    if isinstance(value, type):
        return [getattr(value, "size", None)]
    return [type(value), *vars(value).values()] if hasattr(value, "__dict__") else [getattr(value, "held", None)]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_visit_is_as_if_the_cell_had_run_here(cells: list[list[str]]) -> None:
    """Some cells, each of some steps, of which any may fail; beside it stands a namespace in which they run at once."""
    stays, pair = ran(BEGUN), Pair(ran(BEGUN))
    for steps in cells:
        cell = "\n".join(steps)
        with contextlib.suppress(Exception):
            exec(compile(cell, "cell", "exec"), stays)
        pair.visit(cell)
        assert shape(pair.here) == shape(stays)


def test_an_alias_that_did_not_travel_sees_what_came_back() -> None:
    array, items, table = np.zeros((300, 400)), [1], OrderedDict(a=1)
    default, queue, raw = defaultdict(list, {"a": [1]}), deque([1, 2], 5), bytearray(b"abc")
    here = {**ran("class Box: pass\nbox = Box()"), "np": np}
    here |= {"array": array, "items": items, "table": table, "default": default, "queue": queue, "raw": raw}
    box, column = here["box"], array.T[3]
    Pair(here).visit(
        "array[0, 3] = 5.0; items *= 2; table['b'] = 2; table.move_to_end('a')\n"
        "default['b'].append(2); queue.extend(range(4)); raw[:1] = b'xy'; box.more = items"
    )
    assert column[0] == 5.0
    assert here["array"] is array
    assert items == [1, 1]
    assert box.more is items
    assert list(table) == ["b", "a"]
    assert default == {"a": [1], "b": [2]}
    assert queue == deque([2, 0, 1, 2, 3], 5)
    assert raw == b"xybc"


def test_what_can_only_be_built_anew_is_new_for_all_that_held_it() -> None:
    pandas = pytest.importorskip("pandas")
    here = {"frame": pandas.DataFrame({"x": np.zeros(50_000), "y": np.arange(50_000)}), "n": 1}
    here |= {"same": here["frame"], "box": [(here["frame"], "tuple")]}
    pair = Pair(here)
    pair.visit("frame.loc[3, 'x'] = 7.0")
    assert here["frame"] is here["same"] is here["box"][0][0]
    assert here["frame"]["x"].sum() == 7.0
    assert here["frame"]["y"][7] == 7
    assert pair.returned < 500_000, "the other column is here"


def test_a_random_state_goes_on() -> None:
    import random

    pair = Pair({"random": random, "np": np, "rng": np.random.default_rng(5)})
    random.seed(3)
    np.random.seed(3)
    before = random.getstate()
    expected = random.random(), np.random.random(), np.random.default_rng(5).random(2)[1]
    random.setstate(before)
    np.random.seed(3)
    pair.home.merge(_back(pair, "rng.random()"))
    assert (random.random(), np.random.random(), pair.here["rng"].random()) == expected


def _back(pair: Pair, cell: str) -> io.BytesIO:
    """What a cell brings back, not yet taken in."""
    out, back = io.BytesIO(), io.BytesIO()
    pair.home.pack(cell).write(out)
    out.seek(0)
    pair.away.take(out)
    exec(cell, pair.there)
    pair.away.pack_back().write(back)
    back.seek(0)
    return back


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────


def test_only_what_the_cell_touches_is_sent_and_only_once() -> None:
    here = ran(
        "import numpy as np\n"
        "big = [np.random.default_rng(n).random(100_000) for n in range(8)]\n"
        "small = np.zeros(20_000); k = 2\n"
        "def scaled(): return small * k\n"
    )
    pair = Pair(here)
    pair.visit("result = scaled() + 1")
    assert 160_000 < pair.sent < 200_000 + SETTINGS_BYTES
    assert "big" not in pair.there
    pair.visit("result.sum(); scaled()")
    assert pair.sent < SETTINGS_BYTES
    assert pair.returned < SETTINGS_BYTES
    here["small"][3] = 4
    pair.visit("twice = scaled()[3]")
    assert here["twice"] == 8
    assert pair.sent > 160_000
    pair.visit("big[3][0] = 5")
    assert here["big"][3][0] == 5
    assert pair.sent > 6_400_000
    assert pair.returned < 900_000
    here["big"][4][0] = 6
    pair.visit("total = big[4][0]")
    assert here["total"] == 6
    assert pair.sent < 900_000


def test_equal_arrays_stay_two() -> None:
    here: Namespace = {"pair": [np.zeros(50_000), np.zeros(50_000), 0]}
    pair = Pair(here)
    pair.visit("pair[2] = 1")
    here["pair"].append(2)
    pair.visit("pair[0][0] = 1")
    assert [array[0] for array in here["pair"][:2]] == [1, 0]
    assert pair.there["pair"][0] is not pair.there["pair"][1]


def test_a_companion_that_lost_it_is_sent_everything_once_home_knows() -> None:
    pair = Pair({"items": [1], "n": 0})
    pair.visit("items.append(2)")
    pair.away = Away({"__name__": "__main__"})
    with pytest.raises(Damaged, match="items: not here any more"):
        pair.visit("len(items)")
    pair.home.forget()
    pair.there = pair.away._namespace
    pair.visit("n = len(items)")
    assert pair.here["n"] == 2


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("y = scale", {"scale"}),
        ("scale = 2", {"scale"}),
        ("setter()", {"setter", "total"}),
        ("fresh = 1", set()),
        ("this is no Python", set()),
        ("await scaled()", {"scaled", "scale"}),
    ],
)
def test_touched(cell: str, names: set[str]) -> None:
    cells = "scale = total = 1\ndef scaled(): return scale\ndef setter():\n global total\n total = 2\n"
    assert touched(cell, ran(cells)) == names


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────


def test_what_can_not_travel_refuses_the_visit_and_is_named() -> None:
    with socket.socket() as conn:
        pair = Pair({"config": {"conn": conn}, "other": 1})
        with pytest.raises(Immovable, match='config\\["conn"\\]: a socket'):
            pair.visit("config['n'] = 1")
        pair.visit("other += 1")
    assert pair.here["other"] == 2


def test_a_cell_that_fails_brings_back_what_it_had_done() -> None:
    pair = Pair({"items": [1], "n": 1})
    pair.visit("items.append(2); n = 5; raise ValueError('no'); n = 6")
    assert pair.here["items"] == [1, 2]
    assert pair.here["n"] == 5


def test_what_the_cell_made_and_can_not_travel_is_told() -> None:
    pair = Pair({"items": [1]})
    brought = pair.visit("items.append(2); running = (n for n in items)")
    assert [str(each) for each in brought.left] == ["running: a running generator"]
    assert pair.here["items"] == [1, 2]
    assert "running" not in pair.here


@pytest.mark.parametrize("spoil", [lambda data: data[:-40], lambda data: data[:-60] + bytes(10) + data[-50:]])
def test_what_comes_back_damaged_changes_nothing(spoil: Any) -> None:
    here: Namespace = {"items": [1], "array": np.zeros(20_000)}
    pair = Pair(here)
    back = _back(pair, "items.append(2); array[0] = 1; made = 1")
    with pytest.raises(Damaged):
        pair.home.merge(io.BytesIO(spoil(back.getvalue())))
    assert here["items"] == [1]
    assert here["array"][0] == 0
    assert "made" not in here


def test_without_a_way_back_everything_here_is_as_it_was_and_the_next_visit_sends_it_anew() -> None:
    pair = Pair({"items": [1]})
    pair.visit("items.append(2)")
    _back(pair, "items.append(3)")
    assert pair.here["items"] == [1, 2]
    pair.away, pair.there = Away(there := {"__name__": "__main__"}), there
    pair.home.forget()
    pair.visit("items.append(4)")
    assert pair.here["items"] == [1, 2, 4]
