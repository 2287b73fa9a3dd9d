"""Going back and forth: only what changed is sent, and what is shared goes on to be shared."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import Damaged
from sojourn.objects import Capture, Restored, Seen, capture, restore
from sojourn.objects.components import components

Namespace = dict[str, Any]


class Ends:
    """Two namespaces, and what each knows the other to have."""

    def __init__(self, here: Namespace) -> None:
        self.spaces: list[Namespace] = [here, {}]
        self.seen = [Seen(), Seen()]
        self.at = 0

    @property
    def here(self) -> Namespace:
        return self.spaces[self.at]

    def move(self) -> tuple[Capture, Restored, int]:
        """Take all that changed to the other end, which is `here` then."""
        captured = capture(self.here, since=self.seen[self.at])
        stream = io.BytesIO()
        size = captured.write(stream)
        stream.seek(0)
        self.seen[self.at] = captured.seen
        self.at = 1 - self.at
        restored = restore(stream, self.here, seen=self.seen[self.at])
        self.seen[self.at] = restored.seen
        return captured, restored, size


def sent(captured: Capture) -> set[str]:
    return {name for component in captured.components for name in component.names if name.isidentifier()}


def test_names_that_share_anything_stand_together() -> None:
    shared: list[Any] = []
    array = np.zeros(3)
    roots = {"a": [shared], "b": {"x": shared}, "c": 1, "d": array, "e": (array[1:],), "f": {"k": 2}, "n": 1}
    assert [tuple(part) for part in components(roots, {})] == [("a", "b"), ("c",), ("d", "e"), ("f",), ("n",)]


def test_instances_stand_with_their_class_and_closures_with_their_cell() -> None:
    space: Namespace = {"__name__": "__main__"}
    exec(
        "class A: pass\na = A(); x = []\ndef make():\n    return lambda: x, lambda: make\nf, g = make()\nk = len", space
    )
    roots = {name: space[name] for name in ("A", "a", "x", "f", "g", "k", "make")}
    assert [tuple(part) for part in components(roots, space)] == [("A", "a"), ("f",), ("g",), ("k",), ("make",), ("x",)]


def test_only_the_component_that_changed_is_sent() -> None:
    ends = Ends({"big": np.zeros(100_000), "items": [1], "more": {"n": 1}})
    ends.here["alias"] = ends.here["items"]
    _, _, first = ends.move()
    ends.here["items"].append(2)
    captured, restored, second = ends.move()
    assert sent(captured) == {"items", "alias"}
    assert ends.here["alias"] is ends.here["items"] == [1, 2]
    assert second < first / 50
    assert set(restored.names) == {"big", "items", "more", "alias"}


def test_of_a_component_that_changed_only_the_buffers_that_changed_are_sent() -> None:
    ends = Ends({"arrays": [np.full(100_000, number) for number in range(20)]})
    ends.move()
    ends.here["arrays"][3][0] = -1
    _, _, second = ends.move()
    assert 800_000 < second < 900_000
    assert [array[0] for array in ends.here["arrays"][:5]] == [0, 1, 2, -1, 4]


def test_what_is_gone_goes_there_too() -> None:
    ends = Ends({"a": 1, "b": [2]})
    ends.move()
    del ends.here["b"]
    ends.move()
    assert ends.here == {"a": 1}


def test_a_function_goes_on_to_see_the_namespace_it_is_in() -> None:
    here: Namespace = {"__name__": "__main__", "k": 1}
    exec("def f(): return k", here)
    ends = Ends(here)
    for number in range(4):
        ends.here["k"] = number
        ends.move()
        assert ends.here["f"]() == number
        assert ends.here["f"].__globals__ is ends.here


def test_a_receiver_that_has_not_what_the_sender_believes_refuses() -> None:
    stream = io.BytesIO()
    first = capture({"a": [1], "b": [2]}, since=Seen())
    first.write(io.BytesIO())
    capture({"a": [1], "b": [3]}, since=first.seen).write(stream)
    stream.seek(0)
    there = {"a": "other"}
    with pytest.raises(Damaged, match="a: not here any more"):
        restore(stream, there)
    assert there == {"a": "other"}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=8))
def test_after_any_changes_both_ends_are_alike(changes: list[tuple[int, int, bool]]) -> None:
    """Each change ties one list to another, or rebinds its name; after each, the state moves. Beside it stands a
    namespace that stays."""
    names = [f"n{index}" for index in range(6)]
    stays: Namespace = {name: [name] for name in names}
    ends = Ends({name: [name] for name in names})
    for one, other, rebind in changes:
        for space in (stays, ends.here):
            if rebind:
                space[names[one]] = space[names[other]]
            else:
                space[names[one]].append(space[names[other]])
        ends.move()
        assert repr(ends.here["n0"]) == repr(stays["n0"])
        same = [[space[a] is space[b] for a in names for b in names] for space in (stays, ends.here)]
        assert same[0] == same[1]
