"""Two agents with runc and CRIU, and a scripted controller: a running program moves from one to the other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sojourn.agent.main import TOKEN_VARIABLE
from sojourn.chunks import open_store
from sojourn.model import Program, SessionLoad, SessionSpec, StorePass
from sojourn.sandbox.base import open_sandbox
from sojourn.sandbox.mounts import remove_tree
from sojourn.testing.scripted_controller import JOIN_TOKEN, ScriptedController, scripted_controller
from sojourn.wire import (
    AbandonArrival,
    ArrivalAbandoned,
    ArrivalPrepared,
    CommitMove,
    Depart,
    InspectSession,
    LogSent,
    MoveCommitted,
    MoveRolledBack,
    MoveStumbled,
    PrepareArrival,
    RollBackMove,
    SandboxStarted,
    SandboxStopped,
    SaveSession,
    SendLog,
    SessionDied,
    SessionFilled,
    SessionFrozen,
    SessionInspected,
    SessionSaved,
    SessionSent,
    SessionThawed,
    StartSandbox,
    StopSandbox,
    WakeSession,
)

pytestmark = pytest.mark.acceptance

# A heap with a pattern, a generator, a thread, an open file: what no pickle carries. Each line is one step of all.
PROGRAM = """
import hashlib, threading, time
heap = bytearray(hashlib.shake_256(b'pattern').digest(1 << 20) * {megabytes})
whole = hashlib.blake2b(heap).hexdigest()
notes = open('/root/notes-of-the-session', 'w+')
ticks = [0]
def tick():
    while True:
        ticks[0] += 1
        time.sleep(0.005)
threading.Thread(target=tick, daemon=True).start()
def count():
    n = 0
    while True:
        yield n
        n += 1
for n in count():
    notes.write(f'{{n}}\\n'); notes.flush()
    good = '' if n % 50 else ' whole' if hashlib.blake2b(heap).hexdigest() == whole else ' BROKEN'
    print(f'line {{n}}{{good}}', flush=True)
    time.sleep(0.01)
