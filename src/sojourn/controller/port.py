"""The controller's one port: HTTP and the relay share it, so whoever reaches the one reaches the other."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

import uvicorn

from sojourn.controller.relay import Relay
from sojourn.controller.roster import Roster
from sojourn.errors import SojournError


class SharedPort(uvicorn.Server):
    """The relay accepts, and hands on what is HTTP."""

    def __init__(self, config: uvicorn.Config, roster: Roster) -> None:
        super().__init__(config)
        self._roster = roster
        self._relay: Relay | None = None
        self._admitting: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by `serve` with the one listening socket."""
        await super().startup(sockets=[])
        assert sockets
        allow_many_callers()
        loop = asyncio.get_running_loop()

        def http(connection: socket.socket) -> None:
            loop.call_soon_threadsafe(self._admit, connection)

        def summon(node: str, call: str) -> None:
            loop.call_soon_threadsafe(self._summon, node, call)

        self._relay = Relay(sockets[0])
        self._relay.open(http, summon)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_relay()
        await super().shutdown(sockets)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self._end_relay()

    def _end_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay:
            relay.close()

    def _admit(self, connection: socket.socket) -> None:
        task = asyncio.create_task(self._speak_http(connection))
        self._admitting.add(task)
        task.add_done_callback(self._admitting.discard)

    async def _speak_http(self, connection: socket.socket) -> None:
        with suppress(OSError):  # gone already, or no TLS where there should be
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _summon(self, node: str, call: str) -> None:
        try:
            self._roster.call(node, call)
        except SojournError as refused:
            if self._relay:
                self._relay.refuse(call, refused)


def allow_many_callers() -> None:
    """Each takes two descriptors here for as long as it is relayed; usual are 1,024 in all."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # macOS promises more than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
