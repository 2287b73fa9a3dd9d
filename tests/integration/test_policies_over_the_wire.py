# ruff: noqa: ASYNC110 (what is looked for is on the other side of an API)
"""Policies in the real controller: what agents and people say comes in over the wire, and instructions go out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.fake_agent import GIGABYTE, FakeAgent, fill, thaw
from tests.integration.test_controller import Running, running

from sojourn import wire
from sojourn.client import Decided
from sojourn.controller import policing
from sojourn.errors import DoesNotFit, Unknown
from sojourn.model import Load, Needs, Program, SessionSpec
from sojourn.model.nodes import Eviction, SessionLoad

pytestmark = pytest.mark.integration

SPEC = SessionSpec(name="analysis", program=Program(argv=("python",)))


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.setattr(policing, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(policing, "GLANCE_SECONDS", 0.02)
    async with running(tmp_path) as found:
        yield found


def configure(folder: Path, text: str) -> None:
    (folder / "config").mkdir()
    (folder / "config" / "config.toml").write_text(text)


async def beat(agent: FakeAgent, free: float = 8, **load: Any) -> None:
    await agent._say(wire.Heartbeat(load=Load(memory_free_bytes=int(free * GIGABYTE), **load)))


async def done(house: Running, count: int = 1) -> tuple[Decided, ...]:
    """What policies have done, once so many things have ended."""
    async with asyncio.timeout(10):
        while len(found := [one for one in (await house.client.policies()).done if one.ended_at]) < count:
            await asyncio.sleep(0.02)
    return tuple(found)


async def test_a_drained_node_is_left_and_nothing_is_started_there(house: Running) -> None:
    _, there = await house.pair()
    session = await house.session()
    (would,) = await house.client.drain("here", dry_run=True)
    assert (would.session, would.kind, would.target, would.rule) == (session.id, "move", "there", "drain")
    assert not any(node.draining for node in await house.client.nodes())
    assert not [one for one in there.heard if isinstance(one, wire.PrepareArrival)]

    await house.client.drain("here", reason="new memory")
    await thaw(there)
    await fill(there)
    (moved,) = await done(house)
    assert (moved.kind, moved.error) == ("move", None)
    assert (await house.client.session(session.id)).node == "there"
    with pytest.raises(DoesNotFit, match="new memory"):
        await house.client.start(SPEC.model_copy(update={"name": "x", "needs": Needs(node="here")}))
    await house.client.undrain("here")
    await house.client.start(SPEC.model_copy(update={"name": "x", "needs": Needs(node="here")}))
    with pytest.raises(Unknown):
        await house.client.drain("nowhere")


async def test_an_eviction_notice_in_a_heartbeat_is_heeded_at_once(
    house: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policing, "LOOK_SECONDS", 3600.0)
    here, there = await house.pair()
    session = await house.session()
    await beat(here, eviction=Eviction(at=time.time() + 30, source="gcp"), save_bytes_per_s=1e9)
    await thaw(there)
    assert (await house.client.session(session.id)).node == "there"
    nodes = {node.name: node.draining for node in await house.client.nodes()}
    assert nodes == {"here": "gcp takes it away", "there": ""}


async def test_where_there_is_no_room_an_evicted_session_is_saved(house: Running) -> None:
    here, there = await house.pair()
    session = await house.session()
    await beat(there, free=0.5)
    load = SessionLoad(session=session.id, memory_bytes=GIGABYTE)
    await beat(here, eviction=Eviction(at=time.time() + 30, source="gcp"), used=(load,))
    asked = await here.heard_of(wire.SaveSession)
    assert (asked.session, asked.keep) == (session.id, False)
    (forecast,) = (await house.client.policies()).forecasts
    assert forecast.startswith("here: ")


async def test_a_session_about_to_hit_its_limit_is_moved_to_where_it_may_have_more(
    house: Running, tmp_path: Path
) -> None:
    configure(tmp_path, "[policies.right_size]\n")
    here = await house.node("here")
    big = await house.node("big", machine_id="another")
    session = await house.session(SPEC.model_copy(update={"needs": Needs(memory_bytes=GIGABYTE)}))
    for size in (600, 620, 640, 660):
        load = SessionLoad(session=session.id, memory_bytes=size << 20, memory_limit_bytes=GIGABYTE)
        await beat(here, used=(load,))
        await asyncio.sleep(0.2)
    asked = await big.heard_of(wire.PrepareArrival)
    assert asked.spec.needs.memory_bytes == 2 * GIGABYTE
    (decision, *_) = (await house.client.policies()).done
    assert decision.rule == "right_size"
    assert "it reaches its limit of 1GB" in decision.why


async def test_the_rules_are_shown_as_they_are_in_force(house: Running, tmp_path: Path) -> None:
    configure(tmp_path, "[policies.idle]\nafter = '20m'\n")
    async with asyncio.timeout(10):
        while not (found := await house.client.policies()).rules["idle"]["on"]:
            await asyncio.sleep(0.02)
    assert found.rules["idle"]["after"] == "20m"
    assert (found.decisions, found.done, found.problem) == ((), (), "")
    (tmp_path / "config" / "config.toml").write_text("[policies.idle]\nafter = 20\n")
    async with asyncio.timeout(10):
        while not (found := await house.client.policies()).problem:
            await asyncio.sleep(0.02)
    assert "policies.idle.after = 20" in found.problem
    assert found.rules["idle"]["after"] == "20m"
