# ruff: noqa: ASYNC110 (what is looked for is on the other side of an API)
"""The real controller on a real port, with agents that speak the wire protocol but hold nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy.exc import DataError, OperationalError
from tests.integration.fake_agent import FakeAgent, fill, thaw
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sojourn import wire
from sojourn.client import AsyncClient, Client, Watched
from sojourn.client.words import TokenRequest
from sojourn.controller import Controller, reconciler
from sojourn.controller.app import build_app
from sojourn.database import Database, sqlite_url
from sojourn.database import queries as ask
from sojourn.errors import (
    Busy,
    DoesNotFit,
    Immovable,
    Incompatible,
    Invalid,
    MoveFailed,
    Refused,
    SessionLost,
    SojournError,
    Unauthorized,
    Unknown,
    Unreachable,
    from_wire,
)
from sojourn.lifecycle import Limits
from sojourn.model import (
    Inspection,
    Load,
    MovePhase,
    NodeStatus,
    Program,
    SessionLoad,
    SessionSpec,
    SessionStatus,
    SessionView,
)
from sojourn.tickets import verify

pytestmark = pytest.mark.integration

QUICK = Limits(fence_s=0.4, answer_s=5.0)
SPEC = SessionSpec(name="analysis", program=Program(argv=("python",)))


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


class Running:
    """A controller that listens, its client, and agents that hang up at the end."""

    def __init__(self, controller: Controller, url: str, client: AsyncClient) -> None:
        self.controller, self.url, self.client = controller, url, client
        self.join_token = controller.gate.create(TokenRequest(kind="join", name="test"), time.time())[1]
        self.agents: list[FakeAgent] = []

    def agent(self, name: str, **changes: Any) -> FakeAgent:
        agent = FakeAgent(self.url, self.join_token, name, **changes)
        self.agents.append(agent)
        return agent

    async def node(self, name: str, **changes: Any) -> FakeAgent:
        agent = self.agent(name, **changes)
        answer = await agent.dial()
        assert isinstance(answer, wire.Welcome)
        return agent

    async def pair(self) -> tuple[FakeAgent, FakeAgent]:
        return await self.node("here"), await self.node("there", labels=("gpu",))

    async def session(self, spec: SessionSpec = SPEC) -> SessionView:
        """A session that runs at `here`."""
        started = await self.client.start(
            spec.model_copy(update={"needs": spec.needs.model_copy(update={"node": "here"})})
        )
        return await self.until(started.id, lambda view: view.status is SessionStatus.RUNNING)

    async def until(self, session: str, reached: Callable[[SessionView], bool]) -> SessionView:
        async with asyncio.timeout(10):
            while not reached(view := await self.client.session(session)):
                await asyncio.sleep(0.01)
        return view


@asynccontextmanager
async def running(folder: Path, limits: Limits = QUICK, **options: Any) -> AsyncIterator[Running]:
    database = Database(sqlite_url(folder / "sojourn.db"))
    controller = Controller(database, limits=limits, **options)
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(controller), port=0, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1
        )
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    secret = controller.gate.create(TokenRequest(kind="api", name="ada", admin=True), time.time())[1]
    async with AsyncClient(url, secret) as client:
        house = Running(controller, url, client)
        try:
            yield house
        finally:
            for agent in house.agents:
                await agent.hang_up()
            server.should_exit = True
            await serving
            database.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as found:
        yield found


# ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_node_joins_and_comes_back_with_its_own_token(house: Running) -> None:
    agent = await house.node("here")
    assert agent.token != house.join_token
    await agent.hang_up()
    while (await house.client.nodes())[0].status is NodeStatus.ONLINE:
        await asyncio.sleep(0.01)
    key = agent.key
    assert isinstance(await agent.dial(), wire.Welcome)
    assert agent.key == key
    (node,) = await house.client.nodes()
    assert (node.name, node.status, node.address) == ("here", NodeStatus.ONLINE, "127.0.0.1:7000")


async def test_a_heartbeat_brings_the_load(house: Running) -> None:
    await house.node("here")
    while not (await house.client.nodes())[0].load.memory_free_bytes:
        await asyncio.sleep(0.01)


async def test_a_wrong_token_is_refused_at_the_door(house: Running) -> None:
    agent = house.agent("here")
    agent.token = "sojourn_join_guessed"
    with pytest.raises(InvalidStatus) as refused:
        await agent.dial()
    assert refused.value.response.status_code == 403


async def test_another_protocol_is_turned_away_with_a_word(house: Running) -> None:
    agent = house.agent("here")
    agent.protocol = 99
    answer = await agent.dial()
    assert isinstance(answer, wire.Turned)
    error = from_wire(answer.error)
    assert isinstance(error, Incompatible)
    assert "99" in error.message
    assert await house.client.nodes() == []


async def test_a_taken_name_is_turned_away(house: Running) -> None:
    await house.node("here")
    answer = await house.agent("here", machine_id="another").dial()
    assert isinstance(answer, wire.Turned)
    assert "named here" in answer.error["message"]


async def test_a_join_token_with_one_use_joins_one_node(house: Running) -> None:
    shown = await house.client.create_token("join", "once", uses=1)
    first, second = house.agent("here"), house.agent("there")
    first.token = second.token = shown["token"]
    assert isinstance(await first.dial(), wire.Welcome)
    with pytest.raises(InvalidStatus):
        await second.dial()


async def test_a_node_that_is_forgotten_loses_its_sessions_and_its_token(house: Running) -> None:
    here = await house.node("here")
    view = await house.session()
    with pytest.raises(SojournError):
        await _delete(house, "/api/nodes/here")
    await here.hang_up()
    await asyncio.sleep(0.1)
    await _delete(house, "/api/nodes/here")
    assert (await house.client.session(view.id)).status is SessionStatus.LOST
    with pytest.raises(InvalidStatus):
        await here.dial()


async def _delete(house: Running, path: str) -> None:
    headers = {"Authorization": f"Bearer {house.client._token}"}
    async with httpx.AsyncClient(base_url=house.url, headers=headers, trust_env=False) as http:
        answer = await http.delete(path)
    if answer.status_code >= 400:
        raise from_wire(answer.json())


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_starts_and_stops(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    assert (view.node, view.sandbox, view.incarnation, view.owner) == ("here", "runc", 1, "ada")
    assert (await house.client.session("analysis")).id == view.id
    assert (await house.client.session(view.id[:6])).id == view.id
    assert await house.client.log("analysis") == "log at here"
    await house.client.stop("analysis")
    await house.until(view.id, lambda now: now.status is SessionStatus.STOPPED)
    assert await house.client.sessions() == []
    assert [one.id for one in await house.client.sessions(everything=True)] == [view.id]
    assert here.acknowledged == 2


async def test_a_name_is_taken_once(house: Running) -> None:
    await house.pair()
    await house.session()
    with pytest.raises(Refused, match="named analysis"):
        await house.client.start(SPEC)
    assert len(await house.client.sessions()) == 1


async def test_a_session_for_which_there_is_no_room(house: Running) -> None:
    await house.pair()
    needs = SPEC.needs.model_copy(update={"memory_bytes": 2**50})
    with pytest.raises(DoesNotFit, match=r"here: .*there: ") as refused:
        await house.client.start(SPEC.model_copy(update={"needs": needs}))
    assert refused.value.hint
    assert await house.client.sessions() == []


async def test_a_program_that_ends_its_session(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session(SPEC.model_copy(update={"ends_with_program": True}))
    await here.report(wire.ProgramExited(session=view.id, incarnation=1, code=3))
    ended = await house.until(view.id, lambda now: now.status is SessionStatus.STOPPED)
    assert "code 3" in ended.reason


async def test_sessions_are_their_owners(house: Running) -> None:
    await house.pair()
    view = await house.session()
    shown = await house.client.create_token("api", "eve")
    async with AsyncClient(house.url, shown["token"]) as eve:
        assert await eve.sessions() == []
        with pytest.raises(Unknown):
            await eve.stop(view.id)
        with pytest.raises(Unauthorized):
            await eve.create_token("api", "ada")
    await house.client.revoke_token(shown["id"])
    async with AsyncClient(house.url, shown["token"]) as eve:
        with pytest.raises(Unauthorized):
            await eve.sessions()


async def test_what_a_session_uses_is_its_owners_to_see(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    await here._say(wire.Heartbeat(load=Load(memory_free_bytes=7, used=(SessionLoad(session=view.id),))))
    await eventually(lambda: house.controller.roster.view("here").load.memory_free_bytes == 7)
    shown = await house.client.create_token("api", "eve")
    assert [one.session for node in await house.client.nodes() for one in node.load.used] == [view.id]
    async with AsyncClient(house.url, shown["token"]) as eve:
        assert [one.load.used for one in await eve.nodes()] == [(), ()]


async def test_secrets_are_shown_once_and_not_kept(house: Running, tmp_path: Path) -> None:
    shown = await house.client.create_token("api", "bob")
    assert all("token" not in row for row in await house.client.tokens())
    written = await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in tmp_path.iterdir()))
    assert b"bob" in written
    assert shown["token"].encode() not in written


# ── moves ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_move_from_end_to_end(house: Running) -> None:
    here, there = await house.pair()
    view = await house.session()
    here.inspection = here.inspection.model_copy(update={"outside_connections": ("tcp 10.0.0.1:5432",)})
    moving = asyncio.create_task(house.client.move("analysis", "there"))
    depart = await here.heard_of(wire.Depart)
    assert depart.address == there.address
    claims = verify(depart.ticket, there.key, time.time())
    assert (claims["for"], claims["incarnation"], claims["move"]) == ("move", 2, depart.move)
    assert not moving.done()
    await thaw(there)
    moved = await moving
    assert moved.move
    assert (moved.session.node, moved.session.incarnation, moved.session.epoch) == ("there", 2, 1)
    assert (moved.session.status, moved.move.phase) == (SessionStatus.FILLING, MovePhase.FILLING)
    assert moved.move.report.frozen_s == 0.12
    with pytest.raises(Busy):
        await house.client.move("analysis", "here")
    await fill(there)
    await house.until(view.id, lambda now: now.move is None)
    (done,) = await house.client.moves()
    assert (done.phase, done.report.frozen_s, done.report.filled_s) == (MovePhase.DONE, 0.12, 0.5)
    assert done.report.connections_reset == ("tcp 10.0.0.1:5432",)
    assert [one.do for one in here.heard][-1] == "commit_move"


async def test_the_next_move_waits_while_the_last_ones_source_frees_its_copy(house: Running) -> None:
    here, there = await house.pair()
    view = await house.session()
    here.silent = {"commit_move"}
    moving = asyncio.create_task(house.client.move("analysis", "there"))
    await here.heard_of(wire.Depart)
    await thaw(there)
    await moving
    await fill(there)
    commit = await here.heard_of(wire.CommitMove)
    assert (await house.client.session(view.id)).status is SessionStatus.RUNNING
    back = asyncio.create_task(house.client.move("analysis", "here"))
    await asyncio.sleep(0.1)
    assert not back.done()
    assert not [one for one in there.heard if isinstance(one, wire.Depart)]
    await here.report(wire.MoveCommitted(move=commit.move, session=view.id))
    await there.heard_of(wire.Depart)
    await thaw(here, incarnation=3)
    assert (await back).session.node == "here"


async def test_there_already(house: Running) -> None:
    await house.pair()
    await house.session()
    moved = await house.client.move("analysis", "here")
    assert (moved.move, moved.plan.target, moved.plan.fits) == (None, "here", True)


async def test_a_label_and_a_need_choose_the_node(house: Running) -> None:
    await house.pair()
    await house.session()
    planned = await house.client.move("analysis", "gpu mem>=1G", dry_run=True)
    assert (planned.plan.target, planned.plan.fits, planned.plan.strategy) == ("there", True, "lazy")
    assert planned.move is None
    assert (await house.client.session("analysis")).status is SessionStatus.RUNNING


@pytest.mark.parametrize(
    ("place", "error"),
    [("nowhere", Unknown), ("here there", Invalid), ("mem>=9000G", DoesNotFit), ("~", Invalid), ("", Invalid)],
)
async def test_a_place_that_is_none(house: Running, place: str, error: type[SojournError]) -> None:
    here, there = await house.pair()
    await house.session()
    with pytest.raises(error) as refused:
        await house.client.move("analysis", place)
    assert refused.value.hint
    assert not [one for one in here.heard + there.heard if one.do in ("depart", "prepare_arrival")]


async def test_what_cannot_be_frozen_is_refused_before(house: Running) -> None:
    here, there = await house.pair()
    await house.session()
    here.inspection = Inspection(blockers=("/dev/nvidia0 is open in process 12",))
    planned = await house.client.move("analysis", "there", dry_run=True)
    assert not planned.plan.fits
    with pytest.raises(Immovable, match="nvidia0"):
        await house.client.move("analysis", "there")
    assert [one.do for one in there.heard] == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arch": "aarch64"}, "aarch64"),
        ({"sandboxes": ("process",)}, "runc"),
        ({"strategies": (), "refusals": {"copy": "no criu"}}, "no criu"),
    ],
)
async def test_another_kind_of_node_is_refused(house: Running, changes: dict[str, Any], reason: str) -> None:
    await house.node("here")
    there = await house.node("there", **changes)
    await house.session()
    with pytest.raises((DoesNotFit, Incompatible), match=reason):
        await house.client.move("analysis", "there")
    assert there.heard == []


async def test_an_offline_node_is_refused(house: Running) -> None:
    _, there = await house.pair()
    await house.session()
    await there.hang_up()
    await asyncio.sleep(0.1)
    with pytest.raises(Unreachable, match="there"):
        await house.client.move("analysis", "there")


async def test_a_target_that_stumbles_before_the_freeze(house: Running) -> None:
    here, there = await house.pair()
    await house.session()
    there.silent = {"prepare_arrival"}
    moving = asyncio.create_task(house.client.move("analysis", "there"))
    asked = await there.heard_of(wire.PrepareArrival)
    error = {"code": "sandbox_failed", "message": "the image is missing", "hint": "podman pull it"}
    await there.report(
        wire.MoveStumbled(move=asked.move, session=asked.session, side="target", resumed=False, error=error)
    )
    with pytest.raises(MoveFailed, match="image is missing") as failed:
        await moving
    assert "podman pull it" in failed.value.hint
    await there.heard_of(wire.AbandonArrival)
    view = await house.client.session("analysis")
    assert (view.status, view.node, view.incarnation) == (SessionStatus.RUNNING, "here", 1)
    assert not [one for one in here.heard if one.do in ("depart", "roll_back_move")]


async def test_a_target_that_dies_while_filling(house: Running) -> None:
    here, there = await house.pair()
    view = await house.session()
    moving = asyncio.create_task(house.client.move("analysis", "there"))
    await here.heard_of(wire.Depart)
    await thaw(there)
    await moving
    await there.hang_up()
    back = await here.heard_of(wire.RollBackMove)
    assert (back.incarnation, back.epoch) == (3, 2)
    now = await house.until(view.id, lambda now: now.status is SessionStatus.RUNNING)
    assert (now.node, now.incarnation, now.epoch) == ("here", 3, 2)
    assert "there" in now.reason
    there.held = (wire.Held(session=view.id, incarnation=2, state="filling", move=back.move),)
    await there.dial()
    await there.heard_of(wire.AbandonArrival)


async def test_a_move_is_cancelled(house: Running) -> None:
    _, there = await house.pair()
    await house.session()
    there.silent = {"prepare_arrival"}
    accepted = await house.client.move("analysis", "there", wait="accepted")
    assert accepted.move
    cancelled = await house.client.cancel_move(accepted.move.id)
    assert cancelled.phase is MovePhase.FAILED
    await there.heard_of(wire.AbandonArrival)
    assert (await house.client.session("analysis")).status is SessionStatus.RUNNING


async def test_a_stop_in_the_middle_of_a_move(house: Running) -> None:
    here, there = await house.pair()
    view = await house.session()
    here.silent = {"depart"}
    moving = asyncio.create_task(house.client.move("analysis", "there"))
    await here.heard_of(wire.Depart)
    await house.client.stop("analysis")
    with pytest.raises(MoveFailed, match="stopped"):
        await moving
    await house.until(view.id, lambda now: now.status is SessionStatus.STOPPED)
    assert (await here.heard_of(wire.StopSandbox)).incarnation == 1
    assert (await there.heard_of(wire.StopSandbox)).incarnation == 2


async def test_a_lost_session_comes_back_with_its_node(tmp_path: Path) -> None:
    async with running(tmp_path, dead_s=0.3) as house:
        here = await house.node("here")
        view = await house.session()
        here.held = (wire.Held(session=view.id, incarnation=1, state="running"),)
        await here.hang_up()
        lost = await house.until(view.id, lambda now: now.status is SessionStatus.LOST)
        assert "here" in lost.reason
        with pytest.raises(SessionLost):
            await house.client.move("analysis", "here")
        await here.dial()
        await house.until(view.id, lambda now: now.status is SessionStatus.RUNNING)


async def test_an_unknown_session_on_a_node_is_stopped(house: Running) -> None:
    here = house.agent("here")
    here.held = (wire.Held(session="f" * 32, incarnation=4, state="running"),)
    await here.dial()
    assert (await here.heard_of(wire.StopSandbox)).incarnation == 4


# ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_watcher_sees_every_place_in_time(house: Running) -> None:
    here, there = await house.pair()
    view = await house.session()
    here.silent = {"depart"}
    seen: asyncio.Queue[Watched] = asyncio.Queue()

    async def watch() -> None:
        async for sight in house.client.watch(view.id, anchor="a1"):
            seen.put_nowait(sight)

    async def sight(reached: Callable[[Watched], bool]) -> Watched:
        async with asyncio.timeout(10):
            while not reached(found := await seen.get()):
                pass
        return found

    watching = asyncio.create_task(watch())
    first = await sight(lambda _: True)
    assert first.place
    claims = verify(first.place.ticket, here.key, time.time())
    assert (claims["for"], claims["anchor"], claims["incarnation"]) == ("tunnel", "a1", 1)
    moving = asyncio.create_task(house.client.move("analysis", "there"))
    prepared = await sight(lambda found: found.next_place is not None)
    assert prepared.next_place
    assert prepared.place
    assert (prepared.place.node, prepared.next_place.node, prepared.next_place.incarnation) == ("here", "there", 2)
    assert verify(prepared.next_place.ticket, there.key, time.time())["incarnation"] == 2
    await thaw(there)
    thawed = await sight(lambda found: found.place is not None and found.place.node == "there")
    assert thawed.place
    assert (thawed.place.incarnation, thawed.next_place) == (2, None)
    assert thawed.move
    await moving
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_watcher_without_an_anchor_gets_no_ticket_and_a_stranger_an_error(house: Running) -> None:
    await house.pair()
    view = await house.session()
    async for sight in house.client.watch(view.id):
        assert (sight.session.id, sight.place) == (view.id, None)
        break
    with pytest.raises(Unknown):
        async for _ in house.client.watch("nobody"):
            pass


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_asks_and_moves_itself(house: Running) -> None:
    here, there = await house.pair()
    view = await house.session()
    await here.report(wire.VerbAsked(session=view.id, incarnation=1, verb="v1", name="where"))
    answer = await here.heard_of(wire.AnswerVerb)
    assert answer.ok
    assert answer.body["session"]["node"] == "here"
    for number in (None, None):  # the rider may ask twice; it moves once
        await here.report(
            wire.VerbAsked(session=view.id, incarnation=1, verb="v2", name="move", arguments={"to": "there"}), number
        )
    await here.heard_of(wire.Depart)
    await thaw(there)
    answer = await there.heard_of(wire.AnswerVerb)
    assert (answer.verb, answer.ok, answer.body["session"]["node"]) == ("v2", True, "there")
    assert answer.body["move"]["report"]["frozen_s"] == 0.12
    assert len(await house.client.moves()) == 1
    await there.report(
        wire.VerbAsked(session=view.id, incarnation=2, verb="v2", name="move", arguments={"to": "there"})
    )
    assert (await there.heard_of(wire.AnswerVerb, 2)).body == answer.body


async def test_a_session_without_a_network_is_told_so_and_a_plan_says_it_before(house: Running) -> None:
    here = await house.node("here")
    await house.node("there", refusals={"network": "pasta is not installed"})
    view = await house.session()
    plan = (await house.client.move(view.id, "there", dry_run=True)).plan
    assert (plan.fits, plan.no_network) == (True, "pasta is not installed")
    for verb, why in enumerate(("", "pasta did not start in time")):
        used = (SessionLoad(session=view.id, no_network=why),)
        await here._say(wire.Heartbeat(load=Load(memory_free_bytes=verb, used=used)))
        await here.report(wire.VerbAsked(session=view.id, incarnation=1, verb=str(verb), name="where"))
        assert (await here.heard_of(wire.AnswerVerb, verb + 1)).body["no_network"] == why


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("move", {"to": "nowhere"}, "unknown"),
        ("move", {"session": "another", "to": "there"}, "invalid"),
        ("stop", {}, "invalid"),
    ],
)
async def test_a_verb_that_means_nothing(house: Running, name: str, arguments: dict[str, object], code: str) -> None:
    here, _ = await house.pair()
    view = await house.session()
    await here.report(wire.VerbAsked(session=view.id, incarnation=1, verb="v", name=name, arguments=arguments))
    answer = await here.heard_of(wire.AnswerVerb)
    assert (answer.ok, answer.body["code"]) == (False, code)


async def test_looking_leaves_nothing_behind(house: Running) -> None:
    """A notebook may ask `where` once a second for a week."""
    here, _ = await house.pair()
    view = await house.session()
    for verb, name in enumerate(("where", "nodes", "x" * 1000)):
        await here.report(wire.VerbAsked(session=view.id, incarnation=1, verb=str(verb), name=name))
        await here.heard_of(wire.AnswerVerb, verb + 1)
    with house.controller.database.transaction() as connection:
        assert ask.verbs(connection) == []


async def test_what_can_never_be_written_down_is_told_once(house: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told again it would fail again, for ever, and the node would be lost with it."""
    here, _ = await house.pair()
    view = await house.session()

    def too_long(*_: object) -> None:
        raise DataError("INSERT", None, Exception("value too long"))

    monkeypatch.setattr(ask, "add_verb", too_long)
    await here.report(wire.VerbAsked(session=view.id, incarnation=1, verb="v", name="move"))
    await eventually(lambda: here.acknowledged == here._number)
    assert house.controller.roster.online("here")


