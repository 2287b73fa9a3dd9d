"""The line to the controller: dialled by the agent, dialled again for ever, at each of its addresses in turn.

Events of the journal go out in the order of their numbers and again after each reconnect, until acknowledged.
What need not survive (progress, inspections, logs) goes out once, with number 0, while the line is up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from sojourn.agent.identity import Identity
from sojourn.agent.journal import Journal
from sojourn.client.trust import no_word
from sojourn.errors import Invalid, SojournError, Unauthorized, from_wire
from sojourn.model import Load
from sojourn.transport.keepalive import PING_SECONDS, PONG_SECONDS
from sojourn.wire import (
    Acknowledge,
    Called,
    Event,
    FromAgent,
    Heartbeat,
    Hello,
    Instruct,
    Instruction,
    Report,
    Turned,
    Welcome,
    from_controller,
)

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
"""Well below the time after which a controller fences off a target that can't be reached (`Limits.fence_s`, 20 s)."""
_CLOSE_SECONDS = 1.0
_WELCOME_SECONDS = 30.0
_WAITING_CASUALS = 256
_ONLY_TLS = 426
"""HTTP's Upgrade Required."""
_LOOK_SECONDS = 3600.0


class Line:
    """`run()` keeps the line up for ever; `tell()` may be called from any thread."""

    def __init__(
        self,
        url: str,
        identity: Identity,
        journal: Journal,
        hello: Callable[[], Hello],
        load: Callable[[], Load],
        instructed: Callable[[Instruction], None],
        called: Callable[[str], None] = lambda call: None,
        elsewhere: Sequence[str] = (),
    ) -> None:
        """`called(call)`: somebody waits at the relay. `elsewhere`: where the controller may be if not at `url`."""
        self._addresses = deque((url, *elsewhere))
        self._identity, self._journal = identity, journal
        self._hello, self._load, self._instructed = hello, load, instructed
        self._called = called
        self._casual: deque[Event] = deque(maxlen=_WAITING_CASUALS)
        self._news = asyncio.Event()
        self._beat_due = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.welcomed = asyncio.Event()
        """Set while the controller has accepted us."""

    @property
    def controller(self) -> str:
        """Its address, where it was met last, or is looked for now."""
        return self._addresses[0]

    def tell(self, event: Event) -> None:
        """Say something once, if the line is up; it is not kept."""
        self._casual.append(event)
        self.wake()

    def wake(self) -> None:
        """The journal has a new event."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def beat(self) -> None:
        """Say how the node is without waiting for the next heartbeat."""
        self._beat_due.set()

    async def run(self) -> None:
        pause, told = _FIRST_PAUSE_SECONDS, set[str]()
        while True:
            try:
                await self._talk()
                log.info("the controller closed the line")
            except Unauthorized as refused:
                log.error("%s", refused)
                if self._identity.lay_off():
                    continue
            except (OSError, SojournError, WebSocketException, TimeoutError) as lost:
                if _why(lost) not in told:  # it may be away for days
                    log.warning("no line to %s: %s", self.controller, _why(lost))
                told.add(_why(lost))
            except Exception:
                # The sessions here must not lose their agent for what one message or a full disk did.
                log.exception("the line to %s broke", self.controller)
            if self.welcomed.is_set():
                self.welcomed.clear()
                pause, told = _FIRST_PAUSE_SECONDS, set()
            else:
                self._addresses.rotate(-1)
                self._identity.take_up()
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    # ── one connection ───────────────────────────────────────────────────────────────────────────────────────

    async def _talk(self) -> None:
        headers = {"Authorization": f"Bearer {self._identity.bearer}"}
        sealed = await asyncio.to_thread(self._identity.sealing, self.controller)
        try:
            async with connect(
                websocket_url(self.controller),
                additional_headers=headers,
                max_size=None,
                compression=None,
                ping_interval=PING_SECONDS,
                ping_timeout=PONG_SECONDS,
                close_timeout=_CLOSE_SECONDS,
                **sealed,
            ) as socket:
                welcome = await self._introduce(socket)
                await self._serve(socket, welcome)
        except InvalidStatus as refused:
            if refused.response.status_code in (401, 403):
                raise Unauthorized(
                    f"{self.controller} does not accept this node's token.",
                    "Make a new join token and start the agent with it.",
                ) from refused
            if refused.response.status_code == _ONLY_TLS:
                raise Invalid(f"{self.controller} speaks TLS only.", "Write https:// in its address.") from refused
            raise
        except ssl.SSLCertVerificationError as mistrusted:
            raise await asyncio.to_thread(no_word, self.controller, self._identity.pin, mistrusted) from mistrusted

    async def _introduce(self, socket: ClientConnection) -> Welcome:
        await socket.send(_encoded(self._hello()))
        async with asyncio.timeout(_WELCOME_SECONDS):
            answer = from_controller.validate_json(await socket.recv())
        if isinstance(answer, Turned):
            raise from_wire(answer.error)
        if not isinstance(answer, Welcome):
            raise SojournError(f"The controller answered our hello with {answer.say!r}.")
        self._identity.keep(answer)
        self._casual.clear()
        self.welcomed.set()
        log.info("the controller knows this node as %s", answer.node)
        return answer

    async def _serve(self, socket: ClientConnection, welcome: Welcome) -> None:
        works = (
            self._receive(socket),
            self._send_events(socket),
            self._beat(socket, welcome.heartbeat_seconds),
            self._until_certificate_is_due(),
        )
        tasks = [asyncio.create_task(work) for work in works]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, socket: ClientConnection) -> None:
        async for text in socket:
            try:
                message = from_controller.validate_json(text)
            except ValidationError as unknown:
                log.error("the controller said something this agent does not understand: %s", unknown)
                continue
            if isinstance(message, Acknowledge):
                self._journal.acknowledge(message.number)
            elif isinstance(message, Instruct):
                self._instructed(message.instruction)
            elif isinstance(message, Called):
                self._called(message.call)
            elif isinstance(message, Turned):
                raise from_wire(message.error)

    async def _send_events(self, socket: ClientConnection) -> None:
        sent = 0
        while True:
            self._news.clear()
            for number, event in self._journal.events_after(sent):
                await socket.send(_encoded(Report(number=number, event=event)))
                sent = number
            while self._casual:
                await socket.send(_encoded(Report(number=0, event=self._casual.popleft())))
            await self._news.wait()

    async def _beat(self, socket: ClientConnection, seconds: float) -> None:
        while True:
            self._beat_due.clear()
            await socket.send(_encoded(Heartbeat(load=self._load())))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._beat_due.wait()

    async def _until_certificate_is_due(self) -> None:
        """The next hello brings another one. Looked at once in a while, because clocks are set and machines sleep; and
        not at once, because a clock may be so wrong that no certificate is ever new."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._identity.is_due(time.time()):
                log.info("this node's certificate is renewed")
                return


def websocket_url(url: str) -> str:
    """`http(s)://host:port` -> where agents dial."""
    return "ws" + url.rstrip("/").removeprefix("http").removeprefix("ws") + "/api/agent"


def _encoded(message: FromAgent) -> str:
    return message.model_dump_json()


def _why(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
