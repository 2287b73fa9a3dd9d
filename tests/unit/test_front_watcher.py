"""What a controller says reaches the front, whatever else it says."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from websockets.asyncio.server import ServerConnection, serve

from sojourn.client import Watched
from sojourn.front import watcher as watchers
from sojourn.front.watcher import Watcher
from sojourn.front.words import ControllerAddress
from sojourn.model import SessionStatus, SessionView

NEWS = Watched(
    session=SessionView(
        id="s", name="", owner="me", status=SessionStatus.RUNNING, node="here", incarnation=1, epoch=1, created_at=0
    ),
    place=None,
    next_place=None,
    move=None,
)


@pytest.mark.parametrize("nonsense", ["no JSON", "[]", NEWS.model_dump_json().replace('"owner"', '"a_later_field"')])
async def test_what_is_not_understood_does_not_end_the_watching(nonsense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "RETRY_SECONDS", (0.01,))
    told: asyncio.Queue[Watched] = asyncio.Queue()
    says = [nonsense]

    async def speak(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(says.pop() if says else NEWS.model_dump_json())
        await socket.wait_closed()

    async with serve(speak, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        watcher = Watcher(
            ControllerAddress(url=f"http://127.0.0.1:{port}", token=""), "anchor", told.put_nowait, lambda session: None
        )
        await watcher.watch("s")
        running = asyncio.create_task(watcher.run())
        assert await asyncio.wait_for(told.get(), 5) == NEWS
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await watcher.client.close()
