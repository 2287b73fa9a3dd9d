"""The controller's one port: HTTP, TLS and the relay share it, so whoever reaches the one reaches the others.

What they are shows in the first byte. With a certificate HTTP is only for this machine itself, where TLS gains nothing;
whoever comes from elsewhere without TLS is told so.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from contextlib import suppress

import uvicorn

from sojourn.controller.relay import Relay
from sojourn.controller.roster import Roster
from sojourn.errors import Invalid, SojournError
from sojourn.transport.address import is_from_here
from sojourn.transport.tls import HANDSHAKE

HANDSHAKE_SECONDS = 10.0
_UPGRADE = (
    "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3\r\nConnection: close\r\nContent-Type: application/json\r\n"
)
ONLY_TLS = Invalid(
    "This controller speaks TLS with other machines, and nothing else.", "Write https:// in its address."
)


class SharedPort(uvicorn.Server):
    """The relay accepts, and hands on what is HTTP."""

    def __init__(self, config: uvicorn.Config, roster: Roster, certificate: ssl.SSLContext | None = None) -> None:
        """`certificate`: what it shows; None: it speaks plain with everybody."""
        super().__init__(config)
        self._roster, self._certificate = roster, certificate
        self._relay: Relay | None = None
        self._admitting: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by `serve` with the one listening socket."""
        await super().startup(sockets=[])
        assert sockets
        allow_many_callers()
        loop = asyncio.get_running_loop()

        def http(connection: socket.socket, first: bytes) -> None:
            if self._certificate is None or first == HANDSHAKE or is_from_here(connection):
                loop.call_soon_threadsafe(self._admit, connection, first == HANDSHAKE)
            else:
                refuse_plain(connection)

        def summon(node: str, call: str) -> None:
            loop.call_soon_threadsafe(self._summon, node, call)

        self._relay = Relay(sockets[0])
        self._relay.open(http, summon)
        self._roster.on_left = self._relay.node_left

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

    def _admit(self, connection: socket.socket, sealed: bool) -> None:
        task = asyncio.create_task(self._speak_http(connection, self._certificate if sealed else None))
        self._admitting.add(task)
        task.add_done_callback(self._admitting.discard)

    async def _speak_http(self, connection: socket.socket, certificate: ssl.SSLContext | None) -> None:
        with suppress(OSError):  # gone already, or it does not trust us
            patience = HANDSHAKE_SECONDS if certificate else None
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(
                self._protocol, connection, ssl=certificate, ssl_handshake_timeout=patience
            )

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


def refuse_plain(connection: socket.socket) -> None:
    """Tell who speaks HTTP here to use TLS, and close. Never waits."""
    body = json.dumps(ONLY_TLS.to_wire()).encode()
    with connection, suppress(OSError):
        connection.send(f"{_UPGRADE}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # a close with bytes unread would take the answer with it
            pass


def allow_many_callers() -> None:
    """Each takes two descriptors here for as long as it is relayed; usual are 1,024 in all."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # macOS promises more than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
