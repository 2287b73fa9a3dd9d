"""What a controller says reaches the front, whatever else it says."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from sojourn.cli.account import write_settings
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


async def test_a_controller_that_has_moved_is_followed_to_where_the_user_has_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "RETRY_SECONDS", (0.01,))
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    told: asyncio.Queue[Watched] = asyncio.Queue()

    async def speak(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(NEWS.model_dump_json())
        await socket.wait_closed()

    async with serve(speak, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        before = ControllerAddress(url="http://127.0.0.1:1", token="the same")
        watcher = Watcher(before, "anchor", told.put_nowait, lambda session: None)
        await watcher.watch("s")
        running = asyncio.create_task(watcher.run())
        write_settings(url, "another")
        await asyncio.sleep(0.1)
        assert watcher.client.url == before.url  # that is another controller's
        write_settings(url, "the same")
        assert await asyncio.wait_for(told.get(), 5) == NEWS
        assert watcher.client.url == url
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await watcher.client.close()
