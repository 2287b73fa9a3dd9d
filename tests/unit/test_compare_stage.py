"""What is seen of names: everything that tells them apart, and nothing is changed by looking."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from sojourn.compare.inside import stage
from sojourn.compare.inside.carried import carry


class Shell:
    user_ns_hidden = {"get_ipython": None}

    def __init__(self, **names: Any) -> None:
        self.user_ns = names


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    def look(**names: Any) -> dict[str, dict[str, str]]:
        monkeypatch.setattr(stage, "_shell", lambda: Shell(**names))
        found: dict[str, dict[str, str]] = stage.look()["names"]
        return found

    return look


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def test_looking_uses_no_iterator_up_and_tells_where_it_stands(shown: Any) -> None:
    walks = {"fresh": numbers(3), "half_way": numbers(3), "begun": iter([7, 8]), "counted": iter([7, 8])}
    next(walks["half_way"])
    next(walks["counted"])
    assert len({one["digest"] for one in shown(**walks).values()}) == len(walks)
    assert [list(walk) for walk in walks.values()] == [[0, 1, 2], [1, 2], [7, 8], [8]]


def test_values_differ_by_content_type_and_what_lies_deep_inside(shown: Any) -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    values = [1, 1.0, True, "1", [1], (1,), {"a": [1]}, {"a": [2]}, cycle, [1, [1]], itertools.count(1), len]
    seen = shown(**{f"value_{number}": value for number, value in enumerate(values)})
    assert len({one["digest"] for one in seen.values()}) == len(values)


def test_an_alias_is_named_and_immutable_values_have_none(shown: Any) -> None:
    shared, text = [1], "text"
    seen = shown(a=shared, b=shared, c=[1], t=text, u=text)
    assert [seen[name]["alias"] for name in "abctu"] == ["", "a", "", "", ""]


def test_a_function_of_the_notebook_is_told_from_one_with_globals_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(elsewhere=numbers)
    exec("def ours(): return rate", shell.user_ns)
    shell.user_ns.pop("__builtins__")
    monkeypatch.setattr(stage, "_shell", lambda: shell)
    seen = stage.look()["names"]
    assert "globals" in seen["ours"]
    assert "globals" not in seen["elsewhere"]


def test_what_looks_different_each_time_or_can_not_be_looked_at_says_so(shown: Any) -> None:
    class Restless:
        looked = itertools.count()

        def __reduce_ex__(self, protocol: Any) -> Any:
            return Restless, (next(self.looked),)

        __slots__ = ()

    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]
    seen = shown(restless=Restless(), deep=deep)
    assert seen["restless"]["why"] == "it looks different each time"
    assert "RecursionError" in seen["deep"]["why"]
    assert {one["digest"] for one in seen.values()} == {""}


def test_an_answer_is_an_error_rather_than_an_exception() -> None:
    assert "KeyError" in stage.answer('{"act": "dance"}')


def test_carried_modules_are_found_and_import_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    sources = {
        "parcel": ("", True),
        "parcel.one": ("from .two import x\ny = x + 1", False),
        "parcel.two": ("x = 1", False),
    }
    carry(sources)
    try:
        import parcel.one  # type: ignore[import-not-found]

        assert isinstance(parcel, ModuleType)
        assert parcel.one.y == 2
    finally:
        for name in sources:
            sys.modules.pop(name, None)
