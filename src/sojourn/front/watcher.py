"""One WebSocket to a controller, over which a front hears of all its sessions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from sojourn.client import AsyncClient, Watched, read_watched, unwatch_request, watch_request, websocket_url
from sojourn.errors import SojournError, Unknown
from sojourn.front.words import ControllerAddress
from sojourn.settings import file_settings
from sojourn.transport.keepalive import PING_SECONDS, PONG_SECONDS
from sojourn.transport.tls import secret_of

log = logging.getLogger(__name__)

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


class Watcher:
    """Watches sessions for as long as `run` runs, through any number of lost connections.

    `tell(news)` gets each change, and the present state after each reconnect; `gone(session)` is called for one that
    the controller does not know.
    """

    def __init__(
        self,
        controller: ControllerAddress,
        anchor: str,
        tell: Callable[[Watched], None],
        gone: Callable[[str], None],
    ) -> None:
        self.client = AsyncClient(controller.url, controller.token)
        self._controller = controller
        self._anchor = anchor
        self._tell = tell
        self._gone = gone
        self._sessions: set[str] = set()
        self._socket: ClientConnection | None = None

    async def watch(self, session: str) -> None:
        self._sessions.add(session)
        await self._say(watch_request(session, self._anchor))

    async def unwatch(self, session: str) -> None:
        self._sessions.discard(session)
        await self._say(unwatch_request(session))

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                async with await self._dial() as socket:
                    self._socket, failures = socket, 0
                    await self._listen(socket)
            except (OSError, WebSocketException, SojournError) as down:
                if not failures:  # it may be away for days
                    log.info("no word from the controller at %s: %s", self._controller.url, down)
            except Exception:
                # As from a controller of another version. Who does not listen any more loses every session.
                log.exception("the controller at %s is not understood", self._controller.url)
                failures = len(RETRY_SECONDS)
            finally:
                self._socket = None
            self._follow()
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1

    def _follow(self) -> None:
        """Where the user has logged in since: the same token at another address is the same controller, moved."""
        with suppress(SojournError, OSError):
            chosen = file_settings().get("controller", {})
            token, now = self._controller.token, str(chosen.get("token", ""))
            if token and secret_of(now) == secret_of(token) and chosen.get("url"):
                self._controller = ControllerAddress(url=chosen["url"], token=now)
                self.client.go_to(self._controller.url, now)

    async def _dial(self) -> connect:
        headers = {"Authorization": f"Bearer {self._controller.token}"}
        url = websocket_url(self._controller.url)
        return connect(
            url,
            additional_headers=headers,
            compression=None,
            proxy=None,
            max_size=None,
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            **await self.client.sealing(),
        )

    async def _listen(self, socket: ClientConnection) -> None:
        for session in list(self._sessions):
            await socket.send(json.dumps(watch_request(session, self._anchor)))
        async for text in socket:
            try:
                self._tell(read_watched(text))
            except SojournError:
                await self._look_for_the_gone()

    async def _look_for_the_gone(self) -> None:
        """A refused watch does not name its session."""
        for session in list(self._sessions):
            try:
                await self.client.session(session)
            except Unknown:
                self._sessions.discard(session)
                self._gone(session)
            except SojournError as failure:
                log.warning("what became of session %s is not known: %s", session, failure.message)

    async def _say(self, message: dict[str, object]) -> None:
        if self._socket:
            with suppress(WebSocketException):  # `run` says it again once there is a connection
                await self._socket.send(json.dumps(message))
