# ruff: noqa: ASYNC110 (what is looked for is on the other side of an API)
"""The real controller, database and store; agents that save a few bytes and wake nothing: sessions sleep and branch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.fake_agent import FakeAgent, save
from tests.integration.test_controller import Running, eventually, running

from sojourn import wire
from sojourn.chunks import Vault, open_store
from sojourn.client import AsyncClient
from sojourn.controller import Controller, verbs
from sojourn.database import Database, queries, sqlite_url
from sojourn.errors import (
    Busy,
    Damaged,
    DoesNotFit,
    Immovable,
    Incompatible,
    Invalid,
    Refused,
    SaveFailed,
    SojournError,
    StoreFailed,
    Unauthorized,
    Unknown,
    Unreachable,
    WakeFailed,
)
from sojourn.model import CheckpointView, Inspection, SaveView, SessionStatus, SessionView

pytestmark = pytest.mark.integration


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, store=f"file://{tmp_path}/store") as found:
        yield found


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "SETTLE_SECONDS", 0.05)


async def saved(house: Running, name: str = "") -> CheckpointView:
    found = await house.client.checkpoint("analysis", name)
    assert isinstance(found, CheckpointView)
    return found


def stumbled(asked: Any, error: SojournError, resumed: bool = False, side: str = "source") -> wire.MoveStumbled:
    identity = asked.save if isinstance(asked, wire.SaveSession) else asked.wake
    told: dict[str, Any] = {"side": side, "resumed": resumed, "error": error.to_wire()}
    return wire.MoveStumbled(move=identity, session=asked.session, **told)


# ── suspend and resume ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_sleeps_and_wakes_where_it_was_with_its_streams(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    asleep = await house.client.suspend("analysis")
    assert (asleep.status, asleep.node, asleep.save) == (SessionStatus.SUSPENDED, "here", None)
    (found,) = await house.client.checkpoints("analysis")
    assert (found.id, found.kind, found.session_name, found.node) == (asleep.checkpoint, "suspend", "analysis", "here")
    assert found.report.frozen_s == 0.2
    assert [one.do for one in here.heard[-2:]] == ["save_session", "commit_move"]
    awake = await house.client.resume("analysis", wait="filled")
    assert (awake.status, awake.node, awake.incarnation, awake.epoch) == (SessionStatus.RUNNING, "here", 2, view.epoch)
    asked = await here.heard_of(wire.WakeSession)
    assert (asked.checkpoint, asked.incarnation) == (found.id, 2)
    assert asked.store == (await here.heard_of(wire.SaveSession)).store


async def test_wishes_that_are_fulfilled_already_change_nothing(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    assert await house.client.resume("analysis") == view
    asleep = await house.client.suspend("analysis")
    assert await house.client.suspend("analysis") == asleep
    await asyncio.gather(*(house.client.resume("analysis", wait="filled") for _ in range(3)))
    assert len([one for one in here.heard if isinstance(one, wire.WakeSession)]) == 1


async def test_who_wants_it_awake_while_it_falls_asleep_waits_and_wakes_it(house: Running) -> None:
    here, _ = await house.pair()
    await house.session()
    here.silent = {"save_session"}
    falling = await house.client.suspend("analysis", wait="accepted")
    assert (falling.status, bool(falling.save)) == (SessionStatus.SUSPENDING, True)
    waking = asyncio.create_task(house.client.resume("analysis", wait="filled"))
    await asyncio.sleep(0.05)
    assert not waking.done()
    await here._answer(await here.heard_of(wire.SaveSession))
    assert (await waking).status is SessionStatus.RUNNING


async def test_it_wakes_elsewhere_when_told_to_or_when_its_node_is_away(house: Running) -> None:
    here, there = await house.pair()
    await house.session()
    await house.client.suspend("analysis")
    assert (await house.client.resume("analysis", "gpu", wait="filled")).node == "there"
    await house.client.suspend("analysis")
    await there.hang_up()
    await asyncio.sleep(0.05)
    assert (await house.client.resume("analysis", wait="filled")).node == "here"
    assert (await here.heard_of(wire.WakeSession)).incarnation == 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"arch": "aarch64"}, Incompatible),
        ({"cpu_flags": ()}, Incompatible),
        ({"sandboxes": ("process",)}, Incompatible),
    ],
)
async def test_it_does_not_wake_where_it_can_not(house: Running, changes: dict[str, Any], error: type) -> None:
    here = await house.node("here", cpu_flags=("avx512f",))
    await house.node("there", **{"cpu_flags": ("avx512f",)} | changes)
    await house.session()
    await house.client.suspend("analysis")
    with pytest.raises(error):
        await house.client.resume("analysis", "there")
    await here.hang_up()
    await asyncio.sleep(0.05)
    with pytest.raises(DoesNotFit, match=r"here: it is offline; there: "):
        await house.client.resume("analysis")
    assert (await house.client.session("analysis")).status is SessionStatus.SUSPENDED


async def test_the_middle_of_a_cell_is_not_slept_through_unless_asked(house: Running) -> None:
    await house.pair()
    await house.session()
    await house.client.activity("analysis", True, 5.0)
    with pytest.raises(Busy, match="middle of a cell"):
        await house.client.suspend("analysis")
    await house.client.suspend("analysis", force=True)


async def test_what_can_not_be_saved_is_refused_before(house: Running) -> None:
    here, _ = await house.pair()
    await house.session()
    here.inspection = Inspection(blockers=("/dev/nvidia0 is open in process 12",))
    for wish in (house.client.suspend("analysis"), house.client.checkpoint("analysis"), house.client.fork("analysis")):
        with pytest.raises(Immovable, match="nvidia0"):
            await wish
    assert not [one for one in here.heard if one.do == "save_session"]
    assert await house.client.checkpoints() == []


async def test_a_store_that_is_not_there_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with running(tmp_path, store=f"file://{tmp_path}/file/store") as house:
        here, _ = await house.pair()
        await house.session()
        with pytest.raises(StoreFailed):
            await house.client.suspend("analysis")
        assert not [one for one in here.heard if one.do == "save_session"]
        assert (await house.client.session("analysis")).status is SessionStatus.RUNNING


async def test_another_store_at_the_same_address_is_not_taken_for_it(house: Running, tmp_path: Path) -> None:
    await house.pair()
    await house.session()
    await saved(house)
    (tmp_path / "store").rename(tmp_path / "unmounted")
    async with running_again(house, tmp_path) as later:
        with pytest.raises(StoreFailed, match="not the one"):
            await later.vaults.ready()


async def test_a_save_that_fails_leaves_it_awake(house: Running) -> None:
    here, _ = await house.pair()
    await house.session()
    here.silent = {"save_session"}
    falling = asyncio.create_task(house.client.suspend("analysis"))
    asked = await here.heard_of(wire.SaveSession)
    await here.report(stumbled(asked, StoreFailed("The disk is full.", "Make room."), resumed=True))
    with pytest.raises(SaveFailed, match="disk is full") as failed:
        await falling
    assert failed.value.hint == "Make room. It goes on there."
    assert (await house.client.session("analysis")).status is SessionStatus.RUNNING


async def test_a_damaged_checkpoint_is_left_for_an_older_one(house: Running) -> None:
    here, _ = await house.pair()
    await house.session()
    older = await saved(house)
    asleep = await house.client.suspend("analysis")
    here.silent = {"wake_session"}
    waking = asyncio.create_task(house.client.resume("analysis"))
    await here.report(stumbled(await here.heard_of(wire.WakeSession), Damaged("Chunk 1f is missing."), side="target"))
    with pytest.raises(WakeFailed, match="Chunk 1f is missing"):
        await waking
    now = await house.client.session("analysis")
    assert (now.status, now.checkpoint) == (SessionStatus.SUSPENDED, older.id)
    assert asleep.checkpoint
    assert "1f" in (await house.client.checkpoint_view(asleep.checkpoint)).problem
    here.silent = set()
    assert (await house.client.resume("analysis", wait="filled")).epoch == 2


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_checkpoint_is_taken_while_the_session_goes_on(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    found = await saved(house, "before-training")
    assert (found.kind, found.name, found.owner) == ("named", "before-training", "ada")
    assert (await house.client.session("analysis")).incarnation == view.incarnation
    assert (await here.heard_of(wire.SaveSession)).keep
    for name in ("before-training", found.id, found.id[:6]):
        assert await house.client.checkpoint_view(name) == found
    with pytest.raises(Refused, match="before-training"):
        await house.client.checkpoint("analysis", "before-training")
    begun = await house.client.checkpoint("analysis", wait="accepted")
    assert isinstance(begun, SaveView | CheckpointView)


async def test_checkpoints_are_their_owners(house: Running) -> None:
    await house.pair()
    await house.session()
    found = await saved(house, "mine")
    shown = await house.client.create_token("api", "eve")
    async with AsyncClient(house.url, shown["token"]) as eve:
        assert await eve.checkpoints() == []
        for wish in (eve.checkpoint_view("mine"), eve.drop_checkpoint(found.id), eve.verify(found.id)):
            with pytest.raises(Unknown):
                await wish
        with pytest.raises(Unauthorized):
            await eve.gc()


async def test_of_passing_checkpoints_the_newest_two_are_kept_and_what_is_named(house: Running) -> None:
    await house.pair()
    await house.session()
    named = await saved(house, "precious")
    for _ in range(4):
        await house.client.suspend("analysis")
        await house.client.resume("analysis", wait="filled")
    passing = [one.id for one in await house.client.checkpoints() if one.kind == "suspend"]
    await house.controller.checkpoints.tidy()
    assert [one.id for one in await house.client.checkpoints()] == [*passing[:2], named.id]
    assert in_store(house) == {*passing[:2], named.id}
    await house.client.stop("analysis")
    await house.until(named.session, lambda now: now.status is SessionStatus.STOPPED)
    await house.controller.checkpoints.tidy()
    assert in_store(house) == {named.id}
    with pytest.raises(Refused, match="has ended") as refused:
        await house.client.restore(named.session, "precious")
    assert "fork" in refused.value.hint
    (fork,) = await house.client.fork(named.session, checkpoint="precious", wait="filled")
    assert (fork.name, fork.status) == ("analysis-fork-1", SessionStatus.RUNNING)


async def test_what_is_slept_in_can_not_be_deleted(house: Running) -> None:
    await house.pair()
    await house.session()
    asleep = await house.client.suspend("analysis")
    assert asleep.checkpoint
    with pytest.raises(Busy, match="sleeps in"):
        await house.client.drop_checkpoint(asleep.checkpoint)
    await house.client.resume("analysis", wait="filled")
    await house.client.drop_checkpoint(asleep.checkpoint)
    assert await house.client.checkpoints() == []
    assert in_store(house) == set()


async def test_verify_names_what_is_damaged_and_nobody_goes_back_there(house: Running, tmp_path: Path) -> None:
    await house.pair()
    await house.session()
    older, newer = await saved(house, "older"), await saved(house, "newer")
    assert (await house.client.verify("newer")).problems == ()
    await house.client.suspend("analysis")
    spoil(house, newer.id)
    (problem, *_) = (await house.client.verify("newer")).problems
    assert problem
    assert (await house.client.checkpoint_view("newer")).problem
    with pytest.raises(Damaged, match="can't be used"):
        await house.client.restore("analysis", "newer")
    assert (await house.client.restore("analysis", "older", wait="filled")).epoch == 2
    assert not (await house.client.checkpoint_view(older.id)).problem


async def test_gc_removes_what_no_list_names_and_nothing_else(house: Running) -> None:
    await house.pair()
    await house.session()
    first, second = await saved(house, "first"), await saved(house, "second")
    with house.controller.database.transaction() as connection:  # as after a crash in the middle of deleting it
        queries.drop_checkpoints(connection, [first.id])
    house.controller.reconciler._clock = house.controller.checkpoints._clock = lambda: second.created_at + 7200
    would = await house.client.gc(dry_run=True)
    assert would.dropped == (first.id,)
    assert in_store(house) == {first.id, second.id}
    swept = await house.client.gc()
    assert (swept.dropped, swept.bytes > 0, swept.busy) == ((first.id,), True, 0)
    assert in_store(house) == {second.id}
    assert (await house.client.verify("second")).problems == ()


# ── restore and fork ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_is_taken_back(house: Running) -> None:
    here, _ = await house.pair()
    await house.session()
    before = await saved(house, "before")
    await saved(house, "after")
    back = await house.client.restore("analysis", "before", wait="filled")
    assert (back.status, back.incarnation, back.epoch, back.node) == (SessionStatus.RUNNING, 2, 2, "here")
    assert [one.do for one in here.heard[-2:]] == ["stop_sandbox", "wake_session"]
    assert (await here.heard_of(wire.WakeSession)).checkpoint == before.id
    with pytest.raises(Unknown):
        await house.client.restore("analysis", "never")


async def test_branches_of_a_running_session(house: Running) -> None:
    here, there = await house.pair()
    view = await house.session()
    await house.client.fork("analysis", wait="filled")
    forks = await house.client.fork("analysis", "there", count=2, wait="filled")
    assert [one.name for one in forks] == ["analysis-fork-2", "analysis-fork-3"]
    assert {(one.status, one.node, one.origin) for one in forks} == {(SessionStatus.RUNNING, "there", view.id)}
    assert (await house.client.session("analysis")).incarnation == 1
    woken = [one for one in there.heard if isinstance(one, wire.WakeSession)]
    assert len({one.checkpoint for one in woken}) == 1
    assert all(one.incarnation > view.incarnation and one.epoch > view.epoch for one in woken)
    assert {one.spec.name for one in woken} == {"analysis-fork-2", "analysis-fork-3"}
    assert (await here.heard_of(wire.SaveSession)).keep
    trunk = await house.client.checkpoint_view(woken[0].checkpoint)
    assert trunk.kind == "background"
    (one,) = await house.client.fork(forks[0].id, name="twig", wait="filled")
    assert (one.name, one.origin) == ("twig", forks[0].id)


async def test_a_branch_of_what_sleeps_leaves_it_asleep(house: Running) -> None:
    await house.pair()
    await house.session()
    asleep = await house.client.suspend("analysis")
    (fork,) = await house.client.fork("analysis", wait="filled")
    assert fork.status is SessionStatus.RUNNING
    assert (await house.client.session("analysis")).checkpoint == asleep.checkpoint
    await house.client.stop(fork.id)
    await house.until(fork.id, lambda now: now.status is SessionStatus.STOPPED)
    await house.controller.checkpoints.tidy()
    assert in_store(house) == {asleep.checkpoint}
    assert (await house.client.resume("analysis", wait="filled")).epoch == asleep.epoch


async def test_a_branch_for_which_there_is_no_room_is_not_begun(house: Running) -> None:
    await house.pair()
    await house.session()
    with pytest.raises(DoesNotFit):
        await house.client.fork("analysis", "mem>=900G")
    with pytest.raises(Invalid):
        await house.client.fork("analysis", count=0)
    assert [one.name for one in await house.client.sessions()] == ["analysis"]


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────


def running_again(house: Running, folder: Path) -> Any:
    """Another controller on a copy of the database, as after a crash of this one."""

    @asynccontextmanager
    async def again() -> AsyncIterator[Controller]:
        house.controller.database.close()
        database = Database(sqlite_url(folder / "sojourn.db"))
        try:
            yield Controller(database, store=f"file://{folder}/store")
        finally:
            database.close()

    return again()


async def test_after_a_crash_of_the_controller_everything_is_known_and_told_again(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    async with running(tmp_path, store=store) as house:
        here = await house.node("here")
        await house.session()
        named = await saved(house, "before")
        here.silent = {"save_session"}
        falling = await house.client.suspend("analysis", wait="accepted")
        first = await here.heard_of(wire.SaveSession, 2)
        token = here.token
    async with running(tmp_path, store=store) as house:
        assert [one.id for one in await house.client.checkpoints()] == [named.id]
        again = house.agent("here")
        again.token = token
        again.held = (wire.Held(session=falling.id, incarnation=1, state="running"),)
        await again.dial()
        assert await again.heard_of(wire.SaveSession) == first
        asleep = await house.until(falling.id, lambda now: now.status is SessionStatus.SUSPENDED)
        assert asleep.checkpoint == falling.save
        assert (await house.client.resume("analysis", wait="filled")).status is SessionStatus.RUNNING


async def test_what_a_node_saved_with_its_last_breath_is_found(tmp_path: Path) -> None:
    async with running(tmp_path, store=f"file://{tmp_path}/store", dead_s=0.2) as house:
        here = await house.node("here")
        await house.session()
        here.silent = {"save_session"}
        falling = await house.client.suspend("analysis", wait="accepted")
        save(here, await here.heard_of(wire.SaveSession))
        await here.hang_up()
        await house.until(falling.id, lambda now: now.status is SessionStatus.LOST)
        await house.controller.checkpoints.tidy()
        asleep = await house.client.session(falling.id)
        assert (asleep.status, asleep.checkpoint) == (SessionStatus.SUSPENDED, falling.save)
        assert [one.id for one in await house.client.checkpoints()] == [falling.save]


async def test_what_a_node_saved_after_it_was_given_up_is_not_swept(tmp_path: Path) -> None:
    async with running(tmp_path, store=f"file://{tmp_path}/store", dead_s=0.2) as house:
        here = await house.node("here")
        await house.session()
        first = await saved(house, "first")
        here.silent = {"save_session"}
        falling = await house.client.suspend("analysis", wait="accepted")
        asked = await here.heard_of(wire.SaveSession, 2)
        await here.hang_up()
        fallen = await house.until(falling.id, lambda now: now.status is SessionStatus.SUSPENDED)
        assert fallen.checkpoint == first.id
        await house.controller.checkpoints.tidy()  # not there yet
        save(here, asked)  # it only could not reach the controller
        assert (await house.client.gc(dry_run=True)).dropped == ()
        await house.client.gc()
        assert (await house.client.session(falling.id)).checkpoint == falling.save
        assert in_store(house) == {first.id, falling.save}


async def test_the_last_breath_of_a_node_that_is_forgotten_is_found(tmp_path: Path) -> None:
    async with running(tmp_path, store=f"file://{tmp_path}/store") as house:
        here, _ = await house.pair()
        await house.session()
        here.silent = {"save_session"}
        falling = await house.client.suspend("analysis", wait="accepted")
        save(here, await here.heard_of(wire.SaveSession))
        await here.hang_up()
        await eventually(lambda: not house.controller.roster.online("here"))
        house.controller.forget_node("here")
        await house.controller.checkpoints.tidy()
        assert [one.id for one in await house.client.checkpoints()] == [falling.save]
        assert (await house.client.resume("analysis", wait="filled")).node == "there"


async def test_a_store_that_has_vanished_is_no_damage(house: Running, tmp_path: Path) -> None:
    await house.pair()
    await house.session()
    asleep = await house.client.suspend("analysis")
    (tmp_path / "store").rename(tmp_path / "unmounted")
    (tmp_path / "store").mkdir()
    await house.controller.checkpoints._look()
    with pytest.raises(StoreFailed, match="vanished"):
        await house.client.verify(asleep.checkpoint or "")
    assert (await house.client.session("analysis")).checkpoint == asleep.checkpoint
    (tmp_path / "store").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "store")
    assert (await house.client.resume("analysis", wait="filled")).status is SessionStatus.RUNNING


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────


async def ask(agent: FakeAgent, view: SessionView, verb: str, what: str, /, **arguments: Any) -> None:
    await agent.report(
        wire.VerbAsked(session=view.id, incarnation=view.incarnation, verb=verb, name=what, arguments=arguments)
    )


async def answer(agent: FakeAgent, verb: str, count: int = 1) -> wire.AnswerVerb:
    async with asyncio.timeout(10):
        while (
            len(found := [one for one in agent.heard if isinstance(one, wire.AnswerVerb) and one.verb == verb]) < count
        ):
            await asyncio.sleep(0.01)
    return found[count - 1]


async def test_a_session_suspends_itself_and_is_answered_before(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    await ask(here, view, "v1", "suspend")
    await house.until(view.id, lambda now: now.status is SessionStatus.SUSPENDED)
    order = [one.do for one in here.heard if one.do in ("answer_verb", "save_session")]
    assert order[:2] == ["answer_verb", "save_session"]
    await house.client.resume("analysis", wait="filled")
    await ask(here, view, "v1", "suspend")  # the answer had not come before the freeze
    await answer(here, "v1", 2)
    await asyncio.sleep(0.15)
    assert (await house.client.session("analysis")).status is SessionStatus.RUNNING


async def test_a_session_goes_back_to_its_own_checkpoint_and_is_told_so(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    await ask(here, view, "v1", "checkpoint", name="before")
    first = await answer(here, "v1")
    assert (first.ok, first.body["back"], first.body["checkpoint"]["name"]) == (True, False, "before")
    await ask(here, view, "v2", "checkpoints")
    assert [one["name"] for one in (await answer(here, "v2")).body["checkpoints"]] == ["before"]
    await ask(here, view, "v3", "restore", checkpoint="before")
    back = await house.until(view.id, lambda now: now.epoch == 2 and now.status is SessionStatus.RUNNING)
    await ask(here, back, "v1", "checkpoint", name="before")  # it wakes in the middle of asking
    again = await answer(here, "v1", 2)
    assert (again.ok, again.body["back"]) == (True, True)
    assert len(await house.client.checkpoints()) == 1


async def test_a_branch_that_wakes_in_the_middle_of_asking_for_it_does_not_branch_again(house: Running) -> None:
    here, _ = await house.pair()
    view = await house.session()
    await ask(here, view, "v1", "fork", count=2)
    first = await answer(here, "v1")
    assert (first.ok, first.body["back"], len(first.body["forks"])) == (True, False, 2)
    for fork in first.body["forks"]:
        await ask(here, await house.client.session(fork["id"]), "v1", "fork", count=2)
    told = [await answer(here, "v1", count) for count in (2, 3)]
    assert {one.body["back"] for one in told} == {True}
    assert {one.session for one in told} == {fork["id"] for fork in first.body["forks"]}
    assert len(await house.client.sessions()) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [("restore", {"checkpoint": "never"}, "unknown"), ("fork", {"count": 0}, "invalid"), ("restore", {}, "invalid")],
)
async def test_a_verb_that_can_not_be(house: Running, name: str, arguments: dict[str, Any], code: str) -> None:
    here, _ = await house.pair()
    view = await house.session()
    await ask(here, view, "v1", name, **arguments)
    refused = await answer(here, "v1")
    assert (refused.ok, refused.body["code"]) == (False, code)
    assert (await house.client.session("analysis")).status is SessionStatus.RUNNING


# ── drain ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_drained_node_gets_nothing_and_stays_so(house: Running) -> None:
    here, _ = await house.pair()
    await house.client.drain("there", reason="new disks")
    views = {one.name: one.draining for one in await house.client.nodes()}
    assert (bool(views["there"]), views["here"]) == (True, "")
    await house.session()
    with pytest.raises(DoesNotFit, match="drained"):
        await house.client.move("analysis", "there")
    await house.client.suspend("analysis")
    await here.hang_up()
    await asyncio.sleep(0.05)
    with pytest.raises((DoesNotFit, Unreachable)):
        await house.client.resume("analysis")
    there = house.agents[1]
    await there.hang_up()
    await there.dial()
    assert {one.name: one.draining for one in await house.client.nodes()} == views
    await house.client.undrain("there")
    assert (await house.client.resume("analysis", wait="filled")).node == "there"


# ── in the store ─────────────────────────────────────────────────────────────────────────────────────────────


def vault(house: Running) -> Vault:
    opens = house.controller.vaults.pass_for("ada")
    return Vault(open_store(opens.url), bytes.fromhex(opens.key))


def in_store(house: Running) -> set[str]:
    return set(vault(house).checkpoints())


def spoil(house: Running, checkpoint: str) -> None:
    """A pack that only this checkpoint needs is gone."""
    mine = set(vault(house).manifest(checkpoint).packs)
    for other in in_store(house) - {checkpoint}:
        mine -= set(vault(house).manifest(other).packs)
    backend = open_store(house.controller.vaults.pass_for("ada").url)
    for entry in list(backend.keys("owners/")):
        if entry.key.rpartition("/")[2] in mine:
            backend.delete(entry.key)