async def test_a_node_whose_return_fails_is_not_taken_for_present(
    house: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("UPDATE", None, Exception("database or disk is full"))

    monkeypatch.setattr(house.controller.reconciler, "node_returned", fail)
    with suppress(ConnectionClosed):
        await house.agent("here").dial()
    await eventually(lambda: not house.controller.roster.online("here"))


async def test_what_one_session_can_not_take_the_others_do(house: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.pair()
    first, second = [await house.session(SPEC.model_copy(update={"name": name})) for name in ("one", "two")]
    really, met = reconciler.decide, []

    def decide(session: Any, event: Any, *more: Any) -> Any:
        if session.id == first.id:
            raise ZeroDivisionError
        met.append(session.id)
        return really(session, event, *more)

    monkeypatch.setattr(reconciler, "decide", decide)
    house.controller.reconciler.node_left("here")
    house.controller.reconciler.node_left("there")
    assert met == [second.id]


async def test_a_move_that_was_slept_over_is_not_late(house: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    _, there = await house.pair()
    view = await house.session()
    moving = await house.client.move(view.id, "there", wait="accepted")
    assert moving.move
    await thaw(there)
    await house.until(view.id, lambda view: view.status is SessionStatus.FILLING)
    slept = lambda: time.time() + 7200  # noqa: E731
    for part in (house.controller, house.controller.reconciler):
        monkeypatch.setattr(part, "clock" if part is house.controller else "_clock", slept)
    await asyncio.sleep(0.6)
    assert (await house.client.session(view.id)).status is SessionStatus.FILLING
    await fill(there)
    await house.until(view.id, lambda view: view.status is SessionStatus.RUNNING)


async def test_watchers_get_fresh_tickets_when_the_clock_has_jumped(tmp_path: Path) -> None:
    """As when the machine has slept: asyncio's clock stood still meanwhile."""
    now = time.time()
    controller = Controller(Database(sqlite_url(tmp_path / "db")), clock=lambda: now)
    told: list[str] = []
    controller.watchers.watched = lambda: told.append("asked") or []  # type: ignore[method-assign,func-returns-value]
    controller._tick()
    assert not told
    now += 7200
    controller._tick()
    controller._tick()
    assert told == ["asked"]
    controller.database.close()


async def test_a_node_can_ask_only_for_its_own_sessions(house: Running) -> None:
    _, there = await house.pair()
    view = await house.session()
    await there.report(wire.VerbAsked(session=view.id, incarnation=1, verb="v", name="where"))
    await there.report(wire.SessionDied(session=view.id, incarnation=1, reason="a lie"))
    await asyncio.sleep(0.1)
    assert there.heard == []
    assert (await house.client.session(view.id)).status is SessionStatus.RUNNING


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────


class ControllerProgram:
    """`python -m sojourn.controller`, to be killed and started again on the same folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.listen = home, "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "sojourn.controller", "--listen", self.listen, "--limit", "fence_s=1"]
        environment = {**os.environ, "SOJOURN_HOME": str(self.home)}
        card = self.home / "data" / "controller" / "controller.json"
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=environment, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < deadline
            if card.exists() and (found := json.loads(card.read_text()))["pid"] == self.process.pid:
                break
            time.sleep(0.02)
        self.card, self.mode = found, card.stat().st_mode & 0o777
        self.listen = found["url"].removeprefix("http://")

    def end(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(10)


@pytest.fixture
def program(tmp_path: Path) -> Any:
    found = ControllerProgram(tmp_path)
    yield found
    if found.process.poll() is None:
        found.end()


async def test_killed_at_any_moment_it_goes_on(program: ControllerProgram) -> None:
    """The controller is killed between the preparation and the freeze, after the thaw, and before the commit."""
    here = FakeAgent(program.card["url"], program.card["join_token"], "here")
    there = FakeAgent(program.card["url"], program.card["join_token"], "there")
    agents = (here, there)
    async with AsyncClient(program.card["url"], program.card["token"]) as client:

        async def restart() -> None:
            program.end(signal.SIGKILL)
            program.start()
            for agent in agents:
                await agent.hang_up()
                await agent.dial()

        async def until(**wanted: Any) -> None:
            async with asyncio.timeout(10):
                while wanted.items() - (await client.session("analysis")).model_dump().items():
                    await asyncio.sleep(0.02)

        for agent in agents:
            await agent.dial()
        here.silent = {"depart", "commit_move"}
        view = await client.start(SPEC.model_copy(update={"needs": SPEC.needs.model_copy(update={"node": "here"})}))
        await until(status=SessionStatus.RUNNING)
        accepted = await client.move("analysis", "there", wait="accepted")
        assert accepted.move
        move = accepted.move.id
        first = await here.heard_of(wire.Depart)
        here.held = (wire.Held(session=view.id, incarnation=1, state="running"),)
        there.held = (wire.Held(session=view.id, incarnation=2, state="arriving", move=move),)
        await restart()
        again = await here.heard_of(wire.Depart, 2)
        assert (again.move, again.incarnation) == (first.move, 2)
        here.held = (wire.Held(session=view.id, incarnation=1, state="departed", move=move),)
        there.held = (wire.Held(session=view.id, incarnation=2, state="filling", move=move),)
        await restart()
        await until(status=SessionStatus.FILLING, node="there", incarnation=2)
        await fill(there)
        await here.heard_of(wire.CommitMove)
        there.held = (wire.Held(session=view.id, incarnation=2, state="running"),)
        await restart()
        here.silent = set()
        await here.heard_of(wire.CommitMove, 2)
        await here.report(wire.MoveCommitted(move=move, session=view.id))
        await until(status=SessionStatus.RUNNING, node="there", incarnation=2, move=None)
    for agent in agents:
        await agent.hang_up()


def test_the_card_is_private_and_its_tokens_last(program: ControllerProgram) -> None:
    before = program.card
    assert program.mode == 0o600
    assert program.end() == 0
    program.start()
    assert {**program.card, "pid": 0} == {**before, "pid": 0}
    with Client(program.card["url"], program.card["token"]) as client:
        assert client.version().protocol == wire.PROTOCOL
        assert client.nodes() == []


def test_a_second_controller_on_the_same_database_is_refused(program: ControllerProgram, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "sojourn.controller", "--listen", "127.0.0.1:0"]
    second = subprocess.run(
        argv, env={**os.environ, "SOJOURN_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=20
    )
    assert second.returncode == 1
    assert "Another controller uses the database" in second.stderr


def test_a_controller_that_is_down(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9", "token") as client, pytest.raises(Unreachable, match="does not answer"):
        client.nodes()


async def test_the_openapi_page_describes_every_route(house: Running) -> None:
    async with httpx.AsyncClient(base_url=house.url, trust_env=False) as http:
        page = await http.get("/docs")
        document = (await http.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            assert len(described.get("description", "")) > 20, f"{method} {path}"
            assert f"<b>{method.upper()}</b> <code>{path}</code>" in page.text
    assert "src=" not in page.text  # a machine without the internet shows it too
    assert "://" not in page.text


async def test_a_route_that_is_none_is_an_error_like_any_other(house: Running) -> None:
    async with httpx.AsyncClient(base_url=house.url, trust_env=False) as http:
        for answer in (await http.get("/api/nonsense"), await http.put("/api/nodes")):
            assert answer.status_code in (404, 405)
            assert set(answer.json()) == {"code", "message", "hint"}


async def test_a_stranger_can_not_fill_the_memory(house: Running) -> None:
    async with httpx.AsyncClient(base_url=house.url, trust_env=False) as http:
        answer = await http.post("/api/sessions", content=b'"' + b"x" * (9 << 20))
        assert answer.status_code == 413
        assert (await http.post("/api/sessions", json={})).status_code in (401, 422)
