"""A fleet of unlike nodes: who can move where and why not, and sessions that are started for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.test_controller import SPEC, Running, running

from sojourn import wire
from sojourn.errors import Incompatible
from sojourn.model import Baseline, SessionSpec

pytestmark = pytest.mark.integration

AVX2 = ("avx", "avx2", "sse4_2", "xsavec")
AVX512 = (*AVX2, "avx512f", "pti")
GREAT, SMALL = {"cpu_flags": AVX512, "xsave_bytes": 2696}, {"cpu_flags": AVX2, "xsave_bytes": 832}
FLEET = SPEC.model_copy(update={"cpu": "fleet"})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, store=f"file://{tmp_path}/store") as found:
        yield found


async def refused(house: Running, session: str, to: str) -> str:
    with pytest.raises(Incompatible) as reason:
        await house.client.move(session, to)
    return str(reason.value)


async def test_a_session_of_its_nodes_cpu_stays_and_one_of_the_fleets_may_go(house: Running) -> None:
    here, there = await house.node("here", **GREAT), await house.node("there", **SMALL)
    of_node, of_fleet = await house.session(), await house.session(FLEET.model_copy(update={"name": "roaming"}))
    assert "lacks avx512f, which the session may use.\nChoose another node, or start sessions for the whole" in (
        await refused(house, of_node.id, "there")
    )
    assert (await house.client.move(of_fleet.id, "there", dry_run=True)).plan.fits
    assert not [asked for asked in there.heard if isinstance(asked, wire.PrepareArrival)]
    born = (await here.heard_of(wire.StartSandbox, 2)).spec.baseline
    assert born.flags == ("avx", "avx2", "sse4_2", "xsavec")
    assert "-AVX512F" in born.env["GLIBC_TUNABLES"]


async def test_a_node_that_joins_later_with_less_is_refused_by_the_flags_it_lacks(house: Running) -> None:
    await house.node("here", **GREAT)
    session = await house.session(FLEET)
    await house.node("there", **SMALL)
    assert "lacks avx512f, which the fleet had when the session was started" in await refused(
        house, session.id, "there"
    )


async def test_the_baseline_is_the_controllers_to_set(house: Running) -> None:
    await house.node("here", **GREAT)
    made_up = Baseline(flags=())
    for name, cpu in (("one", "node"), ("two", "fleet")):
        await house.session(SPEC.model_copy(update={"name": name, "cpu": cpu, "baseline": made_up}))
    assert (await house.client.spec("one")).baseline is None
    assert (await house.client.spec("two")).baseline not in (None, made_up)


async def test_what_sleeps_wakes_where_its_baseline_is(house: Running) -> None:
    await house.node("here", **GREAT)
    await house.node("there", **SMALL)
    for name, cpu in (("settled", "node"), ("roaming", "fleet")):
        session = await house.session(SPEC.model_copy(update={"name": name, "cpu": cpu}))
        await house.client.suspend(session.id)
    assert (await house.client.resume("roaming", to="there")).node == "there"
    with pytest.raises(Incompatible, match="lacks avx512f"):
        await house.client.resume("settled", to="there")


async def test_another_architecture_is_refused_before_the_freeze(house: Running) -> None:
    here = await house.node("here", **GREAT)
    raspberry = await house.node("raspberry", arch="aarch64", cpu_flags=("asimd",), root_id="other")
    session = await house.session(FLEET.model_copy(update={"image": "python:3.12"}))
    assert "The target is aarch64, the session runs on x86_64." in await refused(house, session.id, "raspberry")
    assert not [asked for asked in (*here.heard, *raspberry.heard) if isinstance(asked, wire.Depart)]
    assert (await house.client.spec(session.id)).baseline == Baseline(
        flags=("avx", "avx2", "avx512f", "sse4_2", "xsavec"),
        env=(await here.heard_of(wire.StartSandbox)).spec.baseline.env,
    ), "an arm takes nothing from this fleet's CPU"


async def test_every_way_tells_everything_that_stands_in_it(house: Running) -> None:
    await house.node("great", **GREAT)
    small = await house.node("small", root_id="elsewhere", **SMALL)
    await house.node("arm", arch="aarch64")
    no_root = {"runc": "runc sandboxes need root"}
    await house.node("laptop", sandboxes=("process",), strategies=(), refusals=no_root, criu=None, **SMALL)
    await small.hang_up()
    await house.client.drain("great")
    ways = {(way.source, way.target): way for way in await house.client.ways()}
    kinds = {pair: [obstacle.kind for obstacle in way.obstacles] for pair, way in ways.items()}
    assert len(kinds) == 12
    assert kinds["great", "small"] == ["offline", "cpu", "registers"]
    assert kinds["small", "great"] == ["offline", "draining"]
    assert kinds["great", "arm"] == ["arch"]
    assert kinds["great", "laptop"] == ["live", "cpu", "registers"]
    (message,) = {obstacle.message for obstacle in ways["arm", "laptop"].obstacles if obstacle.kind == "live"}
    assert message == "laptop can't take live moves: runc sandboxes need root."


def test_rows_from_before_there_were_baselines_are_read() -> None:
    old = '{"name": "k", "program": {"argv": ["python"]}, "image": null}'
    assert SessionSpec.model_validate_json(old).cpu == "node"