"""


def why_not() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    from sojourn import movers

    strategies, refusals = movers.probe()
    return "" if "lazy" in strategies else str(refusals)


class Pair:
    """The agents `here` and `there` below one folder."""

    def __init__(self, controller: ScriptedController, folder: Path) -> None:
        self.controller, self.folder = controller, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.session = f"t{uuid.uuid4().hex[:12]}"
        url = f"file://{folder / 'store'}"
        self.store = StorePass(url=url, identity=open_store(url).identity(), key="5a" * 32)
        self.log = (folder / "agents.log").open("ab")

    async def start(self, name: str) -> None:
        self.controller.nodes.pop(name, None)
        command = [sys.executable, "-m", "sojourn.agent", "--controller", self.controller.url, "--name", name]
        command += ["--folder", str(self.folder / name)]
        environment = {**os.environ, TOKEN_VARIABLE: JOIN_TOKEN}
        self.processes[name] = subprocess.Popen(command, env=environment, stderr=self.log)  # noqa: ASYNC220 - a test may block
        await self.controller.online(name)

    async def end(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        await asyncio.to_thread(process.wait, 30)

    async def close(self) -> None:
        for name in list(self.processes):
            await self.end(name)
        self.log.close()
        for folder in self.folder.glob("*/sandboxes/*"):
            open_sandbox(folder).remove()

    async def begin(self, megabytes: int = 40) -> None:
        """Start the session `here`."""
        program = Program(
            argv=("/usr/bin/env", "python3", "-c", PROGRAM.format(megabytes=megabytes)),
            env={"PATH": os.environ["PATH"]},
        )
        self.spec = SessionSpec(program=program, sandbox="runc")
        await self.controller.instruct(
            "here", StartSandbox(session=self.session, incarnation=1, epoch=1, spec=self.spec)
        )
        await self.controller.event("here", SandboxStarted, session=self.session)
        await self.lines("here", 20)

    async def prepare(self, source: str, target: str, incarnation: int, strategy: Any) -> str:
        """Up to the word `depart`; returns the move."""
        move = f"m{uuid.uuid4().hex[:12]}"
        prepare = PrepareArrival(
            move=move, session=self.session, incarnation=incarnation, epoch=1, strategy=strategy, spec=self.spec
        )
        await self.controller.instruct(target, prepare)
        await self.controller.event(target, ArrivalPrepared, move=move)
        return move

    async def depart(self, source: str, target: str, move: str, incarnation: int, strategy: Any) -> None:
        ticket = self.controller.move_ticket(move, self.session, incarnation)
        address = self.controller.nodes[target].hello.address or ""
        depart = Depart(
            move=move,
            session=self.session,
            incarnation=incarnation,
            strategy=strategy,
            target=target,
            address=address,
            ticket=ticket,
        )
        await self.controller.instruct(source, depart)

    async def move(self, source: str, target: str, incarnation: int, strategy: Any) -> SessionFilled:
        """Two clients wait at the target; both must be brought to the rider."""
        move = await self.prepare(source, target, incarnation, strategy)
        waiting = [await self.knock(target, incarnation, anchor) for anchor in ("one", "two")]
        await self.depart(source, target, move, incarnation, strategy)
        await self.controller.event(source, SessionFrozen, move=move)
        await self.controller.event(source, SessionSent, move=move)
        await self.controller.event(target, SessionThawed, move=move, incarnation=incarnation)
        for reader, writer in waiting:
            async with asyncio.timeout(5):
                assert json.loads(await reader.readline()) == {"ok": True}
                assert await reader.read(1)  # the rider speaks first
            writer.close()
        filled = await self.controller.event(target, SessionFilled, move=move)
        await self.controller.instruct(source, CommitMove(move=move, session=self.session))
        await self.controller.event(source, MoveCommitted, move=move)
        return filled

    async def save(self, node: str, incarnation: int, *, keep: bool) -> str:
        """Returns the checkpoint; what is not kept stands frozen then."""
        save = await self.begin_save(node, incarnation, keep=keep)
        await self.controller.event(node, SessionSaved, save=save, incarnation=incarnation)
        return save

    async def begin_save(self, node: str, incarnation: int, *, keep: bool) -> str:
        """Up to the freeze."""
        save = f"c{uuid.uuid4().hex[:12]}"
        await self.controller.instruct(
            node, SaveSession(save=save, session=self.session, incarnation=incarnation, keep=keep, store=self.store)
        )
        await self.controller.event(node, SessionFrozen, move=save)
        return save

    def end_of_save(self, node: str, save: str) -> str | None:
        events = self.controller.nodes[node].events
        saved = any(isinstance(event, SessionSaved) and event.save == save for event in events)
        stumbled = any(isinstance(event, MoveStumbled) and event.move == save for event in events)
        return "session_saved" if saved else "move_stumbled" if stumbled else None

    async def release(self, node: str, save: str) -> None:
        await self.controller.instruct(node, CommitMove(move=save, session=self.session))
        await self.controller.event(node, MoveCommitted, move=save)

    async def begin_wake(self, node: str, checkpoint: str, incarnation: int) -> str:
        wake = f"w{uuid.uuid4().hex[:12]}"
        asked = WakeSession(
            wake=wake,
            session=self.session,
            incarnation=incarnation,
            epoch=1,
            checkpoint=checkpoint,
            store=self.store,
            spec=self.spec,
        )
        await self.controller.instruct(node, asked)
        return wake

    async def wake(self, node: str, checkpoint: str, incarnation: int) -> SessionFilled:
        wake = await self.begin_wake(node, checkpoint, incarnation)
        await self.controller.event(node, SessionThawed, move=wake, incarnation=incarnation)
        return await self.controller.event(node, SessionFilled, move=wake)

    async def used(self, node: str) -> SessionLoad:
        """As a heartbeat from now on says."""
        heartbeats = self.controller.nodes[node].heartbeats
        heartbeats.clear()
        await self.controller.until(lambda: bool(heartbeats))
        (load,) = heartbeats[-1].load.used
        return load

    async def paced(self, node: str) -> None:
        """Wait until the node says how fast sessions leave it."""
        heartbeats = self.controller.nodes[node].heartbeats
        await self.controller.until(lambda: heartbeats[-1].load.save_bytes_per_s > 0)

    async def knock(
        self, node: str, incarnation: int, anchor: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = str(self.controller.nodes[node].hello.address).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        ticket = self.controller.tunnel_ticket(self.session, incarnation, anchor=anchor)
        writer.write(json.dumps({"sojourn": 1, "ticket": ticket}).encode() + b"\n")
        return reader, writer

    async def lines(self, node: str, beyond: int = 0) -> list[str]:
        """What the program printed, once it has printed that many lines; each line once, in order, the heap whole."""
        deadline = time.monotonic() + 30
        while True:
            await self.controller.instruct(node, SendLog(request="log", session=self.session, tail_bytes=1 << 20))
            text = (await self.controller.event(node, LogSent, request="log")).text
            lines = [line for line in text.splitlines() if line.startswith("line ")]
            if len(lines) > beyond:
                break
            assert time.monotonic() < deadline, text
            await asyncio.sleep(0.05)
        numbers = [int(line.split()[1]) for line in lines]
        assert numbers == list(range(len(numbers)))
        assert "BROKEN" not in text
        return lines

    async def stop(self, node: str, incarnation: int) -> None:
        await self.controller.instruct(node, StopSandbox(session=self.session, incarnation=incarnation))
        await self.controller.event(node, SandboxStopped, session=self.session)
        assert list((self.folder / node / "sandboxes").iterdir()) == []


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for node in ("here", "there"):
        with suppress(FileNotFoundError):
            remove_tree(tmp_path / node)


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[Pair]:
    async with scripted_controller() as controller:
        pair = Pair(controller, folder)
        try:
            await pair.start("here")
            await pair.start("there")
            yield pair
        finally:
            await pair.close()


@pytest.mark.parametrize("strategy", ["lazy", "copy"])
async def test_a_running_program_moves_there_and_back(pair: Pair, strategy: str) -> None:
    await pair.begin()
    for incarnation, (source, target) in enumerate([("here", "there"), ("there", "here")], start=2):
        before = len(await pair.lines(source))
        filled = await pair.move(source, target, incarnation, strategy)
        assert filled.report.frozen_s > 0
        lines = await pair.lines(target, before + 60)
        assert any("whole" in line for line in lines[before:])
    await pair.stop("here", 3)


async def test_a_session_is_inspected_before_it_moves(pair: Pair) -> None:
    await pair.begin()
    await pair.controller.instruct("here", InspectSession(request="i", session=pair.session))
    found = (await pair.controller.event("here", SessionInspected, request="i")).inspection
    assert found is not None
    assert found.private_dirty_bytes > 40 << 20
    assert found.processes == 2
    await pair.stop("here", 1)


async def test_a_filled_target_that_is_abandoned_gives_the_session_back(pair: Pair) -> None:
    """The rollback: the session goes on at the source from the moment of the freeze."""
    await pair.begin()
    move = await pair.prepare("here", "there", 2, "lazy")
    await pair.depart("here", "there", move, 2, "lazy")
    await pair.controller.event("there", SessionThawed, move=move)
    await pair.controller.instruct("there", AbandonArrival(move=move, session=pair.session))
    await pair.controller.event("there", ArrivalAbandoned, move=move)
    await pair.controller.instruct("here", RollBackMove(move=move, session=pair.session, incarnation=3, epoch=2))
    await pair.controller.event("here", MoveRolledBack, move=move, incarnation=3)
    before = len(await pair.lines("here"))
    await pair.lines("here", before + 60)
    await pair.stop("here", 3)


async def test_a_target_that_is_gone_costs_nothing(pair: Pair) -> None:
    await pair.begin()
    move = await pair.prepare("here", "there", 2, "lazy")
    await pair.end("there", signal.SIGKILL)
    await pair.depart("here", "there", move, 2, "lazy")
    stumbled = await pair.controller.event("here", MoveStumbled, move=move)
    assert stumbled.resumed
    before = len(await pair.lines("here"))
    await pair.lines("here", before + 60)
    await pair.start("there")
    await pair.controller.event("there", MoveStumbled, move=move)
    await pair.stop("here", 1)


@pytest.mark.parametrize("killed", ["here", "there"])
async def test_an_agent_killed_while_filling_loses_nothing(pair: Pair, killed: str) -> None:
    await pair.begin(megabytes=400)
    move = await pair.prepare("here", "there", 2, "lazy")
    await pair.depart("here", "there", move, 2, "lazy")
    await pair.controller.event("there", SessionThawed, move=move)
    await pair.end(killed, signal.SIGKILL)
    await pair.start(killed)
    await pair.controller.event("there", SessionFilled, move=move)
    await pair.controller.instruct("here", CommitMove(move=move, session=pair.session))
    await pair.controller.event("here", MoveCommitted, move=move)
    before = len(await pair.lines("there"))
    await pair.lines("there", before + 60)
    await pair.stop("there", 2)


async def test_a_session_outlives_its_agent_and_its_death_is_told(pair: Pair) -> None:
    await pair.begin()
    await pair.end("here", signal.SIGKILL)
    await pair.start("here")
    (held,) = pair.controller.nodes["here"].hello.held
    assert (held.session, held.state) == (pair.session, "running")
    before = len(await pair.lines("here"))
    await pair.lines("here", before + 10)
    (folder,) = (pair.folder / "here" / "sandboxes").iterdir()
    root = open_sandbox(folder).root_pid()
    assert root is not None
    os.kill(root, signal.SIGKILL)
    await pair.controller.event("here", SessionDied, session=pair.session)
    assert list((pair.folder / "here" / "sandboxes").iterdir()) == []


async def test_a_session_sleeps_here_and_wakes_there_and_here_again(pair: Pair) -> None:
    await pair.begin()
    places = [("here", "there"), ("there", "here"), ("here", "here")]
    for incarnation, (asleep, awake) in enumerate(places, start=2):
        before = len(await pair.lines(asleep))
        checkpoint = await pair.save(asleep, incarnation - 1, keep=False)
        await pair.release(asleep, checkpoint)
        assert list((pair.folder / asleep / "sandboxes").iterdir()) == []
        await pair.wake(awake, checkpoint, incarnation)
        lines = await pair.lines(awake, before + 60)
        assert any("whole" in line for line in lines[before:])
    await pair.paced("here")
    await pair.stop("here", 4)


async def test_a_session_wakes_where_its_frozen_copy_still_stands(pair: Pair) -> None:
    await pair.begin()
    checkpoint = await pair.save("here", 1, keep=False)
    await pair.wake("here", checkpoint, 2)
    await pair.release("here", checkpoint)
    before = len(await pair.lines("here"))
    await pair.lines("here", before + 60)
    await pair.stop("here", 2)


async def test_a_checkpoint_is_taken_of_a_session_that_goes_on(pair: Pair) -> None:
    await pair.begin()
    checkpoint = await pair.save("here", 1, keep=True)
    lines = await pair.lines("here", len(await pair.lines("here")) + 60)
    await pair.stop("here", 1)
    await pair.wake("there", checkpoint, 2)
    assert len(await pair.lines("there")) < len(lines)
    await pair.lines("there", len(lines) + 60)
    await pair.stop("there", 2)


@pytest.mark.parametrize("keep", [True, False])
async def test_an_agent_killed_while_it_saves_leaves_the_session_running_or_saved(pair: Pair, keep: bool) -> None:
    await pair.begin(megabytes=400)
    save = await pair.begin_save("here", 1, keep=keep)
    await pair.end("here", signal.SIGKILL)
    await pair.start("here")
    stumbled = await pair.controller.event("here", MoveStumbled, move=save)
    assert stumbled.resumed
    before = len(await pair.lines("here"))
    await pair.lines("here", before + 60)
    checkpoint = await pair.save("here", 1, keep=False)
    await pair.wake("there", checkpoint, 2)
    await pair.release("here", checkpoint)
    await pair.lines("there", before + 120)
    await pair.stop("there", 2)


async def test_an_agent_killed_while_it_writes_the_chunks_of_what_runs_on(pair: Pair) -> None:
    """The checkpoint is whole, or nothing of it is visible; the session does not notice."""
    await pair.begin(megabytes=400)
    save = await pair.begin_save("here", 1, keep=True)
    before = len(await pair.lines("here", len(await pair.lines("here"))))
    await pair.end("here", signal.SIGKILL)
    told = pair.end_of_save("here", save)  # it may have been quick
    await pair.start("here")
    (held,) = pair.controller.nodes["here"].hello.held
    assert (held.state, held.incarnation, held.move) == ("running", 1, None)
    assert told or await pair.controller.until(lambda: pair.end_of_save("here", save))
    await pair.lines("here", before + 60)
    again = await pair.save("here", 1, keep=True)
    await pair.stop("here", 1)
    await pair.wake("there", again, 2)
    await pair.lines("there", before + 60)
    await pair.stop("there", 2)


async def test_an_agent_killed_while_a_woken_session_fills_loses_nothing(pair: Pair) -> None:
    await pair.begin(megabytes=400)
    before = len(await pair.lines("here"))
    checkpoint = await pair.save("here", 1, keep=False)
    await pair.release("here", checkpoint)
    wake = await pair.begin_wake("there", checkpoint, 2)
    await pair.controller.event("there", SessionThawed, move=wake)
    await pair.end("there", signal.SIGKILL)
    await pair.start("there")
    await pair.controller.event("there", SessionFilled, move=wake)
    await pair.lines("there", before + 60)
    await pair.stop("there", 2)


async def test_a_damaged_checkpoint_is_named_and_nothing_is_left_of_the_wake(pair: Pair) -> None:
    await pair.begin()
    checkpoint = await pair.save("here", 1, keep=False)
    await pair.release("here", checkpoint)
    for pack in (pair.folder / "store" / "owners").glob("*/packs/*"):
        pack.write_bytes(b"not what it was")
    wake = await pair.begin_wake("there", checkpoint, 2)
    stumbled = await pair.controller.event("there", MoveStumbled, move=wake)
    assert (stumbled.side, stumbled.error["code"]) == ("target", "damaged")
    await pair.controller.instruct("there", AbandonArrival(move=wake, session=pair.session))
    await pair.controller.event("there", ArrivalAbandoned, move=wake)
    assert list((pair.folder / "there" / "sandboxes").iterdir()) == []


async def test_a_heartbeat_says_what_a_session_uses_also_after_a_move(pair: Pair) -> None:
    await pair.begin()
    for node, incarnation in (("here", 1), ("there", 2)):
        if incarnation == 2:
            await pair.move("here", "there", 2, "lazy")
            await pair.paced("here")
        load = await pair.used(node)
        assert load.session == pair.session
        assert 40 << 20 < load.memory_bytes < 200 << 20
        assert load.memory_limit_bytes is None
        await pair.lines(node, len(await pair.lines(node)) + 60)
        assert (await pair.used(node)).cpu_seconds > load.cpu_seconds
    await pair.stop("there", 2)
