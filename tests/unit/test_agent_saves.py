"""Saves and wakes as an agent lives through them, with movers and sandboxes that only pretend."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.unit.agent_house import (
    SPEC,
    House,
    PretendedMover,
    PretendedSandbox,
    Script,
    a_house,
    pretend_movers,
    pretend_sandboxes,
    successor,
)

from sojourn.agent.journal import Half
from sojourn.agent.runner import Node
from sojourn.errors import Damaged, SaveFailed, StoreFailed
from sojourn.model import MoveReport, SaveReport, StorePass
from sojourn.wire import (
    AbandonArrival,
    ArrivalAbandoned,
    CommitMove,
    Depart,
    FillProgressed,
    MoveCommitted,
    MoveRolledBack,
    MoveStumbled,
    RollBackMove,
    SandboxStopped,
    SaveSession,
    SessionDied,
    SessionFilled,
    SessionFrozen,
    SessionSaved,
    SessionThawed,
    StopSandbox,
    WakeSession,
)

STORE = StorePass(url="memory://unit", identity="i", key="00" * 32)
SUSPEND = SaveSession(save="v", session="s", incarnation=1, keep=False, store=STORE)
CHECKPOINT = SaveSession(save="v", session="s", incarnation=1, keep=True, store=STORE)
WAKE = WakeSession(wake="m", session="s", incarnation=2, epoch=1, checkpoint="v", store=STORE, spec=SPEC)
SAVED = SessionSaved(save="v", session="s", incarnation=1, report=SaveReport(memory_bytes=1 << 20, total_s=0.5))
THAWED = SessionThawed(move="m", session="s", incarnation=2, report=MoveReport())
FILLED = SessionFilled(move="m", session="s", incarnation=2, report=MoveReport())


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> PretendedSandbox:
    return pretend_sandboxes(monkeypatch)


@pytest.fixture
async def house(tmp_path: Path, sandbox: PretendedSandbox) -> AsyncIterator[House]:
    async with a_house(tmp_path) as house:
        yield house


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return pretend_movers(monkeypatch)


def freezes(mover: PretendedMover) -> None:
    mover.calls["hang_up"]()
    mover.tell(SessionFrozen(move="v", session="s"))


def saves(mover: PretendedMover) -> None:
    freezes(mover)
    mover.tell(FillProgressed(move="v", session="s", done_bytes=1, total_bytes=2))
    mover.resumed = False
    mover.tell(SAVED)


def waits_frozen(mover: PretendedMover) -> None:
    freezes(mover)
    assert mover.broken.wait(10)
    raise SaveFailed("It was called off.")


def goes_on_and_waits(mover: PretendedMover) -> None:
    """Until it is stopped, or the test lets it end."""
    freezes(mover)
    mover.calls["go_on"]()
    assert mover.broken.wait(10)


def goes_on_and_saves(mover: PretendedMover) -> None:
    goes_on_and_waits(mover)
    mover.tell(SAVED)


def goes_on_and_fails(mover: PretendedMover) -> None:
    goes_on_and_waits(mover)
    raise StoreFailed("The disk is full.")


async def until(holds: Callable[[], object]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


async def until_state(house: House, state: str) -> None:
    await until(lambda: house.life.state == state)


async def is_let_in(house: House, incarnation: int) -> bool:
    ours, theirs = socket.socketpair()
    with ours:
        await house.runner.admit(theirs, {"session": "s", "incarnation": incarnation, "epoch": 1, "anchor": "a"})
        ours.settimeout(5)
        return (await asyncio.to_thread(ours.recv, 100)).startswith(b'{"ok": true}')


# ── sleep: saved, and nothing of it runs any more ────────────────────────────────────────────────────────────────


async def test_a_session_is_saved_and_removed_at_the_commit(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    await house.inhabit()
    made = script(saves)
    house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    assert await house.hears(SessionSaved) == SAVED
    (held,) = house.runner.held()
    assert (held.state, held.move, held.incarnation) == ("departed", "v", 1)
    assert made[0].link is None
    assert house.departures.pace.bytes_per_second == 2 << 20
    house.runner.instruct(CommitMove(move="v", session="s"))
    await house.hears(MoveCommitted)
    assert (made[0].did, sandbox.did[-1]) == (["commit"], "removed")
    assert (house.journal.lives(), house.journal.halves()) == ([], [])


async def test_a_save_asked_for_again_is_one_save(house: House, script: Script) -> None:
    await house.inhabit()
    made = script(saves)
    for _ in range(2):
        house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    await house.hears(SessionSaved)
    house.runner.instruct(SUSPEND)
    house.runner.instruct(CommitMove(move="v", session="s"))
    await house.hears(MoveCommitted)
    assert len(made) == 1


async def test_a_rollback_in_the_middle_of_a_save_stops_it(house: House, script: Script) -> None:
    await house.inhabit()
    made = script(waits_frozen)
    house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    house.runner.instruct(RollBackMove(move="v", session="s", incarnation=3, epoch=2))
    assert (await house.hears(MoveRolledBack)).incarnation == 3
    assert made[0].did == ["roll_back"]
    assert (house.life.state, house.life.epoch, house.journal.halves()) == ("running", 2, [])
    assert await is_let_in(house, incarnation=3)


async def test_a_save_that_fails_leaves_the_session_running(house: House, script: Script) -> None:
    await house.inhabit()
    made = script(waits_frozen)
    house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    made[0].broken.set()
    stumbled = await house.hears(MoveStumbled)
    assert (stumbled.move, stumbled.side, stumbled.resumed) == ("v", "source", True)
    assert stumbled.error["code"] == "save_failed"
    assert (house.life.state, house.life.move, house.journal.halves()) == ("running", None, [])
    house.runner.instruct(SUSPEND)  # asked again before the controller has heard of its end
    await asyncio.sleep(0.05)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"incarnation": 7}, "save_failed"), ({"state": "filling"}, "busy"), ({"sandbox": "process"}, "immovable")],
)
async def test_what_can_not_be_saved_is_left_alone(
    house: House, script: Script, changes: dict[str, object], code: str
) -> None:
    attendance = await house.inhabit()
    attendance.write(**changes)
    made = script(saves)
    house.runner.instruct(SUSPEND)
    stumbled = await house.hears(MoveStumbled)
    assert (stumbled.resumed, stumbled.error["code"]) == (True, code)
    assert (made, house.life) == ([], attendance.life)


# ── checkpoint: saved, and it goes on ────────────────────────────────────────────────────────────────────────────


async def test_a_kept_session_goes_on_while_its_chunks_are_written(house: House, script: Script) -> None:
    await house.inhabit()
    made = script(goes_on_and_saves)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    await until_state(house, "running")
    assert await is_let_in(house, incarnation=1)
    (held,) = house.runner.held()
    assert (held.state, held.move) == ("running", "v")
    assert len(house.journal.halves()) == 1
    made[0].broken.set()
    assert await house.hears(SessionSaved) == SAVED
    assert (house.life.state, house.life.move, house.journal.halves()) == ("running", None, [])
    house.runner.instruct(CHECKPOINT)  # asked again before the controller has heard of it
    await asyncio.sleep(0.05)
    assert len(made) == 1


async def test_a_kept_session_is_departing_only_while_it_stands_still(house: House, script: Script) -> None:
    await house.inhabit()
    states = []

    def looks(mover: PretendedMover) -> None:
        states.append(house.life.state)
        freezes(mover)
        states.append(house.life.state)
        mover.calls["go_on"]()
        mover.tell(SAVED)

    script(looks)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    await house.hears(SessionSaved)
    assert states == ["running", "departing"]
    assert await is_let_in(house, incarnation=1)


async def test_a_checkpoint_that_fails_after_the_session_went_on_changes_nothing(house: House, script: Script) -> None:
    attendance = await house.inhabit()
    made = script(goes_on_and_fails)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    await until_state(house, "running")
    made[0].broken.set()
    stumbled = await house.hears(MoveStumbled)
    assert (stumbled.resumed, stumbled.error["code"]) == (True, "store_failed")
    assert (house.life.state, house.life.move, house.journal.halves()) == ("running", None, [])
    await attendance.line.attached(5)


async def test_while_chunks_are_written_the_session_stays(house: House, script: Script) -> None:
    await house.inhabit()
    made = script(goes_on_and_saves)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    await until_state(house, "running")
    house.runner.instruct(
        Depart(move="d", session="s", incarnation=2, strategy="lazy", target="t", address="a:1", ticket="t")
    )
    refused = await house.hears(MoveStumbled)
    assert (refused.move, refused.resumed, refused.error["code"]) == ("d", True, "busy")
    made[0].broken.set()
    await house.hears(SessionSaved)


async def test_a_kept_copy_that_counts_no_more_is_dismissed(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    """As by a controller that has woken the session elsewhere meanwhile."""
    await house.inhabit()
    script(waits_frozen)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    house.runner.instruct(CommitMove(move="v", session="s"))
    await house.hears(MoveCommitted)
    assert (sandbox.did[-1], house.journal.lives()) == ("removed", [])


async def test_a_session_stopped_while_its_chunks_are_written_is_gone(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    attendance = await house.inhabit()
    made = script(goes_on_and_fails)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    house.runner.instruct(StopSandbox(session="s", incarnation=1))
    await house.hears(SandboxStopped)
    await asyncio.sleep(0.05)
    assert (made[0].did, sandbox.did[-1]) == (["commit"], "removed")
    assert (house.journal.lives(), house.journal.halves()) == ([], [])
    assert house.journal.events_after(house._told) == []
    assert attendance.line._keeping is None


async def test_what_fails_after_a_checkpoint_is_whole_concerns_nobody(house: House, script: Script) -> None:
    await house.inhabit()

    def saves_and_trips(mover: PretendedMover) -> None:
        freezes(mover)
        mover.calls["go_on"]()
        mover.tell(SAVED)
        raise OSError("the folder of images can't be removed")

    script(saves_and_trips)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    await house.hears(SessionSaved)
    await asyncio.sleep(0.05)
    assert house.journal.events_after(house._told) == []
    assert await is_let_in(house, incarnation=1)


async def test_a_session_that_died_while_it_was_to_go_on_stays_dead(
    house: House, sandbox: PretendedSandbox, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    attendance = await house.inhabit()
    monkeypatch.setattr(sandbox, "log", lambda size: "", raising=False)
    script(goes_on_and_waits)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    sandbox.running = False
    house.runner.died(attendance)
    await house.hears(SessionDied)
    await house.departures._let_in(attendance)  # what was spawned for it comes when the burial is over
    assert house.journal.lives() == []
    assert attendance.line._keeping is None


async def test_a_kept_session_that_was_scathed_waits_for_its_new_epoch(house: House, script: Script) -> None:
    await house.inhabit()

    def is_scathed(mover: PretendedMover) -> None:
        freezes(mover)
        mover.resumed, mover.scathed = False, True
        raise SaveFailed("CRIU was killed.")

    script(is_scathed)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    assert (await house.hears(MoveStumbled)).scathed
    assert house.runner.held()[0].state == "departing"
    house.runner.instruct(RollBackMove(move="v", session="s", incarnation=3, epoch=2))
    await house.hears(MoveRolledBack)
    assert await is_let_in(house, incarnation=3)


# ── wake ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def wakes(mover: PretendedMover) -> None:
    mover.tell(THAWED)
    mover.tell(FillProgressed(move="m", session="s", done_bytes=1, total_bytes=2))
    mover.tell(FILLED)


def is_damaged(mover: PretendedMover) -> None:
    raise Damaged("Chunk c0ffee of checkpoint v is missing.")


async def test_a_session_wakes(house: House, script: Script) -> None:
    made = script(wakes)
    house.runner.instruct(WAKE)
    house.runner.instruct(WAKE)
    await house.hears(SessionThawed)
    await house.hears(SessionFilled)
    assert await is_let_in(house, incarnation=2)
    house.runner.instruct(WAKE)
    await asyncio.sleep(0.05)
    assert [(mover.did, mover.link) for mover in made] == [(["prepare"], None)]
    assert (house.life.state, house.life.move, house.life.arrived_by) == ("running", None, "m")
    assert house.journal.halves() == []


async def test_a_checkpoint_that_is_damaged_is_called_so_and_given_up(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    made = script(is_damaged)
    house.runner.instruct(WAKE)
    stumbled = await house.hears(MoveStumbled)
    assert (stumbled.move, stumbled.side, stumbled.error["code"]) == ("m", "target", "damaged")
    assert house.runner.held()[0].state == "arriving"
    house.runner.instruct(AbandonArrival(move="m", session="s"))
    await house.hears(ArrivalAbandoned)
    assert (made[0].did, sandbox.did) == (["prepare", "halt", "abandon"], ["removed"])
    house.runner.instruct(WAKE)  # asked for before the controller had heard of its end
    await asyncio.sleep(0.05)
    assert (len(made), house.journal.lives()) == (1, [])


@pytest.mark.parametrize("commit_first", [True, False])
async def test_a_session_wakes_beside_the_copy_it_was_saved_from(
    house: House, script: Script, monkeypatch: pytest.MonkeyPatch, commit_first: bool
) -> None:
    sandboxes = {1: PretendedSandbox(), 2: PretendedSandbox()}
    monkeypatch.setattr(Node, "sandbox", lambda self, life: sandboxes[life.born])
    await house.inhabit()
    script(saves)
    house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    await house.hears(SessionSaved)
    script(wakes)
    commit = CommitMove(move="v", session="s")
    for instruction in (commit, WAKE) if commit_first else (WAKE, commit):
        house.runner.instruct(instruction)
    heard = {type(await house.hears(object)) for _ in range(3)}
    assert heard == {MoveCommitted, SessionThawed, SessionFilled}
    assert ("removed" in sandboxes[1].did, "removed" in sandboxes[2].did) == (True, False)
    assert [(life.born, life.state) for life in house.journal.lives()] == [(2, "running")]
    assert await is_let_in(house, incarnation=2)


# ── after the agent was killed ───────────────────────────────────────────────────────────────────────────────────


async def test_a_save_cut_off_before_it_was_whole_goes_on_here(house: House, script: Script, tmp_path: Path) -> None:
    await house.inhabit()
    script(waits_frozen)
    house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    heir, mover = await successor(house, tmp_path, script, resumed=True)
    stumbled = await heir.hears(MoveStumbled)
    assert (stumbled.resumed, stumbled.error["code"]) == (True, "save_failed")
    assert (mover.did, heir.life.state, heir.journal.halves()) == (["roll_back"], "running", [])
    await heir.runner.leave()


async def test_a_whole_save_that_nobody_was_told_of_is_told(house: House, script: Script, tmp_path: Path) -> None:
    await house.inhabit()

    def publishes(mover: PretendedMover) -> None:
        freezes(mover)
        mover.calls["note"]({"phase": "saved", "report": SAVED.report.model_dump()})
        mover.broken.wait(10)

    (made := script(publishes)).clear()
    house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    await until(lambda: house.journal.notes("v"))
    heir, _ = await successor(house, tmp_path, script, resumed=False)
    assert await heir.hears(SessionSaved) == SAVED
    assert heir.runner.held()[0].state == "departed"
    heir.runner.instruct(CommitMove(move="v", session="s"))
    await heir.hears(MoveCommitted)
    assert heir.journal.lives() == []
    await heir.runner.leave()
    made[0].broken.set()


async def test_a_save_that_was_told_is_not_told_again(house: House, script: Script, tmp_path: Path) -> None:
    await house.inhabit()
    script(saves)
    house.runner.instruct(SUSPEND)
    await house.hears(SessionFrozen)
    await house.hears(SessionSaved)
    heir, mover = await successor(house, tmp_path, script, resumed=False)
    assert (heir.runner.held()[0].state, mover.did) == ("departed", [])
    assert heir.journal.events_after(heir._told) == []
    await heir.runner.leave()


async def test_a_kept_session_whose_checkpoint_was_cut_off_runs_on(
    house: House, script: Script, tmp_path: Path
) -> None:
    await house.inhabit()
    made = script(goes_on_and_waits)
    house.runner.instruct(CHECKPOINT)
    await house.hears(SessionFrozen)
    await until_state(house, "running")
    heir, mover = await successor(house, tmp_path, script, resumed=True)
    assert (await heir.hears(MoveStumbled)).resumed
    assert (mover.did, heir.life.state, heir.life.move) == (["roll_back"], "running", None)
    assert await is_let_in(heir, incarnation=1)
    await heir.runner.leave()
    made[0].broken.set()


@pytest.mark.parametrize("thawed", [True, False])
async def test_a_wake_cut_off(house: House, script: Script, tmp_path: Path, thawed: bool) -> None:
    def waits(mover: PretendedMover) -> None:
        if thawed:
            mover.tell(THAWED)
        mover.broken.wait(10)

    made = script(waits)
    house.runner.instruct(WAKE)
    await until(lambda: made and made[0].did and (not thawed or house.life.state == "filling"))
    house._told = max((number for number, _ in house.journal.events_after(0)), default=0)
    heir, mover = await successor(house, tmp_path, script, thawed=thawed)
    if thawed:
        await heir.hears(SessionFilled)
        assert (mover.did, heir.life.state) == (["went on"], "running")
    else:
        stumbled = await heir.hears(MoveStumbled)
        assert (stumbled.side, stumbled.error["code"]) == ("target", "wake_failed")
        assert (mover.did, heir.journal.lives()) == (["abandon"], [])
    await heir.runner.leave()
    made[0].broken.set()


async def test_a_life_that_filled_and_is_saved_has_one_half(house: House, script: Script) -> None:
    """However late the thread of the wake ends."""

    def lingers(mover: PretendedMover) -> None:
        wakes(mover)
        mover.broken.wait(10)

    made = script(lingers)
    house.runner.instruct(WAKE)
    await house.hears(SessionThawed)
    await house.hears(SessionFilled)
    script(waits_frozen)
    house.runner.instruct(SUSPEND.model_copy(update={"incarnation": 2}))
    await house.hears(SessionFrozen)
    assert [half.kind for half in house.journal.halves()] == ["save"]
    made[0].broken.set()
    house.runner.instruct(StopSandbox(session="s", incarnation=2))
    await house.hears(SandboxStopped)


def test_a_half_of_a_version_that_knew_only_moves_is_read() -> None:
    old = '{"move":"m","side":"source","session":"s","born":1,"strategy":"copy","incarnation":2,"address":"a"}'
    half = Half.model_validate_json(old)
    assert (half.kind, half.keep, half.store) == ("move", False, None)
