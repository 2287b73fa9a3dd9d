from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.front.host import STANDSTILL_SECONDS, Front


@pytest.fixture
async def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that hosts a kernel nobody listens to, at the time 0, and writes down whose lease it ends."""
    front: Any = Front(tmp_path)
    await front.begin()
    front._loop = SimpleNamespace(time=lambda: front.now)
    front.now, front._looked_at, front._busy_until, front.ended = 0.0, 0.0, 60.0, []

    async def end(session: str) -> None:
        front.ended.append(session)

    monkeypatch.setattr(front, "_end_lease", end)
    unheard = SimpleNamespace(attached=0)
    front._hosted["s"] = SimpleNamespace(asleep=False, discarded=False, lease_until=30.0, switchboard=unheard)
    yield front
    front._hosted.clear()
    await front.end()


async def looks_until(front: Any, now: float) -> None:
    while front.now < now:
        front.now += 1
        await front.look_after()


async def test_a_lease_that_nobody_renews_runs_out(front: Any) -> None:
    await looks_until(front, 30)
    assert front.ended == []
    await looks_until(front, 31)
    assert front.ended == ["s"]


async def test_time_in_which_nobody_could_renew_a_lease_does_not_count(front: Any) -> None:
    await looks_until(front, 10)
    front.now += 3600
    await front.look_after()
    assert front.ended == []
    await looks_until(front, 3600 + 31)
    assert front.ended == ["s"]
    assert STANDSTILL_SECONDS > 5, "a front that is merely busy has not slept"
