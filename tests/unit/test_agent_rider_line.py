from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sojourn.agent import rider_line
from sojourn.agent.rider_line import RiderLine
from sojourn.errors import Invalid, Unreachable


class Rider:
    """The far end of each connection the line dials."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    secret = "secret"

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        asyncio.run_coroutine_threadsafe(self._accept(theirs), self._loop)
        return ours

    async def _accept(self, end: socket.socket) -> None:
        await self.calls.put(await asyncio.open_connection(sock=end))

    async def answer(self, **answer: Any) -> tuple[dict[str, Any], asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.wait_for(self.calls.get(), 5)
        first = json.loads(await reader.readline())
        writer.write(json.dumps(answer or {"ok": True, "incarnation": first["incarnation"]}).encode() + b"\n")
        return first, reader, writer


@asynccontextmanager
async def a_line(rider: Rider) -> AsyncIterator[RiderLine]:
    line = RiderLine(rider, "s", rider.heard.put_nowait)
    try:
        yield line
    finally:
        await line.let_go()
        while not rider.calls.empty():
            rider.calls.get_nowait()[1].close()


@pytest.fixture(autouse=True)
def quick_redial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rider_line, "_REDIAL_SECONDS", 0.01)


async def test_the_first_line_says_who_we_are_and_the_rest_is_heard() -> None:
    rider = Rider()
    async with a_line(rider) as line:
        await line.attach(incarnation=3, epoch=2)
        first, reader, writer = await rider.answer()
        assert first == {"attach": "control", "session": "s", "incarnation": 3, "epoch": 2, "secret": "secret"}
        await line.attached(5)
        line.send({"do": "status"})
        assert json.loads(await reader.readline()) == {"do": "status"}
        writer.write(b'{"event":"started","pid":5}\n')
        assert await asyncio.wait_for(rider.heard.get(), 5) == {"event": "started", "pid": 5}
        writer.close()


async def test_a_lost_line_comes_back_by_itself() -> None:
    rider = Rider()
    async with a_line(rider) as line:
        await line.attach(1, 1)
        _, _, writer = await rider.answer()
        writer.close()
        _, _, writer = await rider.answer()
        await line.attached(5)
        writer.close()


async def test_a_line_that_was_let_go_stays_away() -> None:
    rider = Rider()
    async with a_line(rider) as line:
        await line.attach(1, 1)
        _, reader, writer = await rider.answer()
        await line.attached(5)
        await line.let_go()
        assert await reader.read() == b""
        await asyncio.sleep(0.05)
        assert rider.calls.empty()
        with pytest.raises(Unreachable):
            line.send({"do": "status"})
        writer.close()


async def test_a_refusal_is_tried_again_and_the_line_is_not_up() -> None:
    rider = Rider()
    async with a_line(rider) as line:
        await line.attach(1, 1)
        _, _, writer = await rider.answer(ok=False, error="older incarnation")
        with pytest.raises(Unreachable):
            await line.attached(0.03)
        writer.close()
        _, _, writer = await rider.answer()
        await line.attached(5)
        writer.close()


@pytest.mark.parametrize("trouble", [sqlite3.OperationalError("database or disk is full"), KeyError("event")])
async def test_a_message_that_can_not_be_dealt_with_costs_a_connection_not_the_line(
    trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rider_line, "_STUMBLE_SECONDS", 0.01)
    rider = Rider()
    heard = rider.heard.put_nowait
    troubles = [trouble]

    def hear(message: Any) -> None:
        if troubles:
            raise troubles.pop()
        heard(message)

    monkeypatch.setattr(rider.heard, "put_nowait", hear)
    async with a_line(rider) as line:
        await line.attach(1, 1)
        for _ in range(2):
            _, _, writer = await rider.answer()
            writer.write(b'{"event": "verb"}\n')
        assert await asyncio.wait_for(rider.heard.get(), 5) == {"event": "verb"}
        writer.close()


def test_an_object_nested_too_deep_is_no_message() -> None:
    with pytest.raises(Invalid):
        rider_line.decode(b"[" * 100_000 + b"\n")
