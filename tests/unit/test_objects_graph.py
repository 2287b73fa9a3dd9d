"""What goes into a graph comes out of it: aliases, cycles, functions, arrays; and what can't, is named."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.objects import Capture, capture, restore

Namespace = dict[str, Any]


def carried(namespace: Namespace) -> Namespace:
    """What arrives of it in an empty namespace."""
    stream = io.BytesIO()
    capture(namespace).write(stream)
    stream.seek(0)
    there: Namespace = {}
    restore(stream, there)
    return there


def ran(source: str) -> Namespace:
    """The namespace in which a cell has run."""
    namespace: Namespace = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace


def lost(captured: Capture) -> dict[str, str]:
    """Of the names; what surrounds them is this interpreter's, in the middle of its tests."""
    return {each.path: each.why for each in captured.lost if each.name.isidentifier()}


# ── shape ────────────────────────────────────────────────────────────────────────────────────────────────────

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


@st.composite
def webs(draw: st.DrawFn) -> Namespace:
    """Names that lead to lists and dictionaries that hold each other in any way."""
    nodes: list[Any] = [draw(st.sampled_from([list, dict]))() for _ in range(draw(st.integers(1, 6)))]
    for node in nodes:
        for _ in range(draw(st.integers(0, 4))):
            held = draw(st.sampled_from(nodes) | atoms)
            if isinstance(node, list):
                node.append(held)
            else:
                node[draw(st.text(max_size=2))] = held
    return {f"name{index}": draw(st.sampled_from(nodes)) for index in range(draw(st.integers(1, 5)))}


def shape(namespace: Namespace) -> list[Any]:
    """The graph in the order in which it is walked: equal for two namespaces if and only if their webs are alike."""
    numbers: dict[int, int] = {}

    def walk(value: Any) -> Iterator[Any]:
        if not isinstance(value, list | dict):
            yield type(value), value
        elif id(value) in numbers:
            yield "again", numbers[id(value)]
        else:
            numbers[id(value)] = len(numbers)
            for key, child in value.items() if isinstance(value, dict) else enumerate(value):
                yield key
                yield from walk(child)
            yield "end"

    return [step for name in sorted(namespace) for step in walk(namespace[name])]


@settings(deadline=None)
@given(webs())
def test_aliases_and_cycles_are_the_same_there(namespace: Namespace) -> None:
    assert shape(carried(namespace)) == shape(namespace)


def test_an_object_whose_hash_depends_on_itself_is_found_in_its_own_set() -> None:
    there = carried(
        ran(
            "class Node:\n"
            "    def __init__(self, name): self.name = name; self.peers = {self}\n"
            "    def __hash__(self): return hash(self.name)\n"
            "node = Node('a'); table = {node: 1}\n"
        )
    )
    assert there["node"] in there["table"]


# ── functions ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_function_sees_what_is_assigned_later() -> None:
    there = carried(ran("k = 1\ndef even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - k)\n"))
    assert there["even"](10)
    assert isinstance(there["even"], FunctionType)
    assert there["even"].__globals__ is there
    there["odd"] = lambda n: "mine"
    assert there["even"](10) == "mine"


def test_closures_go_on_to_share_their_cell() -> None:
    there = carried(
        ran(
            "def counter():\n"
            "    count = 0\n"
            "    def more():\n"
            "        nonlocal count\n"
            "        count += 1\n"
            "    return more, lambda: count\n"
            "more, tell = counter(); more()\n"
        )
    )
    there["more"]()
    assert there["tell"]() == 2


def test_the_whole_namespace_held_by_a_name_is_the_namespace_there() -> None:
    there = carried(ran("everything = {'names': globals()}"))
    assert there["everything"]["names"] is there


# ── arrays ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_views_go_on_to_look_into_the_array_and_an_array_owns_its_memory() -> None:
    whole = np.arange(100_000.0)
    there = carried({"whole": whole, "part": whole[10:20], "turned": whole.reshape(100, 1000).T})
    there["whole"][10] = -1
    assert there["part"][0] == there["turned"][10, 0] == -1
    assert there["whole"].flags.owndata


def test_a_view_of_what_nobody_else_holds_takes_only_itself_along() -> None:
    captured = capture({"part": np.zeros(1_000_000)[:10]})
    assert captured.write(io.BytesIO()) < 100_000


def test_pandas_keeps_apart_what_it_would_copy_before_writing() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": np.zeros(50_000)})
    there = carried({"frame": frame, "shallow": frame.copy(deep=False)})
    there["frame"].iloc[0, 0] = 9.0
    assert there["shallow"].iloc[0, 0] == 0.0


@pytest.mark.parametrize("dtype", ["M8[s]", ">f8", "i4,f8", "S7", "?", "f4"])
def test_arrays_of_every_type_come_over_bit_by_bit(dtype: str) -> None:
    array = np.frombuffer(bytes(1 for _ in range(7 * 8 * 12 * 1000)), "u1").view("?" if dtype == "?" else "u1")
    array = array.view(dtype) if dtype in ("?", "S7", "f4", ">f8", "M8[s]", "i4,f8") else array
    arrived = carried({"array": array})["array"]
    assert arrived.dtype == array.dtype
    assert arrived.tobytes() == array.tobytes()
    assert arrived.flags.writeable == array.flags.writeable


# ── what can't travel ────────────────────────────────────────────────────────────────────────────────────────


def test_one_bad_leaf_is_named_by_its_path_and_the_rest_goes_on() -> None:
    namespace = ran("class Db: pass\nconfig = {'db': Db(), 'n': 1}\nfine = [1]\ngen = (n for n in fine)")
    with socket.socket() as namespace["config"]["db"].conn:
        captured = capture(namespace)
    assert lost(captured) == {'config["db"].conn': "a socket", "gen": "a running generator"}
    assert {"fine", "Db"} <= set(captured.names)


def test_every_name_that_reaches_the_bad_leaf_is_lost() -> None:
    lock = threading.Lock()
    with lock:
        captured = capture({"a": [lock], "b": {"x": [lock]}, "c": 1})
    assert lost(captured) == {"a[0]": "a lock that is held", 'b["x"][0]': "a lock that is held"}


def test_an_object_that_refuses_by_itself_is_found() -> None:
    namespace = ran(
        "class Shy:\n    def __reduce_ex__(self, protocol): raise ValueError('no')\nx = ([0, Shy()],)\ny = 1"
    )
    captured = capture(namespace)
    assert lost(captured) == {"x[0][1]": "__main__.Shy: no"}
    assert "y" in captured.names


def test_the_cell_that_made_it_is_told() -> None:
    namespace = ran("gen = (n for n in [1])")
    namespace["In"] = ["", "gen = 1", "import math\ngen = (n for n in [1])", "print(gen)"]
    namespace["get_ipython"] = None
    assert lost(capture(namespace))["gen"] == "a running generator, created in cell 2"


def test_an_unheld_lock_travels() -> None:
    there = carried({"lock": threading.Lock(), "event": threading.Event()})
    assert there["lock"].acquire(blocking=False)
    assert not there["event"].is_set()
