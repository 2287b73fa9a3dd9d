"""Images between nodes: a controller that listens, and agents that have images only by hearsay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.fake_agent import FakeAgent, fill, image, thaw
from tests.integration.test_controller import SPEC, Running, running

from sojourn import wire
from sojourn.errors import DoesNotFit, Incompatible, Refused, SandboxFailed, Unknown
from sojourn.tickets import verify

pytestmark = pytest.mark.integration

MINE = image("localhost/mine:1", env={"PATH": "/opt/conda/bin"})
FROM_MINE = SPEC.model_copy(update={"image": "localhost/mine:1"})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, store=f"file://{tmp_path}/store") as found:
        yield found


async def nodes(house: Running, **has: dict[str, Any]) -> list[FakeAgent]:
    """Nodes of these names with these images, by name; all but `here` are labelled."""
    found = []
    for name, images in has.items():
        agent = house.agent(name, labels=() if name == "here" else ("away",))
        agent.images = dict(images)
        await agent.dial()
        found.append(agent)
    return found


async def fetched(agent: FakeAgent, request: str, error: dict[str, str] | None = None) -> None:
    await agent.report(wire.ImageFetched(request=request, image=None if error else MINE, error=error), 0)


async def ended(house: Running) -> list[Any]:
    found = await house.client.transfers()
    async with asyncio.timeout(10):
        while any(one.ended_at is None for one in found):
            found = await house.client.transfers()
    return found


# ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_starts_where_its_image_is_and_keeps_that_very_one(house: Running) -> None:
    _, there = await nodes(house, here={}, there={"localhost/mine:1": MINE})
    await house.client.start(FROM_MINE)
    started = await there.heard_of(wire.StartSandbox)
    assert started.spec.pinned == MINE
    there.images = {"localhost/mine:1": image("another")}
    assert (await house.client.spec("analysis")).pinned == MINE


async def test_an_image_that_is_nowhere_is_refused_with_the_command_that_fetches_it(house: Running) -> None:
    await nodes(house, here={}, there={})
    with pytest.raises(DoesNotFit, match="here: it has no image localhost/mine:1") as reason:
        await house.client.start(FROM_MINE)
    assert "`sojourn image pull localhost/mine:1`" in reason.value.hint


async def test_what_was_asked_to_be_pinned_is_not_believed(house: Running) -> None:
    (here,) = await nodes(house, here={"localhost/mine:1": MINE})
    await house.client.start(FROM_MINE.model_copy(update={"pinned": image("another")}))
    assert (await here.heard_of(wire.StartSandbox)).spec.pinned == MINE


# ── moving ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_move_brings_the_image_along_first(house: Running) -> None:
    here, there = await nodes(house, here={"localhost/mine:1": MINE}, there={})
    session = await house.session(FROM_MINE)
    plan = (await house.client.move(session.id, "there", dry_run=True)).plan
    assert (plan.fits, plan.image, plan.image_bytes) == (True, "localhost/mine:1", MINE.size_bytes)
    moving = asyncio.create_task(house.client.move(session.id, "there", wait="filled"))
    sent = await here.heard_of(wire.SendImage)
    claims = verify(sent.ticket, there.key, time.time())
    assert (sent.image, sent.target, claims["image"], claims["name"]) == (MINE.id, "there", MINE.id, "localhost/mine:1")
    assert not [asked for asked in there.heard if isinstance(asked, wire.PrepareArrival)]
    await there.report(wire.ImageProgressed(request=claims["request"], done_bytes=9, total_bytes=10, step="…"), 0)
    await fetched(there, claims["request"])
    await thaw(there)
    await fill(there)
    shipment = (await moving).move.report.shipments[0]
    assert (shipment.what, shipment.total_bytes) == ("image", MINE.size_bytes)


async def test_an_image_that_does_not_come_keeps_the_session_where_it_is(house: Running) -> None:
    here, there = await nodes(house, here={"localhost/mine:1": MINE}, there={})
    session = await house.session(FROM_MINE)
    moving = asyncio.create_task(house.client.move(session.id, "there"))
    claims = verify((await here.heard_of(wire.SendImage)).ticket, there.key, time.time())
    await fetched(there, claims["request"], DoesNotFit("There is no room for it.", "Free some.").to_wire())
    with pytest.raises(DoesNotFit, match="could not be brought to there: There is no room") as reason:
        await moving
    assert "`sojourn image pull localhost/mine:1 --node there`" in reason.value.hint
    assert (await house.client.session(session.id)).node == "here"


async def test_of_two_nodes_the_one_that_has_the_image_is_preferred(house: Running) -> None:
    has = {"localhost/mine:1": MINE}
    await nodes(house, here=has, another=has, there={})
    session = await house.session(FROM_MINE)
    plan = (await house.client.move(session.id, "away", dry_run=True)).plan
    assert (plan.target, plan.image) == ("another", "")


async def test_a_wake_brings_the_image_along(house: Running) -> None:
    here, there = await nodes(house, here={"localhost/mine:1": MINE}, there={})
    session = await house.session(FROM_MINE)
    await house.client.suspend(session.id)
    waking = asyncio.create_task(house.client.resume(session.id, "there"))
    claims = verify((await here.heard_of(wire.SendImage)).ticket, there.key, time.time())
    await fetched(there, claims["request"])
    assert (await waking).node == "there"


async def test_a_registry_that_has_another_one_by_now_is_no_source_for_a_wake(house: Running) -> None:
    here, there = await nodes(house, here={"localhost/mine:1": MINE}, there={})
    session = await house.session(FROM_MINE)
    await house.client.suspend(session.id)
    await here.hang_up()
    waking = asyncio.create_task(house.client.resume(session.id, "there"))
    asked = await there.heard_of(wire.PullImage)
    await there.report(wire.ImageFetched(request=asked.request, image=image("another")), 0)
    with pytest.raises(Incompatible, match="stands for another image by now"):
        await waking


# ── pulling ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_registry_is_tried_first_and_then_a_node_that_has_it(house: Running) -> None:
    python = image("docker.io/library/python:3.12")
    here, there = await nodes(house, here={"python": python}, there={})
    (transfer,) = await house.client.pull_image("python", ["there"])
    assert transfer.way == "registry"
    asked = await there.heard_of(wire.PullImage)
    await fetched(there, asked.request, SandboxFailed("No such host.").to_wire())
    claims = verify((await here.heard_of(wire.SendImage)).ticket, there.key, time.time())
    await there.report(wire.ImageFetched(request=claims["request"], image=python), 0)
    (transfer,) = await ended(house)
    assert (transfer.way, transfer.error, transfer.image) == ("here", None, python.id)


async def test_what_was_built_on_a_node_is_never_sought_in_a_registry(house: Running) -> None:
    older = image("older", names=("localhost/mine:1",), created_at=0.5)
    here, there, third = await nodes(house, here={"mine": MINE}, there={"mine": older}, third={"mine": MINE})
    begun = {one.node: one for one in await house.client.pull_image("mine")}
    assert begun["third"].ended_at
    assert begun["there"].image == MINE.id
    assert (await here.heard_of(wire.SendImage)).target == "there"
    assert not [one for agent in (here, there, third) for one in agent.heard if isinstance(one, wire.PullImage)]


async def test_who_asks_may_bring_it(house: Running) -> None:
    (there,) = await nodes(house, there={})
    (transfer,) = await house.client.pull_image("localhost/mine:1", own=MINE)
    transfer = (await house.client.transfers())[0]
    claims = verify(transfer.place.ticket, there.key, time.time())
    assert (transfer.way, claims["for"], claims["image"]) == ("", "image", MINE.id)
    await fetched(there, claims["request"])
    (transfer,) = await ended(house)
    assert (transfer.place, transfer.error) == (None, None)


async def test_what_nobody_has_is_unknown(house: Running) -> None:
    await nodes(house, here={})
    with pytest.raises(Unknown, match="in no registry"):
        await house.client.pull_image("localhost/mine:1")


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────


async def test_images_are_listed_with_their_nodes_and_sessions(house: Running) -> None:
    unnamed = image("x", names=())
    await nodes(house, here={"localhost/mine:1": MINE, "x": unnamed}, there={"localhost/mine:1": MINE})
    await house.session(FROM_MINE)
    (view,) = await house.client.images()
    assert (view.image.id, view.nodes, view.sessions) == (MINE.id, ("here", "there"), ("analysis",))


async def test_the_last_image_of_a_session_that_sleeps_stays(house: Running) -> None:
    has = {"localhost/mine:1": MINE}
    here, there = await nodes(house, here=has, there=has)
    session = await house.session(FROM_MINE)
    await house.client.suspend(session.id)
    assert (await house.client.remove_image("localhost/mine:1", "there")).nodes == {"there": None}
    there.images = {}
    with pytest.raises(Refused, match="sleeps, and needs image"):
        await house.client.remove_image("localhost/mine:1")
    assert not [asked for asked in here.heard if isinstance(asked, wire.RemoveImage)]
