from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sojourn.agent import line as line_module
from sojourn.agent.identity import Identity
from sojourn.agent.journal import Journal
from sojourn.agent.line import Line, websocket_url
from sojourn.model import Capabilities, Load, Resources
from sojourn.testing.scripted_controller import JOIN_TOKEN, ScriptedController, scripted_controller
from sojourn.wire import (
    PROTOCOL,
    Event,
    FillProgressed,
    Hello,
    Instruction,
    SandboxStopped,
    StopSandbox,
)

ABLE = Capabilities(
    os="linux",
    arch="x86_64",
    kernel="6",
    python="3.12",
    sojourn="0",
    machine_id="m",
    root_id="r",
    sandboxes=("process",),
)


def hello() -> Hello:
    return Hello(
        protocol=PROTOCOL,
        version="0",
        name="here",
        labels=(),
        capacity=Resources(cores=1, memory_bytes=1),
        capabilities=ABLE,
        address=None,
        held=(),
    )


class Caller:
    """A line over a journal, with what it was told to do."""

    def __init__(self, folder: Path, url: str, *elsewhere: str) -> None:
        self.journal = Journal(folder / "journal.sqlite", "boot")
        self.identity = Identity.load(folder / "node.json", JOIN_TOKEN)
        self.asked: asyncio.Queue[Instruction] = asyncio.Queue()
        self.line = Line(url, self.identity, self.journal, hello, Load, self.asked.put_nowait, elsewhere=elsewhere)
        self.journal.on_event = self.line.wake

    def stopped(self, session: str) -> None:
        self.journal.write_event(SandboxStopped(session=session, incarnation=1))


@asynccontextmanager
async def calling(folder: Path, url: str, *elsewhere: str) -> AsyncIterator[Caller]:
    caller = Caller(folder, url, *elsewhere)
    running = asyncio.create_task(caller.line.run())
    try:
        yield caller
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        caller.journal.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "_FIRST_PAUSE_SECONDS", 0.02)


@pytest.fixture
async def controller() -> AsyncIterator[ScriptedController]:
    async with scripted_controller() as controller:
        yield controller


def sessions(controller: ScriptedController) -> list[str]:
    return [event.session for event in controller.nodes["here"].events]


async def test_hello_comes_first_and_the_nodes_own_token_is_kept(
    controller: ScriptedController, tmp_path: Path
) -> None:
    async with calling(tmp_path, controller.url):
        assert await controller.online("here") == hello()
    assert controller.tokens == [JOIN_TOKEN]
    assert Identity.load(tmp_path / "node.json", "").bearer == "own token"
    assert (tmp_path / "node.json").stat().st_mode & 0o777 == 0o600


async def test_a_token_that_is_no_longer_known_gives_way_to_the_join_token(
    controller: ScriptedController, tmp_path: Path
) -> None:
    controller.accepted = {JOIN_TOKEN}
    (tmp_path / "node.json").write_text('{"node": "n", "token": "old", "key": "00"}')
    async with calling(tmp_path, controller.url):
        await controller.online("here")
    assert controller.tokens == ["old", JOIN_TOKEN]


async def test_a_controller_that_has_moved_is_found_at_another_of_its_addresses(tmp_path: Path) -> None:
    async with scripted_controller() as second, AsyncExitStack() as until_moved:
        first = await until_moved.enter_async_context(scripted_controller())
        async with calling(tmp_path, first.url, second.url) as caller:
            await first.online("here")
            await first.nodes["here"].connection.close()
            await first.until(lambda: len(first.tokens) == 2)  # one that hangs up is dialled again first
            assert (caller.line.controller, second.tokens) == (first.url, [])
            await until_moved.aclose()
            await second.online("here")
            assert caller.line.controller == second.url


async def test_a_strangers_refusal_does_not_cost_a_node_its_token(tmp_path: Path) -> None:
    """As of another controller that listens now where ours did."""
    (tmp_path / "node.json").write_text('{"node": "n", "token": "own token", "key": "00"}')
    async with scripted_controller() as stranger, scripted_controller() as ours:
        stranger.accepted = set()
        async with calling(tmp_path, stranger.url, ours.url) as caller:
            await ours.online("here")
            assert caller.line.controller == ours.url
    assert stranger.tokens == ["own token", JOIN_TOKEN]
    assert ours.tokens == ["own token"]


async def test_events_go_out_in_order_and_are_forgotten_when_acknowledged(
    controller: ScriptedController, tmp_path: Path
) -> None:
    async with calling(tmp_path, controller.url) as caller:
        caller.stopped("before the line was up")
        await controller.online("here")
        caller.stopped("after")
        await controller.event("here", SandboxStopped, session="after")
        assert sessions(controller) == ["before the line was up"]
        await controller.until(lambda: not caller.journal.events_after(0))


async def test_what_was_not_acknowledged_comes_again_after_a_reconnect(
    controller: ScriptedController, tmp_path: Path
) -> None:
    controller.acknowledging = False
    async with calling(tmp_path, controller.url) as caller:
        caller.stopped("one")
        await controller.event("here", SandboxStopped)
        first = controller.nodes.pop("here")
        await first.connection.close()
        await controller.online("here")
        again = await controller.event("here", SandboxStopped)
    assert again.session == "one"


async def test_casual_news_is_told_once_and_not_kept(controller: ScriptedController, tmp_path: Path) -> None:
    async with calling(tmp_path, controller.url) as caller:
        await controller.online("here")
        caller.line.tell(FillProgressed(move="m", session="s", done_bytes=1, total_bytes=2))
        await controller.event("here", FillProgressed)
        assert caller.journal.events_after(0) == []


async def test_instructions_come_in_and_heartbeats_go_out(controller: ScriptedController, tmp_path: Path) -> None:
    async with calling(tmp_path, controller.url) as caller:
        await controller.online("here")
        await controller.instruct("here", StopSandbox(session="s", incarnation=1))
        assert await asyncio.wait_for(caller.asked.get(), 5) == StopSandbox(session="s", incarnation=1)
        await controller.until(lambda: len(controller.nodes["here"].heartbeats) >= 2)


async def test_a_heartbeat_that_is_due_does_not_wait(controller: ScriptedController, tmp_path: Path) -> None:
    controller.heartbeat_seconds = 600
    async with calling(tmp_path, controller.url) as caller:
        await controller.until(lambda: "here" in controller.nodes and bool(controller.nodes["here"].heartbeats))
        caller.line.beat()
        await controller.until(lambda: len(controller.nodes["here"].heartbeats) == 2)


async def test_it_dials_until_the_controller_is_there(tmp_path: Path) -> None:
    async with scripted_controller() as gone:
        url = gone.url
    async with calling(tmp_path, url):
        await asyncio.sleep(0.1)
        async with scripted_controller(urlsplit(url).port or 0) as back:
            await back.online("here")


async def test_a_journal_that_can_not_be_read_for_a_while_does_not_end_the_agent(
    controller: ScriptedController, tmp_path: Path
) -> None:
    async with calling(tmp_path, controller.url) as caller:
        read, failures = caller.journal.events_after, [sqlite3.OperationalError("database or disk is full")]

        def fail_once(number: int) -> list[tuple[int, Event]]:
            if failures:
                raise failures.pop()
            return read(number)

        caller.journal.events_after = fail_once  # type: ignore[method-assign]
        caller.stopped("s")
        await controller.until(lambda: "here" in controller.nodes and bool(controller.nodes["here"].events))
        assert not failures


def test_where_agents_dial() -> None:
    assert websocket_url("http://host:1/") == "ws://host:1/api/agent"
    assert websocket_url("https://host") == "wss://host/api/agent"
