"""A controller that does what a test tells it: agents dial it, it sends instructions and keeps their events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from sojourn import tickets
from sojourn.wire import (
    Acknowledge,
    Event,
    Heartbeat,
    Hello,
    Instruct,
    Instruction,
    Report,
    Welcome,
    from_agent,
)

JOIN_TOKEN = "join"
KEY = "5a" * 32

Found = TypeVar("Found")


@dataclass
class ScriptedNode:
    """What the controller knows of one agent."""

    hello: Hello
    connection: ServerConnection
    events: list[Event] = field(default_factory=list)
    """Each numbered event once, however often it was repeated; casual ones as they come."""
    numbers: set[int] = field(default_factory=set)
    heartbeats: list[Heartbeat] = field(default_factory=list)


class ScriptedController:
    """Made by `scripted_controller()`."""

    def __init__(self) -> None:
        self.nodes: dict[str, ScriptedNode] = {}
        self.tokens: list[str] = []
        """What each connection showed."""
        self.accepted = {JOIN_TOKEN, "own token"}
        self.acknowledging = True
        self.heartbeat_seconds = 0.2
        self.url = ""
        self._change = asyncio.Condition()

    async def instruct(self, node: str, *instructions: Instruction) -> None:
        for instruction in instructions:
            await self.nodes[node].connection.send(Instruct(instruction=instruction).model_dump_json())

    async def event(self, node: str, kind: type[Found], seconds: float = 30, **fields: Any) -> Found:
        """Wait for the newest event of a kind with these fields that was not asked for before; it is then taken."""

        def newest() -> Found | None:
            for event in reversed(self.nodes[node].events if node in self.nodes else []):
                if isinstance(event, kind) and fields.items() <= event.__dict__.items():
                    self.nodes[node].events.remove(event)
                    return event
            return None

        return await self.until(newest, seconds, lambda: f"{kind.__name__} {fields}, but: {self._told(node)}")

    async def online(self, node: str, seconds: float = 30) -> Hello:
        """Wait for a connection of this node; `gone` or a restart before makes it a new one."""
        await self.until(lambda: self.nodes.get(node), seconds, lambda: f"node {node}")
        return self.nodes[node].hello

    async def until(
        self, found: Callable[[], Found | None], seconds: float = 30, what: Callable[[], str] = lambda: "?"
    ) -> Found:
        deadline = time.monotonic() + seconds
        async with self._change:
            while not (value := found()):
                left = deadline - time.monotonic()
                try:
                    await asyncio.wait_for(self._change.wait(), max(left, 0))
                except TimeoutError:
                    raise AssertionError(f"waited {seconds:g} s for {what()}") from None
            return value

    def tunnel_ticket(self, session: str, incarnation: int, epoch: int = 1, anchor: str = "anchor") -> str:
        claims = {"for": "tunnel", "session": session, "incarnation": incarnation, "epoch": epoch, "anchor": anchor}
        return tickets.sign(claims, KEY, time.time() + 600)

    def move_ticket(self, move: str, session: str, incarnation: int) -> str:
        claims = {"for": "move", "move": move, "session": session, "incarnation": incarnation}
        return tickets.sign(claims, KEY, time.time() + 600)

    # ── the server ──

    def turn_away(self, connection: ServerConnection, request: Request) -> Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.tokens.append(token)
        return None if token in self.accepted else connection.respond(401, "unauthorized\n")

    async def receive(self, connection: ServerConnection) -> None:
        hello = from_agent.validate_json(await connection.recv())
        assert isinstance(hello, Hello)
        welcome = Welcome(
            node=f"id of {hello.name}", token="own token", key=KEY, heartbeat_seconds=self.heartbeat_seconds
        )
        await connection.send(welcome.model_dump_json())
        before = self.nodes.get(hello.name)
        node = ScriptedNode(hello, connection)
        if before:
            node.events, node.numbers = before.events, before.numbers
        self.nodes[hello.name] = node
        await self._changed()
        with suppress(ConnectionClosed):
            async for text in connection:
                await self._heard(node, from_agent.validate_json(text))

    async def _heard(self, node: ScriptedNode, message: Hello | Report | Heartbeat) -> None:
        if isinstance(message, Heartbeat):
            node.heartbeats.append(message)
        elif isinstance(message, Report):
            if message.number not in node.numbers or message.number == 0:
                node.numbers.add(message.number)
                node.events.append(message.event)
            if self.acknowledging and message.number:
                await node.connection.send(Acknowledge(number=message.number).model_dump_json())
        await self._changed()

    async def _changed(self) -> None:
        async with self._change:
            self._change.notify_all()

    def _told(self, node: str) -> list[str]:
        return [repr(event) for event in self.nodes[node].events] if node in self.nodes else ["never came online"]


@asynccontextmanager
async def scripted_controller(port: int = 0) -> AsyncIterator[ScriptedController]:
    controller = ScriptedController()
    server: Server
    async with serve(controller.receive, "127.0.0.1", port, process_request=controller.turn_away) as server:
        controller.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield controller
