"""An agent as it is started, with process sandboxes and real riders, and a scripted controller."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from sojourn.agent.main import TOKEN_VARIABLE
from sojourn.model import Program, SessionSpec, StorePass
from sojourn.testing.scripted_controller import JOIN_TOKEN, ScriptedController, scripted_controller
from sojourn.wire import (
    Depart,
    Hello,
    LogSent,
    MoveStumbled,
    ProgramExited,
    SandboxFailedToStart,
    SandboxStarted,
    SandboxStopped,
    SaveSession,
    SendLog,
    SessionDied,
    StartSandbox,
    StopSandbox,
    WakeSession,
)

pytestmark = pytest.mark.integration

FOREVER = "import time; print('ready', flush=True); time.sleep(600)"


class AgentProcess:
    """`python -m sojourn.agent`, in a folder that outlives it."""

    def __init__(self, controller: ScriptedController, folder: Path, *arguments: str) -> None:
        self.controller, self.folder = controller, folder
        command = [sys.executable, "-m", "sojourn.agent", "--controller", controller.url, "--name", "here"]
        command += ["--folder", str(folder), "--sandbox", "process", *arguments]
        with (folder.parent / "agent.log").open("ab") as log:
            environment = {**os.environ, TOKEN_VARIABLE: JOIN_TOKEN}
            self.process = subprocess.Popen(command, env=environment, stderr=log)

    async def online(self) -> Hello:
        return await self.controller.online("here")

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.controller.nodes.pop("here", None)
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 20)


@pytest.fixture
async def controller() -> AsyncIterator[ScriptedController]:
    async with scripted_controller() as controller:
        yield controller


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "node"
    yield folder
    for process in riders(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
async def agent(controller: ScriptedController, folder: Path) -> AsyncIterator[AgentProcess]:
    agent = AgentProcess(controller, folder)
    await agent.online()
    yield agent
    if agent.process.poll() is None:
        await agent.end()


def riders(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or [])
        and "sojourn.agent" not in (process.info["cmdline"] or [])
    ]


def start(code: str = FOREVER, session: str = "s1", incarnation: int = 1) -> StartSandbox:
    program = Program(argv=(sys.executable, "-c", code), uid=os.getuid(), gid=os.getgid())
    return StartSandbox(session=session, incarnation=incarnation, epoch=1, spec=SessionSpec(program=program))


async def test_a_session_starts_runs_logs_and_stops(
    controller: ScriptedController, agent: AgentProcess, folder: Path
) -> None:
    await controller.instruct("here", start())
    started = await controller.event("here", SandboxStarted, session="s1", incarnation=1)
    assert started.sandbox == "process"
    text = ""
    while "ready" not in text:
        await controller.instruct("here", SendLog(request="r", session="s1"))
        text = (await controller.event("here", LogSent, request="r")).text
    await controller.instruct("here", StopSandbox(session="s1", incarnation=1))
    await controller.event("here", SandboxStopped, session="s1")
    assert riders(folder) == []
    assert list((folder / "sandboxes").iterdir()) == []


async def test_every_instruction_may_come_twice(controller: ScriptedController, agent: AgentProcess) -> None:
    await controller.instruct("here", start(), start())
    await controller.event("here", SandboxStarted)
    await controller.event("here", SandboxStarted)
    stop = StopSandbox(session="s1", incarnation=1)
    await controller.instruct("here", stop, stop)
    await controller.event("here", SandboxStopped)
    await controller.event("here", SandboxStopped)


async def test_the_exit_of_a_program_is_told_with_its_code(controller: ScriptedController, agent: AgentProcess) -> None:
    await controller.instruct("here", start("raise SystemExit(7)"))
    assert (await controller.event("here", ProgramExited, session="s1")).code == 7


async def test_the_death_of_a_rider_is_told(controller: ScriptedController, agent: AgentProcess, folder: Path) -> None:
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    rider = next(process for process in riders(folder) if "rider.pyz" in " ".join(process.cmdline()))
    rider.kill()
    died = await controller.event("here", SessionDied, session="s1", incarnation=1)
    assert died.reason
    await controller.until(lambda: not riders(folder))


async def test_a_sandbox_that_cannot_be_made_is_refused_with_the_reason(
    controller: ScriptedController, agent: AgentProcess
) -> None:
    asked = start()
    await controller.instruct(
        "here", asked.model_copy(update={"spec": asked.spec.model_copy(update={"sandbox": "runc"})})
    )
    failed = await controller.event("here", SandboxFailedToStart, session="s1")
    assert failed.error["code"] == "does_not_fit"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_sessions_outlive_their_agent_and_are_taken_back(
    controller: ScriptedController, agent: AgentProcess, folder: Path, number: int
) -> None:
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    before = {process.pid for process in riders(folder)}
    await agent.end(number)
    assert {process.pid for process in riders(folder)} == before
    successor = AgentProcess(controller, folder)
    hello = await successor.online()
    assert [(held.session, held.incarnation, held.state) for held in hello.held] == [("s1", 1, "running")]
    await controller.instruct("here", StopSandbox(session="s1", incarnation=1))
    await controller.event("here", SandboxStopped)
    assert riders(folder) == []
    assert await successor.end() == 0


async def test_a_session_that_died_without_its_agent_is_reported_by_the_next(
    controller: ScriptedController, agent: AgentProcess, folder: Path
) -> None:
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    await agent.end(signal.SIGKILL)
    for process in riders(folder):
        process.kill()
    successor = AgentProcess(controller, folder)
    assert (await successor.online()).held == ()
    await controller.event("here", SessionDied, session="s1", incarnation=1)
    await successor.end()


async def test_a_sandbox_that_no_journal_knows_is_removed(
    controller: ScriptedController, agent: AgentProcess, folder: Path
) -> None:
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    await agent.end(signal.SIGKILL)
    for file in list(folder.glob("journal.sqlite*")):  # noqa: ASYNC240 - a test may block
        file.unlink()
    successor = AgentProcess(controller, folder)
    assert (await successor.online()).held == ()
    assert riders(folder) == []
    await successor.end()


async def test_a_program_exit_is_told_though_nobody_was_there(
    controller: ScriptedController, agent: AgentProcess, folder: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\nraise SystemExit(3)"
    await controller.instruct("here", start(code))
    await controller.event("here", SandboxStarted)
    await agent.end(signal.SIGKILL)
    gate.touch()
    successor = AgentProcess(controller, folder)
    await successor.online()
    assert (await controller.event("here", ProgramExited, session="s1")).code == 3
    await successor.end()


async def test_a_second_agent_on_the_folder_is_turned_away(
    controller: ScriptedController, agent: AgentProcess, folder: Path
) -> None:
    command = [sys.executable, "-m", "sojourn.agent", "--controller", controller.url, "--name", "there"]
    second = await asyncio.to_thread(
        subprocess.run,
        [*command, "--folder", str(folder)],
        env={**os.environ, TOKEN_VARIABLE: JOIN_TOKEN},
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"process {agent.process.pid}" in second.stderr


async def test_a_process_session_cannot_depart_and_runs_on(
    controller: ScriptedController, agent: AgentProcess, folder: Path
) -> None:
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    ticket = controller.move_ticket("m", "s1", 2)
    depart = Depart(
        move="m", session="s1", incarnation=2, strategy="copy", target="t", address="127.0.0.1:9", ticket=ticket
    )
    await controller.instruct("here", depart)
    stumbled = await controller.event("here", MoveStumbled, move="m")
    assert (stumbled.side, stumbled.resumed) == ("source", True)
    assert riders(folder)


async def test_a_process_session_can_not_be_saved_and_nothing_wakes_without_runc(
    controller: ScriptedController, agent: AgentProcess, folder: Path
) -> None:
    store = StorePass(url="memory://nowhere", identity="i", key="00" * 32)
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    await controller.instruct("here", SaveSession(save="v", session="s1", incarnation=1, keep=True, store=store))
    stumbled = await controller.event("here", MoveStumbled, move="v")
    assert (stumbled.side, stumbled.resumed, stumbled.error["code"]) == ("source", True, "immovable")
    assert riders(folder)
    spec = start().spec
    wake = WakeSession(wake="w", session="s2", incarnation=2, epoch=1, checkpoint="v", store=store, spec=spec)
    await controller.instruct("here", wake)
    stumbled = await controller.event("here", MoveStumbled, move="w")
    assert (stumbled.side, stumbled.error["code"]) == ("target", "does_not_fit")
    assert [path.name for path in (folder / "sandboxes").iterdir()] == ["s1.1"]


async def test_a_tunnel_reaches_the_rider_and_a_wrong_incarnation_does_not(
    controller: ScriptedController, agent: AgentProcess
) -> None:
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    answers = {}
    for incarnation in (1, 2):
        ticket = controller.tunnel_ticket("s1", incarnation)
        answers[incarnation], writer = await knock(controller.nodes["here"].hello, ticket)
        writer.close()
    assert answers[1] == {"ok": True}
    assert answers[2]["error"]["code"] == "refused"


async def test_no_token_stands_in_the_process_list_or_reaches_a_rider(
    controller: ScriptedController, agent: AgentProcess, folder: Path
) -> None:
    await controller.instruct("here", start())
    await controller.event("here", SandboxStarted)
    for process in [psutil.Process(agent.process.pid), *riders(folder)]:
        assert JOIN_TOKEN not in process.cmdline()
    assert all(TOKEN_VARIABLE not in process.environ() for process in riders(folder))


async def test_twenty_sessions_cost_the_agent_little(controller: ScriptedController, agent: AgentProcess) -> None:
    spec = SessionSpec(program=Program(argv=("sleep", "600"), uid=os.getuid(), gid=os.getgid()))
    for n in range(20):
        await controller.instruct("here", StartSandbox(session=f"s{n}", incarnation=1, epoch=1, spec=spec))
    for n in range(20):
        await controller.event("here", SandboxStarted, session=f"s{n}")
    process = psutil.Process(agent.process.pid)
    assert process.memory_info().rss < 100 << 20
    assert process.num_threads() < 20


async def knock(hello: Hello, ticket: str) -> tuple[dict, asyncio.StreamWriter]:
    host, _, port = str(hello.address).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(json.dumps({"sojourn": 1, "ticket": ticket}).encode() + b"\n")
    return json.loads(await asyncio.wait_for(reader.readline(), 10)), writer
