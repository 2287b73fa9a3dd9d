"""A controller whose database is a server: what happens when that goes away and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from tests.integration.fake_agent import FakeAgent
from websockets.exceptions import WebSocketException

from sojourn import wire
from sojourn.client import AsyncClient
from sojourn.database import Database
from sojourn.errors import Busy, Invalid, SojournError
from sojourn.model import Program, SessionSpec
from sojourn.testing.postgresql import Server, postgresql, why_no_postgresql

serve = import_module("sojourn.controller.serve")
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if reason := why_no_postgresql():
        pytest.skip(reason)
    with postgresql() as running:
        yield running


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """Of a controller on an empty database."""
    environment = {**os.environ, "SOJOURN_HOME": str(tmp_path), "SOJOURN_DATABASE": server.new_database()}
    argv = [sys.executable, "-m", "sojourn.controller", "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*argv, env=environment)
    card = tmp_path / "data/controller/controller.json"
    while not card.exists():
        assert process.returncode is None
        await asyncio.sleep(0.05)
    known = json.loads(card.read_text())
    async with AsyncClient(known["url"], known["token"]) as made:
        yield made
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def joined(client: AsyncClient) -> FakeAgent:
    """A node that says only what it is told to say."""
    token = (await client.create_token("join", "nodes"))["token"]
    agent = FakeAgent(client.url, token, "here")
    agent.silent = {"start_sandbox"}
    assert isinstance(await agent.dial(), wire.Welcome)
    return agent


async def test_no_event_is_lost_when_the_database_is_started_again(client: AsyncClient, server: Server) -> None:
    agent = await joined(client)
    session = await client.start(SessionSpec(program=Program(argv=("python",))))
    asked = await agent.heard_of(wire.StartSandbox)
    started = wire.SandboxStarted(session=session.id, incarnation=asked.incarnation, sandbox="process")

    server.stop()
    with suppress(WebSocketException):  # the controller may have noticed before
        await agent.report(started, number=1)
    assert agent._task
    await asyncio.wait_for(agent._task, 10)  # the controller hangs up on all: it has nothing to write to
    assert agent.acknowledged == 0
    server.start()

    await _again(agent.dial)  # with the token that stands in the database
    assert (await client.session(session.id)).status == "starting"
    await agent.report(started, number=1)
    await _again(lambda: _is_acknowledged(agent, 1))
    assert (await client.session(session.id)).status == "running"
    await agent.hang_up()


async def test_what_the_database_cannot_hold_is_refused(client: AsyncClient) -> None:
    agent = await joined(client)
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(Invalid):
            await client.start(SessionSpec(name=name, program=Program(argv=("python",))))
    assert await client.sessions(everything=True) == []
    await agent.hang_up()


def test_who_has_lost_the_database_to_another_controller_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "GHOST_SECONDS", 0.5)
    following = Database(server.new_database())
    with pytest.raises(Busy, match="Another controller"):
        serve._open_again(following.url)
    following.close()


async def _is_acknowledged(agent: FakeAgent, number: int) -> bool:
    return agent.acknowledged == number


async def _again(ask: Callable[[], Awaitable[object]]) -> None:
    """Until it succeeds, and gives something."""
    async with asyncio.timeout(20):
        while True:
            with suppress(OSError, SojournError, WebSocketException):
                if await ask():
                    return
            await asyncio.sleep(0.05)
