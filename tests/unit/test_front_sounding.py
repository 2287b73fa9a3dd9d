"""Whether a kernel can be heard."""

from __future__ import annotations

import pytest

from sojourn.front import sounding
from sojourn.front.sounding import Sounding
from sojourn.transport.loop import Loop


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kernel(said: list[str], monkeypatch: pytest.MonkeyPatch) -> Sounding:
    monkeypatch.setattr(sounding, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(sounding, "MOST_SECONDS", 0.003)
    return Sounding(Loop(), lambda: said.append("asked"), lambda: said.append("heard"))


def test_it_is_asked_until_it_speaks_and_no_longer(kernel: Sounding, said: list[str]) -> None:
    kernel.begin()
    kernel.begin()
    kernel._loop.run_once(1)
    kernel.spoke()
    kernel.spoke()
    kernel._loop.run_once(0.01)
    assert said == ["asked", "heard"]
    kernel.begin()
    assert kernel.hears
    kernel.reset()
    kernel.begin()
    kernel._loop.run_once(1)
    assert said == ["asked", "heard", "asked"]


def test_one_that_says_nothing_is_taken_as_it_is(kernel: Sounding, said: list[str]) -> None:
    kernel.begin()
    while not kernel.hears:
        kernel._loop.run_once(1)
    assert said == ["asked", "asked", "asked", "heard"]
