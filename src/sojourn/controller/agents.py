"""The agents' WebSocket: hello, then reports in and instructions out."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from starlette.websockets import WebSocket, WebSocketDisconnect

from sojourn.controller.questions import Answer
from sojourn.database import Node, Token
from sojourn.errors import Invalid, SojournError, Unauthorized
from sojourn.transport.routes import is_loopback
from sojourn.wire import (
    Acknowledge,
    FromController,
    Heartbeat,
    Hello,
    ImageFetched,
    ImageProgressed,
    Report,
    Turned,
    VerbAsked,
    from_agent,
)

if TYPE_CHECKING:
    from sojourn.controller.controller import Controller

log = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
SEND_SECONDS = 20.0
"""An agent that takes nothing for so long is gone, though its connection may not know it yet."""


class AgentLine:
    """One connection. `send` never waits; what can't be sent any more is told again when the agent returns."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._outgoing: asyncio.Queue[FromController | None] = asyncio.Queue()
        self.heard_at = time.monotonic()

    def send(self, message: FromController) -> None:
        self._outgoing.put_nowait(message)

    def close(self) -> None:
        self._outgoing.put_nowait(None)

    async def receive(self) -> Hello | Report | Heartbeat:
        """Raises WebSocketDisconnect, and Invalid for what is not of this protocol."""
        text = await self._socket.receive_text()
        self.heard_at = time.monotonic()
        try:
            return from_agent.validate_json(text)
        except ValidationError as unknown:
            raise Invalid(f"That is not a message: {unknown}") from unknown

    async def deliver(self) -> None:
        """Send what is to be sent until the line is closed."""
        while (message := await self._outgoing.get()) is not None:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_text(message.model_dump_json())
        await self._socket.close()


async def attend(controller: Controller, socket: WebSocket) -> None:
    """One agent, from its hello until its line is down."""
    secret = bearer(socket.headers.get("authorization"))
    is_local = socket.client is None or is_loopback(f"{socket.client.host}:0")
    try:
        credential = _credential(controller, secret)
    except Unauthorized as refused:
        log.warning("an agent was refused: %s", refused.message)
        await socket.close(4401)
        return
    await socket.accept()
    line = AgentLine(socket)
    try:
        name = await _introduce(controller, line, secret, credential, is_local)
    except (SojournError, TimeoutError, WebSocketDisconnect, SQLAlchemyError) as refused:
        await _turn_away(socket, refused)
        return
    delivery = asyncio.create_task(line.deliver())
    listening = asyncio.create_task(_listen(controller, name, line))
    try:
        await asyncio.wait((delivery, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (delivery, listening):
            task.cancel()
        await asyncio.gather(delivery, listening, return_exceptions=True)
        controller.agent_left(name, line)


def bearer(header: str | None) -> str:
    return (header or "").removeprefix("Bearer ").strip()


def _credential(controller: Controller, secret: str) -> Token | Node:
    return controller.roster.holder(secret) or controller.gate.joiner(secret, controller.clock())


async def _introduce(
    controller: Controller, line: AgentLine, secret: str, credential: Token | Node, is_local: bool
) -> str:
    hello = await asyncio.wait_for(line.receive(), HELLO_SECONDS)
    if not isinstance(hello, Hello):
        raise Invalid("An agent's first message is its hello.", "Update its Sojourn.")
    line.send(controller.roster.admit(hello, secret, credential, controller.clock(), is_local))
    controller.agent_arrived(hello.name, line, hello.held)
    return hello.name


async def _turn_away(socket: WebSocket, reason: Exception) -> None:
    log.warning("an agent was turned away: %s", reason)
    if isinstance(reason, SojournError):
        await socket.send_text(Turned(error=reason.to_wire()).model_dump_json())
    if not isinstance(reason, WebSocketDisconnect):
        await socket.close()


async def _listen(controller: Controller, name: str, line: AgentLine) -> None:
    try:
        while True:
            try:
                message = await line.receive()
            except Invalid as unknown:
                log.error("node %s: %s", name, unknown.message)
                continue
            if isinstance(message, Heartbeat):
                controller.roster.beat(name, message.load, controller.clock())
            elif isinstance(message, Report):
                _take(controller, name, message)
                if message.number:
                    line.send(Acknowledge(number=message.number))
    except WebSocketDisconnect:
        log.info("the line to node %s is down", name)
    except SQLAlchemyError:
        # Not written down, so not acknowledged: the agent comes back and tells it again.
        log.exception("what node %s reported could not be written down", name)


def _take(controller: Controller, name: str, report: Report) -> None:
    event = report.event
    try:
        if isinstance(event, Answer):
            controller.questions.answered(event)
        elif isinstance(event, ImageProgressed | ImageFetched):
            controller.images.heard(event)
        elif isinstance(event, VerbAsked):
            controller.verb_asked(name, event)
        else:
            controller.reconciler.reported(name, report)
    except Exception as failed:
        if isinstance(failed, SQLAlchemyError) and not isinstance(failed, DataError | IntegrityError):
            raise
        # Told again it would fail again: a defect here must not cost the agent its line.
        log.exception("a defect in the controller, at %s from node %s", event.event, name)
