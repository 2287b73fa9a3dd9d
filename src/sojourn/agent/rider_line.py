"""The control connection to one rider: JSON lines both ways (contracts, 1).

The line is wanted from `attach` to `let_go`. While it is wanted a lost connection is made again; when the rider was
asked to hang up before a freeze, it is not.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sojourn.errors import SandboxFailed, SojournError, Unreachable
from sojourn.transport.lines import decode_line, encode_line

log = logging.getLogger(__name__)

_REDIAL_SECONDS = 0.25
_STUMBLE_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_HANG_UP_SECONDS = 3.0
_LONGEST_LINE = 1 << 20

Message = dict[str, Any]
Result = TypeVar("Result")

_riders_threads = ThreadPoolExecutor(32, "rider")


async def with_rider(work: Callable[..., Result], *arguments: Any) -> Result:
    """Like asyncio.to_thread, for what waits for a rider. Clients are brought in, and riders hung up before a freeze,
    in threads that no slow removal can take."""
    return await asyncio.get_running_loop().run_in_executor(_riders_threads, work, *arguments)


class Reachable(Protocol):
    """Of a sandbox, what a line to its rider needs."""

    @property
    def secret(self) -> str | None: ...

    def connect(self) -> socket.socket: ...


class RiderLine:
    """`heard` gets each message of the rider, in the event loop. `session` tells a rider that woke from the checkpoint
    of another session who it is now."""

    def __init__(self, sandbox: Reachable, session: str, heard: Callable[[Message], None]) -> None:
        self._sandbox, self._session, self._heard = sandbox, session, heard
        self._keeping: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._attached = asyncio.Event()
        self._leaving = False

    async def attach(self, incarnation: int, epoch: int) -> None:
        """Ask for the line; it comes up, and stays up, in the background."""
        await self.let_go()
        self._leaving = False
        first = {"attach": "control", "session": self._session, "incarnation": incarnation, "epoch": epoch}
        self._keeping = asyncio.create_task(self._keep({**first, "secret": self._sandbox.secret}))

    async def let_go(self) -> None:
        """Close the line and leave it closed."""
        keeping, self._keeping = self._keeping, None
        if keeping:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def hang_up(self) -> None:
        """Have the rider close everything that leads outside, this line included; it stays away until `attach`.

        Raises Unreachable when the rider does not.
        """
        keeping = self._keeping
        if keeping is None:
            raise Unreachable("There is no line to the rider.", "Attach one first.")
        await self.attached(_HANG_UP_SECONDS)
        self._leaving = True
        self.send({"do": "hang_up"})
        try:
            async with asyncio.timeout(_HANG_UP_SECONDS):
                await asyncio.shield(keeping)
        except TimeoutError:
            raise Unreachable(f"The rider did not hang up within {_HANG_UP_SECONDS:g} s.") from None
        finally:
            await self.let_go()

    async def attached(self, seconds: float) -> None:
        """Wait for the line to be up; raises Unreachable."""
        try:
            async with asyncio.timeout(seconds):
                await self._attached.wait()
        except TimeoutError:
            raise Unreachable(f"The rider did not answer for {seconds:g} s.", "Its log says more.") from None

    def send(self, message: Message) -> None:
        """Say something to the rider; raises Unreachable while the line is down."""
        if self._writer is None:
            raise Unreachable("The line to the rider is down.", "Try again when the session runs.")
        self._writer.write(encode_line(message))

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, first: Message) -> None:
        told = ""
        while not self._leaving:
            try:
                await self._one_connection(first)
            except (OSError, ValueError, SojournError) as lost:
                if str(lost) != told:  # four times a second would fill the log
                    log.info("no line to the rider: %s", lost)
                told = str(lost)
            except Exception:
                # What came of a message could not be written down (the disk is full?): the rider says it again.
                log.exception("the line to the rider broke")
                await asyncio.sleep(_STUMBLE_SECONDS)
            if not self._leaving:
                await asyncio.sleep(_REDIAL_SECONDS)

    async def _one_connection(self, first: Message) -> None:
        connection = await with_rider(self._sandbox.connect)
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection, limit=_LONGEST_LINE)
        try:
            writer.write(encode_line(first))
            # Not wait_for: before Python 3.12 it may swallow a cancellation.
            async with asyncio.timeout(_ANSWER_SECONDS):
                accepted(decode(await reader.readline()))
            self._writer = writer
            self._attached.set()
            while line := await reader.readline():
                self._heard(decode(line))
        finally:
            self._writer = None
            self._attached.clear()
            writer.transport.abort()


def await_yes(rider: socket.socket) -> None:
    """Block for the rider's one line of an answer, and close.

    Raises SandboxFailed when it refuses, OSError when it is gone or silent.
    """
    with rider:
        rider.settimeout(_ANSWER_SECONDS)
        with rider.makefile("rb") as answers:
            accepted(decode(answers.readline(_LONGEST_LINE)))


def answer_of(rider: socket.socket) -> None:
    """Block for the rider's one line of an answer, and read not a byte more: what follows is somebody else's.

    Raises SandboxFailed when it refuses, OSError when it is gone or silent.
    """
    rider.settimeout(_ANSWER_SECONDS)
    line = b""
    while not line.endswith(b"\n") and (byte := rider.recv(1)):
        line += byte
    rider.settimeout(None)
    accepted(decode(line))


def accepted(answer: Message) -> None:
    """Raise SandboxFailed unless the rider said yes."""
    if not answer.get("ok"):
        raise SandboxFailed(f"The rider refused: {answer.get('error', 'no reason given')}.")


def decode(line: bytes) -> Message:
    """One JSON object; raises Invalid, and ConnectionResetError for a line that was cut off."""
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the rider hung up")
    return decode_line(line)
