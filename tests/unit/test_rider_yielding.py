"""Who has to yield before the rider says that clients have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.errors import Busy, Invalid, TunnelFailed
from sojourn.rider.reach import Reach
from sojourn.rider.yielding import Yielding


class Stream(Reach):
    """One of the program's, with so much that waits at the rider."""

    def __init__(self, waits: bytes = b"") -> None:
        self.backlog = waits  # type: ignore[assignment]


class Front:
    def __init__(self, connected: bool = True, kept_bytes: int = 0, stream: Stream | None = None) -> None:
        outbox = SimpleNamespace(kept_bytes=kept_bytes)
        pipes = {1: stream or Stream()}
        self.pump = SimpleNamespace(connected=connected, pipes=pipes, end=SimpleNamespace(outbox=outbox))
        self.heard: list[str] = []

    def say(self, message: dict[str, Any]) -> None:
        self.heard.append(message["event"])


class House:
    """Fronts, and an agent that hears."""

    def __init__(self, *fronts: Front) -> None:
        self.fronts: list[Any] = list(fronts)
        self.heard: list[str] = []
        self.yielding = Yielding(self.fronts, lambda event: self.heard.append(event["event"]))

    def begin(self) -> None:
        self.yielding.begin([front.pump for front in self.fronts])


def test_where_nobody_is_all_have_yielded() -> None:
    house = House()
    house.begin()
    assert house.heard == ["yielded"]


def test_all_who_are_there_are_asked_once_and_waited_for() -> None:
    one, other = Front(), Front()
    house = House(one, other)
    house.begin()
    house.begin()
    assert one.heard == other.heard == ["yield"]
    house.yielding.answered(one)
    assert house.heard == []
    house.yielding.answered(other)
    assert house.heard == ["yielded"]
    house.begin()
    assert house.heard == ["yielded"] * 2, "who asks again is told again"
    house.yielding.end()
    assert one.heard == other.heard == ["yield", "go_on"]
    house.begin()
    assert one.heard[-1] == "yield"


def test_who_is_away_and_has_heard_all_is_not_waited_for_and_asked_when_it_comes() -> None:
    here, away = Front(), Front(connected=False)
    house = House(here, away)
    house.begin()
    away.pump.connected = True
    house.yielding.connected(away.pump)  # type: ignore[arg-type]
    house.yielding.answered(here)
    assert (away.heard, house.heard) == (["yield"], [])
    house.yielding.left(away)  # type: ignore[arg-type]
    assert house.heard == ["yielded"], "it is gone for good"


@pytest.mark.parametrize("away", [Front(False, 9), Front(False, stream=Stream(b"output"))], ids=["outbox", "spool"])
def test_output_for_who_is_away_is_not_left_behind(away: Front) -> None:
    here = Front(kept_bytes=9)
    house = House(here, away)
    with pytest.raises(Busy, match="not been heard"):
        house.begin()
    assert here.heard == []
    house.yielding.left(here)  # type: ignore[arg-type]
    assert house.heard == [], "nothing has begun"


def test_when_all_have_yielded_only_they_may_come_back() -> None:
    front, stranger = Front(), Front()
    house = House(front)
    house.begin()
    house.yielding.may_attach(None)
    house.yielding.answered(front)
    house.yielding.may_attach(front.pump)  # type: ignore[arg-type]
    for pump in (None, stranger.pump):
        with pytest.raises(TunnelFailed):
            house.yielding.may_attach(pump)  # type: ignore[arg-type]
    house.yielding.cease()
    house.yielding.may_attach(None)
    assert front.heard == ["yield"], "the reset tells it"


def test_who_was_not_asked_can_not_answer() -> None:
    house = House()
    with pytest.raises(Invalid):
        house.yielding.answered(Front())
