"""One life of a session on this node: its sandbox, the line to its rider, the door for its clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sojourn.agent.door import Door
from sojourn.agent.journal import Journal, Life
from sojourn.agent.rider_line import Message, RiderLine, answer_of, with_rider
from sojourn.agent.vigil import until_ended
from sojourn.errors import Busy, Unreachable, from_wire
from sojourn.movers.objects.departure import require_descriptors
from sojourn.sandbox.base import Sandbox
from sojourn.transport.lines import encode_line
from sojourn.wire import Event, ProgramExited, VerbAsked

log = logging.getLogger(__name__)

_YIELD_SECONDS = 10.0
_MOST_VERBS = 64
"""Of one session, unheard by the controller. Nobody asks more by hand; a loop would fill the journal."""


class Attendance:
    """What the agent holds in memory for one row of the journal's lives. `died` is called, in the event loop, when
    the rider ends without having been dismissed."""

    def __init__(self, life: Life, sandbox: Sandbox, journal: Journal, died: Callable[[Attendance], None]) -> None:
        self.life, self.sandbox = life, sandbox
        self._journal, self._died = journal, died
        self.line = RiderLine(sandbox, life.session, self._heard)
        self.door = Door(sandbox, life)
        self._watching: asyncio.Task[None] | None = None
        self._yielded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owes_go_on = False

    def write(self, *events: Event, **changes: Any) -> None:
        """Change the life, and tell what came of it, in one step. From any thread."""
        with self._journal.transaction():
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

    async def open(self) -> None:
        """The rider runs: bring those who wait to it, and attend to it."""
        await with_rider(self.door.open, self.life)
        await self.attend()

    def watch(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def hang_up(self) -> None:
        """Before a freeze: the rider closes all that leads outside, and nobody new is brought to it."""
        await with_rider(self.door.keep_waiting)
        await self.line.hang_up()

    def find_porter(self) -> socket.socket:
        """A connection that the rider hands on to the kernel's porter, as soon as there is one. Not in the event loop.
        Raises Unreachable, and Immovable where connections can't be handed on."""
        require_descriptors(self.sandbox)
        life, connection = self.life, self.sandbox.connect()
        first = {"attach": "porter", "session": life.session, "incarnation": life.incarnation, "epoch": life.epoch}
        try:
            connection.sendall(encode_line({**first, "secret": self.sandbox.secret}))
            answer_of(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def clients_yield(self) -> None:
        """Returns when nothing is on its way between the kernel and its clients, who hold what they have until
        `clients_go_on`, or until they meet another kernel. Raises Busy."""
        self._yielded = asyncio.get_running_loop().create_future()
        self.line.send({"do": "yield"})
        try:
            async with asyncio.timeout(_YIELD_SECONDS):
                await self._yielded
        except TimeoutError:
            raise Busy(
                f"Session {self.life} is not at rest: a cell is running, or its output is on its way to its clients.",
                "Wait for that, or interrupt it; objects travel between cells.",
            ) from None

    def clients_go_on(self) -> None:
        """In the event loop."""
        self._owes_go_on = True
        with suppress(Unreachable):  # the line is down: it is said on the next one
            self.line.send({"do": "go_on"})
            self._owes_go_on = False

    async def dismiss(self) -> None:
        """Whatever happens to the rider from here on is meant to happen; nobody is let in any more."""
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        await self.line.let_go()
        self.door.close(Busy(f"Session {self.life} is ending here.", "Ask the controller where it is."))

    async def leave(self) -> None:
        """The agent ends; the rider goes on."""
        await self.dismiss()
        self.door.leave()

    async def _watch(self) -> None:
        pid = await asyncio.to_thread(self.sandbox.root_pid)
        if pid is not None:
            await until_ended(pid, self.sandbox.alive)
        self._watching = None
        self._died(self)

    # ── what the rider says ──────────────────────────────────────────────────────────────────────────────────

    def _heard(self, message: Message) -> None:
        if self._owes_go_on and message.get("event") == "status":  # the first thing that is said on a new line
            self.clients_go_on()
        match message:
            case {"event": "exited", "code": int(code)}:
                self._program_exited(code)
            case {"event": "status", "running": False, "exit_code": int(code)} if code != self.life.exit_code:
                self._program_exited(code)
            case {"event": "started"} | {"event": "status", "running": True} if self.life.exit_code is not None:
                self.write(exit_code=None)
            case {"event": "yielded"} if not self._yielded.done():
                self._yielded.set_result(None)
            case {"event": "refused", "do": "yield", "error": dict(error)} if not self._yielded.done():
                self._yielded.set_exception(from_wire(error))
            case {"event": "verb", "verb": str(verb), "name": str(name)}:
                self._verb_asked(verb, name, message.get("arguments") or {})

    def _program_exited(self, code: int) -> None:
        life = self.life
        event = ProgramExited(session=life.session, incarnation=life.incarnation, code=code)
        self.write(event, exit_code=code)

    def _verb_asked(self, verb: str, name: str, arguments: dict[str, object]) -> None:
        life = self.life
        unheard = self._journal.unheard_verbs(life)
        if verb in unheard:  # the rider asks again after each attach
            return
        if len(unheard) >= _MOST_VERBS:
            many = Busy(f"{_MOST_VERBS} questions of this session wait for the controller already.", "Ask again later.")
            self.line.send({"do": "answer", "verb": verb, "ok": False, "body": many.to_wire()})
            return
        self._journal.write_event(
            VerbAsked(session=life.session, incarnation=life.incarnation, verb=verb, name=name, arguments=arguments)
        )
