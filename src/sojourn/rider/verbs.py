"""What programs in the sandbox ask (`%sojourn …`): taken in at a socket of theirs, answered by an agent."""

# ruff: noqa: PTH101
# (pathlib would cost every rider a megabyte)
from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from sojourn.errors import Invalid
from sojourn.transport import address
from sojourn.transport.lines import LineSocket, decode_line
from sojourn.transport.loop import READ, Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


_LONGEST_QUESTION = 16384
"""Agents, controllers and databases must take it in whole, and again until it is answered."""


class Verb:
    """One question: open until it is answered or the one who asked is gone. Who says to be the porter asks nothing."""

    def __init__(self, verbs: Verbs, loop: Loop, connection: socket.socket) -> None:
        self.id = os.urandom(8).hex()  # unlike a counter, not repeated by a sandbox that was set back
        self.name = ""
        self.arguments: dict[str, Any] = {}
        self._verbs = verbs
        self._connection = connection
        self._line = LineSocket(loop, connection, self._asked, lambda _reason: verbs.drop(self))

    def event(self) -> dict[str, Any]:
        return {"event": "verb", "verb": self.id, "name": self.name, "arguments": self.arguments}

    def answer(self, ok: bool, body: dict[str, Any]) -> None:
        self._line.say_last({"ok": ok, "body": body})

    def _asked(self, line: bytes) -> None:
        try:
            if len(line) > _LONGEST_QUESTION:
                raise Invalid("The verb is too long.", "Ask {name, arguments} in few words.")
            message = decode_line(line)
            if message.get("porter"):
                self._line.release()
                self._verbs.porter_came(self._connection)
                return
            self.name, self.arguments = message["name"], message.get("arguments", {})
            if not isinstance(self.name, str) or not isinstance(self.arguments, dict):
                raise Invalid("A verb's name is text, its arguments an object.")
        except KeyError:
            self.answer(False, Invalid("The verb has no name.", "Ask {name, arguments}.").to_wire())
            return
        except Invalid as wrong:
            self.answer(False, wrong.to_wire())
            return
        self._verbs.asked(self)


class Verbs:
    """The socket and the open questions. `announce(event)` tells the agents that are attached now;
    `porter_came(connection)`: the program's porter is there.

    Where there can be no Unix socket at `where`, it is one of the loopback interface.
    """

    def __init__(
        self,
        loop: Loop,
        where: str,
        announce: Callable[[dict[str, Any]], None],
        porter_came: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._announce = announce
        self.porter_came = porter_came
        self._open: dict[str, Verb] = {}
        if not address.is_possible(where):
            where = "127.0.0.1:0"
        self._listener = address.listen(where)
        if where.startswith("/"):
            os.chmod(where, 0o666)  # whoever runs in the sandbox may ask
        loop.watch(self._listener, READ, self._accept)

    @property
    def address(self) -> str:
        """What `SOJOURN_SOCKET` is to say."""
        return address.address_of(self._listener)

    def pending(self) -> Iterable[dict[str, Any]]:
        return [verb.event() for verb in self._open.values()]

    def asked(self, verb: Verb) -> None:
        self._open[verb.id] = verb
        self._announce(verb.event())

    def answer(self, verb_id: str, ok: bool, body: dict[str, Any]) -> None:
        """A second answer is passed over."""
        if verb := self._open.pop(verb_id, None):
            verb.answer(ok, body)

    def drop(self, verb: Verb) -> None:
        self._open.pop(verb.id, None)

    def _accept(self, _ready: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again before it was accepted
        Verb(self, self._loop, connection)
