"""What policies hear of a kernel, and how often."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from sojourn.errors import Unreachable
from sojourn.front import activity
from sojourn.front.activity import Activity, Pulse


def test_a_pulse_tells_turns_at_once_and_a_person_once_in_a_second() -> None:
    told: list[tuple[bool, float]] = []
    pulse = Pulse(lambda *what: told.append(what))
    pulse.executes(False)
    for now in (10.0, 10.2, 10.9, 11.5):
        pulse.attended(now)
    pulse.executes(True)
    pulse.executes(True)
    pulse.executes(False)
    assert told == [(False, 10.0), (False, 11.5), (True, 11.5), (False, 11.5)]


class Controller:
    def __init__(self) -> None:
        self.heard: list[tuple[bool, float]] = []
        self.away = False

    async def tell(self, executing: bool, at: float) -> None:
        if self.away:
            raise Unreachable("away")
        self.heard.append((executing, at))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "REPEAT_SECONDS", 0.1)
    monkeypatch.setattr(activity, "SETTLE_SECONDS", 0.02)


async def _played(controller: Controller, *story: tuple[float, bool, float]) -> None:
    """Each of the story: after so many seconds, this is noted."""
    kernel = Activity(controller.tell)
    running = asyncio.create_task(kernel.run())
    for pause, executing, at in story:
        await asyncio.sleep(pause)
        kernel.note(executing, at)
    await asyncio.sleep(0.05)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_long_cell_is_told_of_when_it_begins_and_ends() -> None:
    controller = Controller()
    await _played(controller, (0.01, True, 1.0), (0.06, False, 1.0))
    assert controller.heard == [(True, 1.0), (False, 1.0)]


async def test_a_short_cell_is_told_of_as_a_persons_doing() -> None:
    controller = Controller()
    await _played(controller, (0.01, True, 1.0), (0.0, False, 1.0))
    assert controller.heard == [(False, 1.0)]


async def test_what_could_not_be_told_is_told_later() -> None:
    controller = Controller()
    controller.away = True
    asyncio.get_running_loop().call_later(0.05, lambda: setattr(controller, "away", False))
    await _played(controller, (0.01, False, 1.0), (0.25, False, 1.0))
    assert controller.heard == [(False, 1.0)]
