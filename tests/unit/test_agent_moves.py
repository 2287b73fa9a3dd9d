"""The two halves of moves as an agent lives through them, with movers and sandboxes that only pretend."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent_house import (
    SPEC,
    House,
    PretendedLink,
    PretendedMover,
    PretendedSandbox,
    Script,
    a_house,
    pretend_movers,
    pretend_sandboxes,
    successor,
)

from sojourn.agent import departures as departures_module
from sojourn.agent.journal import Life
from sojourn.agent.recovery import recover
from sojourn.agent.runner import Node
from sojourn.errors import Busy, MoveFailed, SandboxFailed, Unreachable
from sojourn.model import MoveReport
from sojourn.wire import (
    AbandonArrival,
    ArrivalAbandoned,
    ArrivalPrepared,
    CommitMove,
    Depart,
    MoveCommitted,
    MoveRolledBack,
    MoveStumbled,
    PrepareArrival,
    RollBackMove,
    SandboxStopped,
    SessionDied,
    SessionFilled,
    SessionFrozen,
    SessionSent,
    SessionThawed,
    StopSandbox,
)

DEPART = Depart(move="m", session="s", incarnation=2, strategy="lazy", target="there", address="nowhere:1", ticket="t")
PREPARE = PrepareArrival(move="m", session="s", incarnation=2, epoch=1, strategy="lazy", spec=SPEC)


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


def sends_all(mover: PretendedMover) -> None:
    mover.calls["hang_up"]()
    mover.tell(SessionFrozen(move="m", session="s"))
    mover.resumed = False
    mover.tell(SessionSent(move="m", session="s"))


def waits_for_the_link_to_break(mover: PretendedMover) -> None:
    mover.tell(SessionFrozen(move="m", session="s"))
    assert mover.link.closed.wait(10)
    raise MoveFailed("The link broke.")


def is_scathed(mover: PretendedMover) -> None:
    mover.tell(SessionFrozen(move="m", session="s"))
    mover.resumed, mover.scathed = False, True
    raise MoveFailed("CRIU was killed.")


def is_scathed_when_the_link_breaks(mover: PretendedMover) -> None:
    with contextlib.suppress(MoveFailed):
        waits_for_the_link_to_break(mover)
    mover.resumed, mover.scathed = False, True
    raise MoveFailed("CRIU was killed.")


def fails_at_once(mover: PretendedMover) -> None:
    raise MoveFailed("CRIU said no.")


def a_defect(mover: PretendedMover) -> None:
    raise ZeroDivisionError("oops")


# ── the source ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_departs_and_is_removed_at_the_commit(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    await house.inhabit()
    (made := script(sends_all)).clear()
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    await house.hears(SessionSent)
    assert (house.life.state, house.life.move) == ("departed", "m")
    assert "line closed" in sandbox.did
    house.runner.instruct(CommitMove(move="m", session="s"))
    await house.hears(MoveCommitted)
    assert made[0].did == ["commit"]
    assert "removed" in sandbox.did
    assert (house.journal.lives(), house.journal.halves(), house.runner.held()) == ([], [], ())


async def test_a_commit_may_come_again(house: House, script: Script) -> None:
    script(sends_all)
    house.runner.instruct(CommitMove(move="m", session="s"))
    await house.hears(MoveCommitted)


@pytest.mark.parametrize(("play", "code"), [(fails_at_once, "move_failed"), (a_defect, "sandbox_failed")])
async def test_a_departure_that_fails_early_changes_nothing(
    house: House, script: Script, play: Callable[[PretendedMover], None], code: str
) -> None:
    attendance = await house.inhabit()
    script(play)
    house.runner.instruct(DEPART)
    stumbled = await house.hears(MoveStumbled)
    assert (stumbled.resumed, stumbled.side, stumbled.error["code"]) == (True, "source", code)
    assert (house.life.state, house.life.incarnation, house.life.move) == ("running", 1, None)
    assert house.journal.halves() == []
    await attendance.line.attached(5)


async def test_an_unreachable_target_changes_nothing(
    house: House, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.inhabit()
    script(sends_all)

    def nobody(address: str, ticket: str) -> PretendedLink:
        raise Unreachable("The target does not answer.")

    monkeypatch.setattr(departures_module, "DialledLink", nobody)
    house.runner.instruct(DEPART)
    assert (await house.hears(MoveStumbled)).resumed
    assert house.life.state == "running"


async def test_a_rollback_gives_the_session_its_new_incarnation(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    attendance = await house.inhabit()
    made = script(sends_all)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    await house.hears(SessionSent)
    house.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=2))
    assert (await house.hears(MoveRolledBack)).incarnation == 3
    assert made[0].did == ["roll_back"]
    assert (house.life.incarnation, house.life.epoch, house.life.born) == (3, 2, 1)
    assert (house.life.state, house.journal.halves()) == ("running", [])
    await attendance.line.attached(5)
    assert sandbox.first_lines[-1]["incarnation"] == 3


async def test_a_rollback_in_the_middle_of_the_departure_ends_it(house: House, script: Script) -> None:
    await house.inhabit()
    made = script(waits_for_the_link_to_break)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    house.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=2))
    assert (await house.hears(MoveRolledBack)).incarnation == 3
    assert made[0].did == ["roll_back"]
    assert house.life.incarnation == 3


async def test_a_session_that_can_not_be_rolled_back_is_told_dead_whatever_is_left_of_it(
    house: House, sandbox: PretendedSandbox, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise SandboxFailed("It does not let go.")

    await house.inhabit()
    made = script(sends_all)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    await house.hears(SessionSent)
    monkeypatch.setattr(made[0], "roll_back", fails, raising=False)
    monkeypatch.setattr(sandbox, "remove", fails)
    house.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=2))
    assert (await house.hears(SessionDied)).incarnation == 3
    assert [life.state for life in house.journal.lives()] == ["stopping"]


async def test_a_scathed_session_lets_nobody_in_before_its_new_epoch(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    attendance = await house.inhabit()
    script(is_scathed)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    stumbled = await house.hears(MoveStumbled)
    assert (stumbled.resumed, stumbled.scathed) == (False, True)
    with pytest.raises(Busy):
        await knock(house, incarnation=1)
    assert house.runner.held()[0].state == "departing"
    house.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=2))
    assert (await house.hears(MoveRolledBack)).incarnation == 3
    await attendance.line.attached(5)
    assert (sandbox.first_lines[-1]["incarnation"], sandbox.first_lines[-1]["epoch"]) == (3, 2)
    assert (house.life.state, house.journal.halves()) == ("running", [])


async def test_a_session_found_scathed_at_its_rollback_asks_for_a_new_epoch(house: House, script: Script) -> None:
    await house.inhabit()
    script(is_scathed_when_the_link_breaks)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    house.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=1))
    assert (await house.hears(MoveStumbled)).scathed
    house.runner.instruct(RollBackMove(move="m", session="s", incarnation=4, epoch=2))
    assert (await house.hears(MoveRolledBack)).incarnation == 4
    assert (house.life.incarnation, house.life.epoch) == (4, 2)


async def test_a_rollback_may_come_again_and_an_older_one_is_ignored(house: House, script: Script) -> None:
    await house.inhabit()
    script(sends_all)
    for _ in range(2):
        house.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=2))
        await house.hears(MoveRolledBack)
    house.runner.instruct(RollBackMove(move="l", session="s", incarnation=2, epoch=2))
    house.runner.instruct(StopSandbox(session="s", incarnation=3))
    await house.hears(SandboxStopped)


async def test_a_session_stopped_in_the_middle_of_its_departure_is_gone(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    await house.inhabit()
    made = script(waits_for_the_link_to_break)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    house.runner.instruct(StopSandbox(session="s", incarnation=1))
    await house.hears(SandboxStopped)
    assert made[0].did == ["commit"]
    assert "removed" in sandbox.did
    assert (house.journal.lives(), house.journal.halves()) == ([], [])


async def test_a_death_is_told_even_if_it_can_not_be_cleaned_up_after(
    house: House, sandbox: PretendedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    attendance = await house.inhabit()
    sandbox.running = False

    def stuck() -> None:
        raise SandboxFailed("The cgroup can't be removed.")

    monkeypatch.setattr(sandbox, "log", lambda size: "", raising=False)
    monkeypatch.setattr(sandbox, "remove", stuck)
    house.runner.died(attendance)
    assert (await house.hears(SessionDied)).incarnation == 1
    assert house.life.state == "stopping"
    monkeypatch.undo()
    monkeypatch.setattr(Node, "sandbox", lambda self, life: sandbox)
    house.runner.instruct(StopSandbox(session="s", incarnation=1))
    await house.hears(SandboxStopped)
    assert house.journal.lives() == []


async def test_what_could_not_be_cleaned_up_is_tried_again(house: House, sandbox: PretendedSandbox) -> None:
    attendance = await house.inhabit()
    await house.runner.sweep()
    assert sandbox.did == []
    attendance.write(state="stopping")
    await house.runner.sweep()
    assert (await house.hears(SandboxStopped)).incarnation == 1
    assert "removed" in sandbox.did
    assert house.journal.lives() == []


async def test_a_stop_while_a_departure_comes_back_leaves_no_line_behind(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    attendance = await house.inhabit()
    made = script(waits_for_the_link_to_break)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    async with house.runner.turns["s"]:
        stopping = asyncio.create_task(house.runner._stop(StopSandbox(session="s", incarnation=1)))
        await asyncio.sleep(0)
        made[0].link.close()  # the departure fails when the stop has asked for its turn already
        await asyncio.sleep(0.05)
        assert house.life.state == "departing"
    await stopping
    await house.hears(SandboxStopped)
    await asyncio.sleep(0.05)
    assert house.journal.events_after(house._told) == []
    assert attendance.line._keeping is None


async def test_questions_that_nobody_hears_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    attendance = await house.inhabit()
    said: list[Any] = []
    monkeypatch.setattr(attendance.line, "send", said.append)
    for number in [*range(64), 0, 64]:
        attendance._heard({"event": "verb", "verb": f"v{number}", "name": "where"})
    events = house.journal.events_after(0)
    assert len(events) == 64
    (refused,) = said
    assert (refused["verb"], refused["ok"], refused["body"]["code"]) == ("v64", False, "busy")
    house.journal.acknowledge(events[0][0])
    attendance._heard({"event": "verb", "verb": "v65", "name": "where"})
    assert len(house.journal.events_after(0)) == 64


async def test_clients_do_not_queue_behind_removals(house: House) -> None:
    attendance = await house.inhabit()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    removed = threading.Event()
    removing = asyncio.create_task(asyncio.to_thread(removed.wait, 10))
    await asyncio.sleep(0)
    ours, theirs = socket.socketpair()
    with ours:
        await asyncio.wait_for(attendance.door.admit(theirs, {"incarnation": 1, "anchor": "a"}), 5)
        assert ours.recv(100).startswith(b'{"ok": true}')
        await asyncio.wait_for(attendance.hang_up(), 5)
    assert not removing.done()
    removed.set()
    await removing


async def test_one_sandbox_that_can_not_be_removed_does_not_keep_the_agent_from_starting(
    house: House, sandbox: PretendedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(session="s", born=1, incarnation=1, epoch=1, state="stopping", sandbox="runc", spec=SPEC)
    house.journal.write_life(life)

    def busy() -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(sandbox, "remove", busy)
    await recover(house.runner, house.departures, house.arrivals)
    assert house.journal.lives() == [life]


async def test_a_departure_of_nobody_stumbles(house: House, script: Script) -> None:
    script(sends_all)
    house.runner.instruct(DEPART)
    assert (await house.hears(MoveStumbled)).error["code"] == "unknown"


# ── the target ───────────────────────────────────────────────────────────────────────────────────────────────────


def thaws_and_fills(mover: PretendedMover) -> None:
    mover.tell(SessionThawed(move="m", session="s", incarnation=2, report=MoveReport()))
    mover.tell(SessionFilled(move="m", session="s", incarnation=2, report=MoveReport()))


def breaks_before_the_thaw(mover: PretendedMover) -> None:
    raise MoveFailed("The images were cut off.")


async def dial(house: House) -> socket.socket:
    ours, theirs = socket.socketpair()
    await house.arrivals.admit_link(theirs, {"for": "move", "move": "m", "relayed": False})
    return ours


async def knock(house: House, incarnation: int) -> socket.socket:
    ours, theirs = socket.socketpair()
    await house.runner.admit(theirs, {"session": "s", "incarnation": incarnation, "epoch": 1, "anchor": "a"})
    ours.settimeout(5)
    return ours


async def test_a_session_arrives_and_those_who_waited_are_brought_to_it(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    made = script(thaws_and_fills)
    house.runner.instruct(PREPARE)
    await house.hears(ArrivalPrepared)
    client = await knock(house, incarnation=2)
    with await dial(house) as link, client:
        assert link.recv(100) == b'{"ok": true}\n'
        await house.hears(SessionThawed)
        await house.hears(SessionFilled)
        said = b""
        while not said.endswith(b"rider"):
            said += await asyncio.to_thread(client.recv, 100)
        assert said == b'{"ok": true}\nfrom the rider'
    tunnel = next(line for line in sandbox.first_lines if line["attach"] == "tunnel")
    assert (tunnel["incarnation"], tunnel["epoch"], tunnel["anchor"]) == (2, 1, "a")
    assert (house.life.state, house.life.move) == ("running", None)
    assert made[0].did == ["prepare"]


async def test_an_arrival_that_stumbles_waits_for_its_verdict(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    made = script(breaks_before_the_thaw)
    house.runner.instruct(PREPARE)
    await house.hears(ArrivalPrepared)
    client = await knock(house, incarnation=2)
    with await dial(house), client:
        stumbled = await house.hears(MoveStumbled)
        assert (stumbled.side, stumbled.resumed) == ("target", False)
        house.runner.instruct(AbandonArrival(move="m", session="s"))
        await house.hears(ArrivalAbandoned)
        assert json.loads(client.recv(1000))["ok"] is False
    assert made[0].did == ["prepare", "halt", "abandon"]
    assert "removed" in sandbox.did
    assert house.journal.lives() == []


async def test_an_abandonment_that_crosses_the_last_page_still_kills(
    house: House, sandbox: PretendedSandbox, script: Script
) -> None:
    script(thaws_and_fills)
    house.runner.instruct(PREPARE)
    await house.hears(ArrivalPrepared)
    with await dial(house):
        await house.hears(SessionThawed)
        await house.hears(SessionFilled)
    house.runner.instruct(AbandonArrival(move="m", session="s"))
    await house.hears(ArrivalAbandoned)
    assert "removed" in sandbox.did
    assert house.journal.lives() == []


async def test_an_arrival_that_cannot_be_prepared_leaves_nothing(
    house: House, sandbox: PretendedSandbox, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: PretendedMover) -> None:
        raise SandboxFailed("No overlay.")

    monkeypatch.setattr(PretendedMover, "prepare", broken, raising=False)
    script(thaws_and_fills)
    house.runner.instruct(PREPARE)
    assert (await house.hears(MoveStumbled)).error["message"] == "No overlay."
    assert sandbox.did == ["removed"]
    assert (house.journal.lives(), house.journal.halves()) == ([], [])


async def test_preparing_may_come_twice_and_a_link_too_early_is_refused(house: House, script: Script) -> None:
    script(thaws_and_fills)
    with pytest.raises(Exception, match="Nobody waits"):
        await dial(house)
    house.runner.instruct(PREPARE)
    house.runner.instruct(PREPARE)
    await house.hears(ArrivalPrepared)
    await house.hears(ArrivalPrepared)
    assert len(house.journal.lives()) == 1


# ── after the agent was killed ───────────────────────────────────────────────────────────────────────────────────


async def test_a_departure_cut_off_before_all_was_sent_goes_on_here(
    house: House, script: Script, tmp_path: Path
) -> None:
    await house.inhabit()
    script(waits_for_the_link_to_break)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    heir, mover = await successor(house, tmp_path, script, resumed=True)
    assert (await heir.hears(MoveStumbled)).resumed
    assert mover.did == ["roll_back"]
    assert (heir.life.state, heir.journal.halves()) == ("running", [])
    await heir.runner.leave()


async def test_a_departure_found_scathed_waits_for_its_new_epoch(house: House, script: Script, tmp_path: Path) -> None:
    await house.inhabit()
    script(waits_for_the_link_to_break)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    heir, _ = await successor(house, tmp_path, script, resumed=True, scathed=True)
    assert (await heir.hears(MoveStumbled)).scathed
    assert heir.runner.held()[0].state == "departing"
    heir.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=2))
    await heir.hears(MoveRolledBack)
    await heir.runner.leave()


async def test_a_departure_cut_off_after_all_was_sent_waits_for_the_verdict(
    house: House, script: Script, tmp_path: Path
) -> None:
    await house.inhabit()
    script(sends_all)
    house.runner.instruct(DEPART)
    await house.hears(SessionFrozen)
    await house.hears(SessionSent)
    heir, mover = await successor(house, tmp_path, script, resumed=False)
    assert heir.runner.held()[0].state == "departed"
    assert mover.did == []
    heir.runner.instruct(RollBackMove(move="m", session="s", incarnation=3, epoch=2))
    await heir.hears(MoveRolledBack)
    assert mover.did == ["roll_back"]
    await heir.runner.leave()


async def test_an_arrival_cut_off_before_the_thaw_is_given_up(house: House, script: Script, tmp_path: Path) -> None:
    script(thaws_and_fills)
    house.runner.instruct(PREPARE)
    await house.hears(ArrivalPrepared)
    heir, mover = await successor(house, tmp_path, script, thawed=False)
    assert (await heir.hears(MoveStumbled)).side == "target"
    assert mover.did == ["abandon"]
    assert heir.journal.lives() == []
    await heir.runner.leave()


async def test_an_arrival_cut_off_while_filling_goes_on_filling(house: House, script: Script, tmp_path: Path) -> None:
    def thaws_and_stops(mover: PretendedMover) -> None:
        mover.tell(SessionThawed(move="m", session="s", incarnation=2, report=MoveReport()))
        mover.broken.wait(10)

    made = script(thaws_and_stops)
    house.runner.instruct(PREPARE)
    await house.hears(ArrivalPrepared)
    with await dial(house):
        await house.hears(SessionThawed)
        heir, mover = await successor(house, tmp_path, script, thawed=True)
        await heir.hears(SessionFilled)
    made[0].broken.set()
    assert mover.did == ["went on"]
    assert (heir.life.state, heir.life.move) == ("running", None)
    await heir.runner.leave()
