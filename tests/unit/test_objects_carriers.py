"""What modules keep for themselves."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.objects import carriers


@pytest.fixture
def own() -> Iterator[dict[str, Any]]:
    """A module's state, and a carrier for it."""
    state: dict[str, Any] = {"level": 1}
    carriers.carry("the level", "sys", lambda: state["level"], lambda level: state.update(level=level))
    yield state
    del carriers.carriers["the level"]


def test_no_carrier_can_be_taken_for_a_name_of_the_users() -> None:
    assert not [name for name in carriers.carriers if name.isidentifier()]


def test_a_carrier_is_two_functions(own: dict[str, Any]) -> None:
    taken, _ = carriers.take({}, early=False)
    own["level"] = 2
    assert carriers.give({}, {"the level": taken["the level"]}, early=False) == []
    assert own == {"level": 1}


@pytest.mark.parametrize(("here", "given"), [(1, False), (True, True), (2, True)])
def test_what_stands_so_already_is_left_alone(own: dict[str, Any], here: object, given: bool) -> None:
    given_states: list[object] = []
    carriers.carry("the level", "sys", lambda: here, given_states.append)
    carriers.give({}, {"the level": 1}, early=False)
    assert bool(given_states) is given


def test_what_can_not_be_had_here_is_a_note(own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise ValueError("no such level here")

    carriers.carry("the level", "sys", lambda: 1, refuse)
    assert carriers.give({}, {"the level": 2}, early=False) == ["the level: no such level here"]


def test_what_can_not_be_taken_is_lost_and_the_others_go_on(own: dict[str, Any]) -> None:
    carriers.carry("the level", "sys", lambda: SimpleNamespace().nothing, lambda _: None)
    taken, lost = carriers.take({}, early=False)
    assert [each.name for each in lost] == ["the level"]
    assert "random state" in taken


def test_only_what_cells_set_in_modules_is_a_change() -> None:
    import collections

    namespace: dict[str, Any] = {"collections": collections, "x": SimpleNamespace(), "In": ["", "x.y = 1"]}
    taken, _ = carriers.take(namespace, early=False)
    assert "changes to modules" not in taken
    namespace["In"] += ["collections.UserList.sample = 3; x.y = 2"]
    setattr(collections.UserList, "sample", 3)  # noqa: B010
    try:
        taken, _ = carriers.take(namespace, early=False)
    finally:
        delattr(collections.UserList, "sample")
    assert taken["changes to modules"] == [(collections.UserList, "sample", 3)]
