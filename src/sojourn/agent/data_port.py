"""The agent's data port: where fronts bring tunnels and other agents bring moves (contracts, 2).

Nothing is read past the first line, because the socket itself is handed on: a tunnel's to the rider, a move's to
the mover. Of a connection that came sealed (contracts, TLS) it is the plain end that is handed on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sojourn import tickets
from sojourn.errors import Invalid, SojournError, Unauthorized
from sojourn.transport.address import hasten, is_from_here
from sojourn.transport.answers import turn_away
from sojourn.transport.keepalive import notice_death
from sojourn.transport.sealed import answered
from sojourn.transport.tls import HANDSHAKE

log = logging.getLogger(__name__)

_FIRST_LINE_SECONDS = 10.0
_LONGEST_LINE = 16384
_BACKLOG = 128
_MOST_STRANGERS = 256
"""Callers that have shown no ticket yet. More of them wait in the backlog, where they take no descriptors of ours."""

Claims = dict[str, Any]
"""Those of the ticket, and `relayed`: whether the connection came by the relay."""
Doorkeeper = Callable[[socket.socket, Claims], Awaitable[None]]
"""Takes the connection over, answer included, or raises SojournError and leaves it."""


class DataPort:
    """Listens, checks tickets with the node's key, and hands connections to the doorkeeper for what they are for.

    `certificate()`: what the node shows to whoever dials it. While there is one, nobody from elsewhere is let in who
    does not speak TLS.
    """

    def __init__(
        self,
        key: Callable[[], str],
        doorkeepers: dict[str, Doorkeeper],
        certificate: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        self._key, self._doorkeepers, self._certificate = key, doorkeepers, certificate
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = asyncio.Semaphore(_MOST_STRANGERS)

    def open(self, host: str, port: int) -> int:
        """Bind and start; returns the port (port 0: any free one). Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._spawn(self._accept(self._listener))
        bound: int = self._listener.getsockname()[1]
        return bound

    def receive(self, connection: socket.socket) -> None:
        """Take a caller in who came by the relay, as if it had come to this port."""
        self._spawn(self._receive_relayed(connection))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener:
            self._listener.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._strangers.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as full:  # out of descriptors: a pause may free some
                self._strangers.release()
                log.error("cannot accept at the data port: %s", full)
                await asyncio.sleep(1)
                continue
            connection.setblocking(False)
            self._spawn(self._receive(connection))

    async def _receive_relayed(self, connection: socket.socket) -> None:
        try:
            await self._strangers.acquire()
        except asyncio.CancelledError:
            connection.close()
            raise
        connection.setblocking(False)
        await self._receive(connection, relayed=True)

    async def _receive(self, connection: socket.socket, relayed: bool = False) -> None:
        try:
            try:
                async with asyncio.timeout(_FIRST_LINE_SECONDS):
                    connection = await self._opened(connection, relayed)
                    claims = {**self._claims(await first_line(connection)), "relayed": relayed}
            finally:
                self._strangers.release()
            await self._doorkeepers[claims["for"]](connection, claims)
        except SojournError as refused:
            log.info("turned a connection away: %s", refused.message)
            turn_away(connection, refused)
        except (OSError, TimeoutError) as gone:
            log.info("a connection at the data port ended early: %s", gone)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        except Exception:
            log.exception("a defect in the agent, at its data port")
            connection.close()

    async def _opened(self, connection: socket.socket, relayed: bool) -> socket.socket:
        """What the first line is to be read from."""
        hasten(connection)
        notice_death(connection)
        await _readable(connection)
        certificate = self._certificate()
        if connection.recv(1, socket.MSG_PEEK) != HANDSHAKE:
            if certificate and (relayed or not is_from_here(connection)):
                raise Unauthorized("This node speaks TLS with other machines, and nothing else.", "Update Sojourn.")
            return connection
        if certificate is None:
            raise Unauthorized("This node has no certificate.", "Its controller, or the one of before, is --plain.")
        plain = answered(connection, certificate)
        plain.setblocking(False)
        return plain

    def _claims(self, line: bytes) -> Claims:
        try:
            ticket = json.loads(line)["ticket"]
        except (ValueError, KeyError, TypeError, RecursionError) as wrong:
            raise Invalid("The first line is not a ticket.", "Only fronts and agents dial this port.") from wrong
        if not isinstance(ticket, str) or not self._key():
            raise Unauthorized("No ticket can be checked yet.", "Try again when the agent has met its controller.")
        claims = tickets.verify(ticket, self._key(), time.time())
        if claims.get("for") not in self._doorkeepers:
            raise Unauthorized(f"The ticket is for {claims.get('for')!r}.", "Ask the controller for another one.")
        return claims


async def first_line(connection: socket.socket) -> bytes:
    """Read up to and with the first newline, and not one byte more."""
    line = b""
    while len(line) < _LONGEST_LINE:
        await _readable(connection)
        seen = connection.recv(_LONGEST_LINE, socket.MSG_PEEK)
        if not seen:
            raise ConnectionResetError("closed before its first line ended")
        line += connection.recv(seen.find(b"\n") + 1 or len(seen))
        if line.endswith(b"\n"):
            return line
    raise Invalid("The first line is too long.", "Only fronts and agents dial this port.")


async def splice(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both directions have ended, or either has failed; then close both."""
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        pouring = [asyncio.create_task(_pour(one, other)), asyncio.create_task(_pour(other, one))]
        try:
            ended, _ = await asyncio.wait(pouring, return_when=asyncio.FIRST_EXCEPTION)
            log.debug("a spliced tunnel ended: %s", [task.exception() for task in ended])
        finally:
            for task in pouring:
                task.cancel()
            await asyncio.gather(*pouring, return_exceptions=True)


async def _pour(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(source, 1 << 18):
        await loop.sock_sendall(target, chunk)
    target.shutdown(socket.SHUT_WR)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)
