from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sojourn import tickets
from sojourn.agent import data_port
from sojourn.agent.data_port import Claims, DataPort
from sojourn.errors import Busy
from sojourn.transport.answers import say

KEY = "ab" * 32


class House:
    """A data port whose doorkeeper keeps what it gets."""

    def __init__(self) -> None:
        self.guests: asyncio.Queue[tuple[socket.socket, Claims]] = asyncio.Queue()
        self.refusal: Exception | None = None
        self.key = KEY
        self.port = DataPort(lambda: self.key, {"tunnel": self._receive})
        self.number = self.port.open("127.0.0.1", 0)

    async def _receive(self, connection: socket.socket, claims: Claims) -> None:
        if self.refusal:
            raise self.refusal
        say(connection, {"ok": True})
        await self.guests.put((connection, claims))

    async def call(self, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        return reader, writer


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.port.close()


def ticket(key: str = KEY, seconds: float = 60, **claims: Any) -> str:
    body = {"for": "tunnel", "session": "s", "incarnation": 1, "epoch": 1, "anchor": "a", **claims}
    return tickets.sign(body, key, time.time() + seconds)


def knock(**claims: Any) -> bytes:
    return json.dumps({"sojourn": 1, "ticket": ticket(**claims)}).encode() + b"\n"


async def test_a_good_ticket_is_let_in_and_nothing_behind_it_is_lost(house: House) -> None:
    reader, writer = await house.call(knock() + b"first frame")
    connection, claims = await house.guests.get()
    assert claims["anchor"] == "a"
    assert connection.recv(100) == b"first frame"
    assert json.loads(await reader.readline()) == {"ok": True}
    connection.close()
    writer.close()


async def test_a_first_line_may_come_in_pieces(house: House) -> None:
    line = knock()
    _, writer = await house.call(line[:5], line[5:-1], line[-1:])
    connection, claims = await asyncio.wait_for(house.guests.get(), 5)
    assert claims["session"] == "s"
    connection.close()
    writer.close()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "invalid"),
        (b'{"sojourn": 1}\n', "invalid"),
        (b'{"ticket": 5}\n', "unauthorized"),
        (knock(key="cd" * 32), "unauthorized"),
        (knock(seconds=-1), "unauthorized"),
        (knock(**{"for": "tea"}), "unauthorized"),
        (b"x" * 20000 + b"\n", "invalid"),
        (b"[" * 16000 + b"\n", "invalid"),
    ],
)
async def test_anybody_else_is_told_why_not(house: House, line: bytes, code: str) -> None:
    reader, writer = await house.call(line)
    answer = json.loads(await reader.readline())
    assert (answer["ok"], answer["error"]["code"]) == (False, code)
    writer.close()


async def test_no_ticket_is_good_before_the_controller_gave_a_key(house: House) -> None:
    house.key = ""
    reader, writer = await house.call(knock())
    assert json.loads(await reader.readline())["error"]["code"] == "unauthorized"
    writer.close()


async def test_what_the_doorkeeper_refuses_is_answered_and_closed(house: House) -> None:
    house.refusal = Busy("It is frozen.", "Wait.")
    reader, writer = await house.call(knock())
    assert json.loads(await reader.readline())["error"] == {"code": "busy", "message": "It is frozen.", "hint": "Wait."}
    assert await reader.read() == b""
    writer.close()


async def test_a_caller_that_hangs_up_early_harms_nobody(house: House) -> None:
    _, writer = await house.call(b'{"sojo')
    writer.close()
    reader, writer = await house.call(knock())
    assert json.loads(await reader.readline()) == {"ok": True}
    (await house.guests.get())[0].close()
    writer.close()


async def test_callers_that_say_nothing_take_a_bounded_number_of_descriptors(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_port, "_FIRST_LINE_SECONDS", 0.3)
    house.port._strangers = asyncio.Semaphore(3)
    silent = [await house.call(b"") for _ in range(8)]
    await asyncio.sleep(0.1)
    assert len(house.port._tasks) <= 1 + 3 + 1
    reader, writer = await house.call(knock())
    assert json.loads(await asyncio.wait_for(reader.readline(), 5)) == {"ok": True}
    for _, one in [*silent, (reader, writer)]:
        one.close()
