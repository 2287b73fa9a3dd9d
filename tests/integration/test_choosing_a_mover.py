"""CRIU or objects: what a controller chooses, what it refuses, and what it says of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.fake_agent import GIGABYTE, FakeAgent
from tests.integration.test_controller import SPEC, Running, eventually, running

from sojourn import wire
from sojourn.client.words import Activity
from sojourn.controller import verbs
from sojourn.errors import Busy, Immovable, Incompatible, Invalid
from sojourn.model import Inspection, LostName, Luggage, MovePlan

pytestmark = pytest.mark.integration

LUGGAGE = Luggage(names=12, size_bytes=40_000_000, python="3.11", seconds=0.05)
GEN = LostName(name="gen", path="gen", why="a running generator, created in cell 7")
LOSING = LUGGAGE.model_copy(update={"lost": (GEN, LostName(name="model", path="model.lock", why="a lock"))})
PLAIN = {"sandboxes": ("process",), "strategies": (), "criu": None, "runc": None}
LARGE = Inspection(memory_bytes=6 * GIGABYTE, private_dirty_bytes=6 * GIGABYTE, processes=2)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as found:
        yield found


async def plain(house: Running) -> tuple[FakeAgent, FakeAgent]:
    """Two nodes without CRIU, and a session on the first."""
    here, there = await house.node("here", **PLAIN), await house.node("there", **PLAIN, arch="aarch64")
    here.luggage = LUGGAGE
    await house.session()
    return here, there


async def plan(house: Running, **how: object) -> MovePlan:
    return (await house.client.move("analysis", "there", dry_run=True, **how)).plan  # type: ignore[arg-type]


def touched(*agents: FakeAgent) -> list[str]:
    return [one.do for agent in agents for one in agent.heard if one.do in ("prepare_arrival", "depart")]


def looks(agent: FakeAgent) -> int:
    return sum(one.do == "look_at_luggage" for one in agent.heard)


async def test_a_plain_process_goes_as_objects_also_to_another_architecture(house: Running) -> None:
    here, there = await plain(house)
    planned = await plan(house)
    assert (planned.fits, planned.strategy, planned.luggage) == (True, "objects", LUGGAGE)
    assert "CRIU can't: Session analysis is a plain process on here" in planned.why
    assert not [one for one in here.heard if one.do == "inspect_session"], "such a session has no inspection"
    moving = await house.client.move("analysis", "there", wait="accepted", may_lose=["gen"])
    assert moving.move
    assert moving.move.strategy == "objects"
    asked = await there.heard_of(wire.PrepareArrival)
    assert (asked.strategy, (await here.heard_of(wire.Depart)).may_lose) == ("objects", ("gen",))


async def test_what_would_be_lost_is_named_and_goes_on_only_with_consent(house: Running) -> None:
    here, there = await plain(house)
    here.luggage = LOSING
    with pytest.raises(Incompatible) as refused:
        await house.client.move("analysis", "there", carrier="objects")
    assert "lose gen: a running generator, created in cell 7; model (model.lock): a lock." in refused.value.message
    assert "--drop gen --drop model or --drop-all" in refused.value.hint
    planned = await plan(house, carrier="objects", may_lose=["gen"])
    assert not planned.fits
    assert planned.luggage == LOSING
    assert "gen" not in planned.refusals[0].split(":")[0]
    assert touched(here, there) == []
    assert (await plan(house, carrier="objects", may_lose=["gen", "model"])).fits
    assert (await plan(house, strategy="objects", may_lose=["*"])).fits


async def test_where_neither_can_go_both_reasons_are_told(house: Running) -> None:
    here, there = await plain(house)
    here.luggage = LOSING
    with pytest.raises(Immovable) as refused:
        await house.client.move("analysis", "there")
    assert "plain process" in refused.value.message
    assert "gen: a running generator" in refused.value.message
    assert "--drop gen" in refused.value.hint
    assert len((await plan(house)).refusals) == 2
    here.luggage = Busy("The kernel runs a cell.", "Wait for its end.")
    with pytest.raises(Busy, match=r"plain process.*runs a cell"):
        await house.client.move("analysis", "there")
    assert touched(here, there) == []


async def test_a_node_that_can_hold_no_such_session_is_refused_without_a_question(house: Running) -> None:
    here = await house.node("here")
    here.luggage = LUGGAGE
    await house.node("there", **PLAIN)
    await house.session(SPEC.model_copy(update={"sandbox": "runc"}))
    with pytest.raises(Incompatible, match="there can't hold session analysis: it has no runc sandboxes"):
        await house.client.move("analysis", "there", carrier="objects")
    assert looks(here) == 0


@pytest.mark.parametrize(
    "how",
    [
        {"carrier": "criu", "strategy": "objects"},
        {"carrier": "objects", "strategy": "lazy"},
        {"carrier": "criu", "may_lose": ["*"]},
        {"strategy": "copy", "may_lose": ["gen"]},
    ],
)
async def test_wishes_that_contradict_each_other(house: Running, how: dict[str, object]) -> None:
    await house.pair()
    await house.session()
    with pytest.raises(Invalid):
        await plan(house, **how)


async def test_criu_carries_what_it_can_and_the_kernel_is_not_even_asked(house: Running) -> None:
    here, _ = await house.pair()
    here.luggage = LUGGAGE
    await house.session()
    planned = await plan(house)
    assert planned.strategy == "lazy"
    assert "CRIU carries everything, in about 0." in planned.why
    assert looks(here) == 0


async def test_objects_are_preferred_where_they_are_there_in_half_the_time(house: Running) -> None:
    here = await house.node("here", machine_id="one")
    await house.node("there", machine_id="other")
    view = await house.session()
    here.inspection, here.luggage = LARGE, LUGGAGE
    planned = await plan(house)
    assert planned.strategy == "objects"
    assert "there whole in about 1.1 s as objects, in 52" in planned.why
    here.luggage = LUGGAGE.model_copy(update={"size_bytes": 4 * GIGABYTE})
    planned = await plan(house)
    assert planned.strategy == "lazy"
    assert "only for half its time" in planned.why
    here.luggage = LOSING
    planned = await plan(house, may_lose=["*"])
    assert (planned.strategy, planned.luggage) == ("lazy", LOSING), "what CRIU carries is not given up for speed"
    here.inspection = LARGE.model_copy(update={"processes": 3})
    here.luggage = LUGGAGE
    assert (await plan(house)).strategy == "lazy", "a process that the kernel has started"
    asked = looks(here)
    here.inspection = LARGE
    house.controller.activities.heard(view.id, Activity(executing=True, at=1.0))
    assert (await plan(house)).strategy == "lazy"
    assert looks(here) == asked, "never while a cell runs"


async def test_who_asks_in_a_cell_goes_when_that_has_ended(house: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "SETTLE_SECONDS", 0.05)
    here, there = await plain(house)
    here.luggage = Busy("The kernel runs a cell.", "Wait for its end.")
    view = await house.client.session("analysis")
    asked = wire.VerbAsked(session=view.id, incarnation=1, verb="v", name="move", arguments={"to": "there"})
    await here.report(asked)
    answer = await here.heard_of(wire.AnswerVerb)
    assert (answer.ok, answer.body["later"], answer.body["plan"]["strategy"]) == (True, True, "objects")
    await eventually(lambda: looks(here) >= 2)
    assert touched(there) == []
    here.luggage = LUGGAGE
    assert (await there.heard_of(wire.PrepareArrival)).strategy == "objects"


async def test_why_it_stayed_after_all_is_told_in_the_next_cell(
    house: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "SETTLE_SECONDS", 0.01)
    here, there = await plain(house)
    here.luggage = LOSING
    view = await house.client.session("analysis")
    known = {"session": view.id, "incarnation": 1}
    await here.report(wire.VerbAsked(verb="v", name="move", arguments={"to": "there"}, **known))
    await here.heard_of(wire.AnswerVerb, 2)
    await here.report(wire.VerbAsked(verb="w", name="where", **known))
    assert "gen: a running generator" in (await here.heard_of(wire.AnswerVerb, 3)).body["stayed"]
    await asyncio.sleep(0)
    assert touched(here, there) == []


async def test_ways_say_where_only_objects_can_go(house: Running) -> None:
    await house.node("here")
    await house.node("mac", **PLAIN)
    gone = await house.node("gone")
    await gone.hang_up()
    ways = {(way.source, way.target): (bool(way.obstacles), way.objects) for way in await house.client.ways()}
    assert ways["here", "mac"] == (True, True)
    assert ways["here", "gone"] == (True, False)
