"""The door of one session: clients that come with a tunnel are brought to its rider, or wait until it runs."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from dataclasses import dataclass
from typing import Literal

from sojourn.agent.data_port import Claims, first_line, splice
from sojourn.agent.journal import Life
from sojourn.agent.rider_line import Message, accepted, await_yes, decode, with_rider
from sojourn.errors import Busy, Refused, SojournError
from sojourn.sandbox.base import Sandbox
from sojourn.transport.answers import say, turn_away
from sojourn.transport.lines import encode_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guest:
    """A client's connection, past its ticket."""

    connection: socket.socket
    anchor: str


class Door:
    """Made in the event loop. It stands ajar at first: guests wait."""

    def __init__(self, sandbox: Sandbox, life: Life) -> None:
        self._sandbox, self._life = sandbox, life
        self._loop = asyncio.get_running_loop()
        self._is: Literal["ajar", "open", "closed"] = "ajar"
        self._state = threading.Lock()
        self._waiting: list[Guest] = []
        self._introducing = threading.Lock()
        """Held from the moment a rider is shown a guest until it has answered: a freeze must not come between. Only
        ever taken outside the event loop, and before `_state`."""
        self._one_by_one = asyncio.Lock()
        """Guests of a slow rider wait here, so that they take one thread, not all there are."""
        self._splicing: set[asyncio.Task[None]] = set()

    async def admit(self, connection: socket.socket, claims: Claims) -> None:
        """Bring a guest to the rider, now or when it runs (again). Raises Refused and leaves the connection alone."""
        if claims["incarnation"] != self._life.incarnation:
            raise Refused(
                f"Session {self._life} does not go by incarnation {claims['incarnation']} here.",
                "Ask the controller where it is.",
            )
        async with self._one_by_one:
            await with_rider(self._admit, Guest(connection, claims["anchor"]))

    def open(self, life: Life) -> None:
        """The rider runs, and this is its life now: bring those who waited to it.

        Called by the mover at the thaw, from its own thread, because every millisecond here is one that the clients
        see. So it does not wait for the rider's answers.
        """
        self._introducing.acquire()
        with self._state:
            self._is, self._life = "open", life
            waiting, self._waiting = self._waiting, []
        shown = [rider for guest in waiting if (rider := self._show(guest))]
        threading.Thread(target=self._hear_out, args=(shown,), name=f"answers {life}", daemon=True).start()

    def keep_waiting(self) -> None:
        """Let nobody in for a while; returns when no introduction is under way. Not in the event loop."""
        with self._state:
            self._is = "ajar"
        with self._introducing:
            pass

    def close(self, reason: SojournError) -> None:
        """Whoever waits, and whoever comes, is turned away."""
        with self._state:
            self._is = "closed"
            waiting, self._waiting = self._waiting, []
        for guest in waiting:
            turn_away(guest.connection, reason)

    def leave(self) -> None:
        """The agent ends: what it carried itself ends with it."""
        for task in self._splicing:
            task.cancel()

    # ── introductions ────────────────────────────────────────────────────────────────────────────────────────

    def _admit(self, guest: Guest) -> None:
        with self._introducing:
            with self._state:
                if self._is == "closed":
                    raise Busy(f"Session {self._life} is not here any more.", "Ask the controller where it goes on.")
                if self._is == "ajar":
                    self._waiting.append(guest)
                    return
            if rider := self._show(guest):
                self._hear(rider)

    def _show(self, guest: Guest) -> socket.socket | None:
        """Pass a guest on; returns the connection on which the rider is to answer."""
        try:
            rider = self._sandbox.connect()
        except (OSError, SojournError) as absent:
            log.warning("session %s has no rider to bring a client to: %s", self._life, absent)
            turn_away(guest.connection, _as_refusal(absent))
            return None
        first = self._first_line(guest.anchor)
        if not self._sandbox.passes_descriptors:
            self._loop.call_soon_threadsafe(self._splice, rider, first, guest.connection)
            return None
        # Told yes first: once the rider has the connection, what comes on it is the tunnel's.
        say(guest.connection, {"ok": True})
        with guest.connection:
            try:
                socket.send_fds(rider, [encode_line(first)], [guest.connection.fileno()])
            except OSError as gone:
                log.warning("the rider of session %s was not there for a client: %s", self._life, gone)
        return rider

    def _hear_out(self, riders: list[socket.socket]) -> None:
        try:
            for rider in riders:
                self._hear(rider)
        finally:
            self._introducing.release()

    def _hear(self, rider: socket.socket) -> None:
        try:
            await_yes(rider)
        except (OSError, ValueError, SojournError) as refused:
            log.warning("the rider of session %s did not take a client: %s", self._life, refused)

    def _first_line(self, anchor: str) -> Message:
        return {
            "attach": "tunnel",
            "session": self._life.session,
            "incarnation": self._life.incarnation,
            "epoch": self._life.epoch,
            "anchor": anchor,
            "secret": self._sandbox.secret,
        }

    # ── where sockets can't be handed over ───────────────────────────────────────────────────────────────────

    def _splice(self, rider: socket.socket, first: Message, client: socket.socket) -> None:
        task = self._loop.create_task(self._carry(rider, first, client))
        self._splicing.add(task)
        task.add_done_callback(self._splicing.discard)

    async def _carry(self, rider: socket.socket, first: Message, client: socket.socket) -> None:
        """The agent carries the tunnel's bytes itself."""
        try:
            rider.setblocking(False)
            await self._loop.sock_sendall(rider, encode_line(first))
            accepted(decode(await first_line(rider)))
        except (OSError, ValueError, SojournError) as refused:
            rider.close()
            turn_away(client, _as_refusal(refused))
            return
        say(client, {"ok": True})
        await splice(client, rider)


def _as_refusal(reason: Exception) -> SojournError:
    return (
        reason if isinstance(reason, SojournError) else Busy(f"The session does not answer: {reason}.", "Dial again.")
    )
