"""Sessions that start on one node with the environment of another: a controller that listens, and scripted agents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.fake_agent import FakeAgent
from tests.integration.test_controller import SPEC, Running, running

from sojourn import wire
from sojourn.errors import DoesNotFit, Incompatible, Invalid, Unknown, Unreachable
from sojourn.model import Ground, Needs
from sojourn.tickets import verify

pytestmark = pytest.mark.integration

GROUND = Ground(root="other root", python="/usr/bin/python3", layers=({"id": "0" * 32, "part": {"name": "system"}},))
ABROAD = SPEC.model_copy(
    update={"environment": "home", "needs": Needs(node="away"), "files": {"/run/key": "secret"}, "ground": GROUND}
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, store=f"file://{tmp_path}/store") as found:
        yield found


async def nodes(house: Running, **changes: str) -> tuple[FakeAgent, FakeAgent]:
    """`home`, and `away`, which differs in this."""
    home, away = house.agent("home"), house.agent("away", **changes)
    for agent in (home, away):
        await agent.dial()
    return home, away


async def test_the_environment_is_there_before_the_session_starts(house: Running) -> None:
    home, away = await nodes(house, root_id="another")
    starting = asyncio.create_task(house.client.start(ABROAD))
    asked = await home.heard_of(wire.SendEnvironment)
    assert (asked.target, asked.address) == ("away", away.address)
    assert verify(asked.ticket, away.key, time.time())["for"] == "environment"
    assert asked.spec.program.argv == SPEC.program.argv
    assert "secret" not in asked.model_dump_json()
    assert not any(isinstance(one, wire.StartSandbox) for one in away.heard)

    brought = GROUND.model_copy(update={"root": "root"})
    await home.report(wire.EnvironmentSent(request=asked.request, ground=brought), 0)
    await starting

    started = await away.heard_of(wire.StartSandbox)
    assert started.spec.ground == brought
    assert started.spec.sandbox == "runc"
    assert started.spec.files == ABROAD.files


async def test_what_keeps_it_from_coming_is_told_and_nothing_starts(house: Running) -> None:
    home, _ = await nodes(house, root_id="another")
    starting = asyncio.create_task(house.client.start(ABROAD))
    asked = await home.heard_of(wire.SendEnvironment)
    error = DoesNotFit("There is no room.", "Free some there.").to_wire()
    await home.report(wire.EnvironmentSent(request=asked.request, error=error), 0)
    with pytest.raises(DoesNotFit, match="no room"):
        await starting
    assert await house.client.sessions() == []


async def test_a_home_that_leaves_is_not_waited_for(house: Running) -> None:
    home, _ = await nodes(house, root_id="another")
    starting = asyncio.create_task(house.client.start(ABROAD))
    await home.heard_of(wire.SendEnvironment)
    await home.hang_up()
    with pytest.raises(Unreachable, match="home has left"):
        await starting
    assert await house.client.sessions() == []


async def test_nodes_with_one_root_bring_nothing(house: Running) -> None:
    home, away = await nodes(house)
    await house.client.start(ABROAD)
    started = await away.heard_of(wire.StartSandbox)
    assert started.spec.ground is None  # whatever was asked
    assert not any(isinstance(one, wire.SendEnvironment) for one in home.heard)


async def test_what_could_not_run_there_is_refused_at_once(house: Running) -> None:
    await nodes(house, root_id="another", arch="aarch64")
    with pytest.raises((DoesNotFit, Incompatible), match=r"away.*aarch64"):
        await house.client.start(ABROAD)
    with pytest.raises(Unknown, match="nowhere"):
        await house.client.start(ABROAD.model_copy(update={"environment": "nowhere"}))
    with pytest.raises(Invalid, match="image"):
        await house.client.start(ABROAD.model_copy(update={"image": "localhost/mine:1"}))
