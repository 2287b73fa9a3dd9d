"""One life of a session on this node: its sandbox, the line to its rider, the clients at its door."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, Literal

from sojourn.agent.data_port import Claims, first_line, say, splice, turn_away
from sojourn.agent.journal import Journal, Life
from sojourn.agent.rider_line import Message, RiderLine, accepted, decode, encode, introduce
from sojourn.agent.vigil import until_ended
from sojourn.errors import Busy, Refused, SojournError
from sojourn.sandbox.base import Sandbox
from sojourn.wire import Event, ProgramExited, VerbAsked

log = logging.getLogger(__name__)


class Attendance:
    """What the agent holds in memory for one row of the journal's lives. `died` is called, in the event loop, when
    the rider ends without having been dismissed."""

    def __init__(self, life: Life, sandbox: Sandbox, journal: Journal, died: Callable[[Attendance], None]) -> None:
        self.life, self.sandbox = life, sandbox
        self._journal, self._died = journal, died
        self._loop = asyncio.get_running_loop()
        self.line = RiderLine(sandbox, self._heard)
        self._door = threading.Lock()
        self._door_is: Literal["waiting", "open", "closed"] = "waiting"
        self._introducing = threading.Lock()
        """Held over an introduction; only ever taken outside the event loop, and before `_door`."""
        self._waiting: list[tuple[socket.socket, str]] = []
        self._watching: asyncio.Task[None] | None = None
        self._splicing: set[asyncio.Task[None]] = set()

    def write(self, *events: Event, **changes: Any) -> None:
        """Change the life, and tell what came of it, in one step. From any thread."""
        with self._journal.transaction(), self._door:
            self.life = self.life.model_copy(update=changes)
            self._journal.write_life(self.life)
            for event in events:
                self._journal.write_event(event)

    def forget(self, *events: Event) -> None:
        """The life is over; tell what came of it, in one step."""
        with self._journal.transaction():
            self._journal.forget_life(self.life)
            for event in events:
                self._journal.write_event(event)

    # ── attending ────────────────────────────────────────────────────────────────────────────────────────────

    async def attend(self) -> None:
        """The rider runs: hold its control line and watch over it."""
        self.watch()
        await self.line.attach(self.life.incarnation, self.life.epoch)

    def watch(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def hang_up(self) -> None:
        """Before a freeze: the rider closes all that leads outside, and nobody new is brought to it."""
        await asyncio.to_thread(self.keep_waiting)
        await self.line.hang_up()

    async def dismiss(self) -> None:
        """Whatever happens to the rider from here on is meant to happen; nobody is let in any more."""
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        await self.line.let_go()
        self.close_door(Busy(f"Session {self.life} is ending here.", "Ask the controller where it is."))

    async def leave(self) -> None:
        """The agent ends; the rider goes on."""
        await self.dismiss()
        for task in self._splicing:
            task.cancel()

    async def _watch(self) -> None:
        pid = await asyncio.to_thread(self.sandbox.root_pid)
        if pid is not None:
            await until_ended(pid, self.sandbox.alive)
        self._watching = None
        self._died(self)

    # ── the door ─────────────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, client: socket.socket, claims: Claims) -> None:
        """Bring a tunnel's connection to the rider, now or when it runs (again). Raises Refused and leaves the
        connection to the caller."""
        if claims["incarnation"] != self.life.incarnation:
            raise Refused(
                f"Session {self.life} does not go by incarnation {claims['incarnation']} here.",
                "Ask the controller where it is.",
            )
        await asyncio.to_thread(self._admit, client, claims["anchor"])

    def _admit(self, client: socket.socket, anchor: str) -> None:
        with self._introducing:
            with self._door:
                if self._door_is == "closed":
                    raise Busy(f"Session {self.life} is {self.life.state}.", "Ask the controller where it goes on.")
                if self._door_is == "waiting":
                    self._waiting.append((client, anchor))
                    return
            self._introduce(client, anchor)

    def open_door(self, **changes: Any) -> None:
        """The rider runs: bring those who waited to it. Called by the mover at the thaw, from its own thread, because
        every millisecond here is one that the clients see; the journal hears of the changes later."""
        with self._introducing:
            with self._door:
                self.life = self.life.model_copy(update=changes)
                self._door_is = "open"
                waiting, self._waiting = self._waiting, []
            for client, anchor in waiting:
                self._introduce(client, anchor)

    def keep_waiting(self) -> None:
        """Let nobody in for a while; returns when no introduction is under way. Not in the event loop."""
        with self._door:
            self._door_is = "waiting"
        with self._introducing:
            pass

    def close_door(self, reason: SojournError) -> None:
        """Whoever waits, and whoever comes, is turned away."""
        with self._door:
            self._door_is = "closed"
            waiting, self._waiting = self._waiting, []
        for client, _ in waiting:
            turn_away(client, reason)

    def _introduce(self, client: socket.socket, anchor: str) -> None:
        """Blocks. The client is told yes first: once the rider has the socket, what it sends is the tunnel's."""
        first = self._first_line(anchor)
        try:
            rider = self.sandbox.connect()
        except (OSError, SojournError) as absent:
            log.warning("session %s has no rider to introduce a client to: %s", self.life, absent)
            self._refuse(client, absent)
            return
        if self.sandbox.passes_descriptors:
            self._hand_over(rider, first, client)
        else:
            self._loop.call_soon_threadsafe(self._splice, rider, first, client)

    def _hand_over(self, rider: socket.socket, first: Message, client: socket.socket) -> None:
        say(client, {"ok": True})
        try:
            introduce(rider, first, client)
        except (OSError, ValueError, SojournError) as refused:
            log.warning("the rider of session %s did not take a client: %s", self.life, refused)
        finally:
            client.close()

    def _first_line(self, anchor: str) -> Message:
        return {
            "attach": "tunnel",
            "incarnation": self.life.incarnation,
            "epoch": self.life.epoch,
            "anchor": anchor,
            "secret": self.sandbox.secret,
        }

    def _refuse(self, client: socket.socket, reason: Exception) -> None:
        error = reason if isinstance(reason, SojournError) else Busy(f"Session {self.life} does not answer: {reason}.")
        turn_away(client, error)

    def _splice(self, rider: socket.socket, first: Message, client: socket.socket) -> None:
        task = self._loop.create_task(self._carry(rider, first, client))
        self._splicing.add(task)
        task.add_done_callback(self._splicing.discard)

    async def _carry(self, rider: socket.socket, first: Message, client: socket.socket) -> None:
        """Where sockets can't be handed over: the agent carries the tunnel's bytes itself."""
        try:
            rider.setblocking(False)
            await self._loop.sock_sendall(rider, encode(first))
            accepted(decode(await first_line(rider)))
        except (OSError, ValueError, SojournError) as refused:
            rider.close()
            self._refuse(client, refused)
            return
        say(client, {"ok": True})
        await splice(client, rider)

    # ── what the rider says ──────────────────────────────────────────────────────────────────────────────────

    def _heard(self, message: Message) -> None:
        match message:
            case {"event": "exited", "code": int(code)}:
                self._program_exited(code)
            case {"event": "status", "running": False, "exit_code": int(code)} if code != self.life.exit_code:
                self._program_exited(code)
            case {"event": "started"} | {"event": "status", "running": True} if self.life.exit_code is not None:
                self.write(exit_code=None)
            case {"event": "verb", "verb": str(verb), "name": str(name)}:
                self._verb_asked(verb, name, message.get("arguments") or {})

    def _program_exited(self, code: int) -> None:
        life = self.life
        event = ProgramExited(session=life.session, incarnation=life.incarnation, code=code)
        self.write(event, exit_code=code)

    def _verb_asked(self, verb: str, name: str, arguments: dict[str, object]) -> None:
        life = self.life
        self._journal.write_event(
            VerbAsked(session=life.session, incarnation=life.incarnation, verb=verb, name=name, arguments=arguments)
        )
