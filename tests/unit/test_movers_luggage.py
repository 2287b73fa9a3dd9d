"""What would be lost, who has agreed to it, and which of two ways is the quicker."""

from __future__ import annotations

from typing import Any

import pytest

from sojourn.errors import Incompatible
from sojourn.model import Capabilities, LostName, Luggage, MovePlan
from sojourn.movers.luggage import (
    ASSUMED_LINK,
    Link,
    at_stake,
    preference,
    require_consent,
    seconds_by_criu,
    seconds_by_objects,
)

GB = 1 << 30
GEN = LostName(name="gen", path="gen", why="a running generator, created in cell 7")
LOCK = LostName(name="model", path="model.lock", why="a lock")
THREAD = LostName(name="thread Poller", path="thread Poller", why="a thread")
HERE, GIGABIT, SLOW = Link(None), Link(125e6), Link(12.5e6)


def luggage(size_bytes: float, *lost: LostName, **more: Any) -> Luggage:
    return Luggage(names=3, size_bytes=int(size_bytes), lost=lost, seconds=0.1, **more)


def by_criu(page_bytes: int) -> MovePlan:
    return MovePlan(
        session="s", source="here", target="there", page_bytes=page_bytes, frozen_s=0.2, filled_s=page_bytes * 0.6 / GB
    )


def test_each_name_is_given_up_by_itself_or_all_together() -> None:
    found = luggage(1, GEN, LOCK)
    assert at_stake(found, ("gen",)) == (LOCK,)
    assert at_stake(found, ("*",)) == at_stake(found, ("gen", "model", "other")) == ()
    require_consent("analysis", found, ("model", "gen"))
    with pytest.raises(Incompatible) as refused:
        require_consent("analysis", found, ("gen",))
    assert refused.value.message == "As objects, session analysis would lose model (model.lock): a lock."
    assert refused.value.hint == "Close or delete it, or give up what can't travel: --drop model or --drop-all."


def test_what_has_no_name_of_its_own_is_given_up_with_all() -> None:
    with pytest.raises(Incompatible) as refused:
        require_consent("analysis", luggage(1, GEN, THREAD), ())
    assert refused.value.hint.endswith("give up what can't travel: --drop-all.")


def test_a_link_is_the_machines_memory_what_was_measured_or_what_is_assumed() -> None:
    known = {"os": "linux", "arch": "x", "kernel": "6", "python": "3", "sojourn": "0", "root_id": "r"}
    one, other = (Capabilities(machine_id=machine, **known) for machine in "ab")
    assert Link.between(one, one, 5e6) == HERE
    assert Link.between(one, other, 5e6) == Link(5e6)
    assert Link.between(one, other) == Link(ASSUMED_LINK)


def test_a_slow_link_makes_both_slow_and_more_memory_than_objects_makes_criu_slower() -> None:
    for seconds, carried in ((seconds_by_criu, by_criu(GB)), (seconds_by_objects, luggage(GB))):
        assert seconds(carried, HERE) < seconds(carried, GIGABIT) < seconds(carried, SLOW)  # type: ignore[operator]
    assert seconds_by_objects(luggage(GB), SLOW) == pytest.approx(0.93 + GB / 12.5e6)
    assert seconds_by_criu(by_criu(GB), HERE) == pytest.approx(0.8)


def test_objects_have_to_be_twice_as_fast_and_to_lose_nothing() -> None:
    better, why = preference(by_criu(4 * GB), luggage(0.1 * GB), GIGABIT)
    assert better
    assert why == "there whole in about 1.8 s as objects, in 34.6 s by CRIU"
    assert not preference(by_criu(4 * GB), luggage(2 * GB), GIGABIT)[0], "1.9 times as fast"
    assert not preference(by_criu(4 * GB), luggage(GB), HERE)[0]
    assert preference(by_criu(4 * GB), luggage(1, LOCK), SLOW) == (
        False,
        "CRIU carries everything; as objects model would be lost",
    )
    assert not preference(by_criu(4 * GB), luggage(1, notes=("f: its cache arrives empty",)), SLOW)[0]
