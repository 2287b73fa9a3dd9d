"""The relay: a way to nodes that nobody can dial, through the controller's own port (contracts, Relay).

Whoever wants a node dials that port and says `{"sojourn": 1, "node": NAME}`. The node is told by its agent's line that
somebody calls; its agent dials the same port and says `{"sojourn": 1, "call": ID}`. The two connections are then one.
Whatever else comes to the port is HTTP's.

Who is let in is not decided here: the agent looks at the caller's ticket, as at its data port. All this happens in a
thread of its own, so that neither what is carried nor the API waits for the other.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sojourn.controller.splice import Splice
from sojourn.errors import Busy, Invalid, SojournError, Unknown, Unreachable
from sojourn.transport.address import hasten
from sojourn.transport.answers import turn_away
from sojourn.transport.keepalive import notice_death
from sojourn.transport.lines import decode_line
from sojourn.transport.loop import READ, Loop, Timer

log = logging.getLogger(__name__)

_FIRST_LINE_SECONDS = 10.0
_FETCH_SECONDS = 10.0
_PAUSE_SECONDS = 1.0
_LONGEST_LINE = 4096
_MOST_WAITING = 256
"""Callers that no agent has fetched yet; nobody has seen their tickets."""


@dataclass(frozen=True)
class Call:
    node: str
    caller: socket.socket
    patience: Timer


class Relay:
    """`open` and `close` frame its life; they, `refuse` and `node_left` may be called from any thread."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._loop = Loop()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._calls: dict[str, Call] = {}
        self._splices: set[Splice] = set()
        self._http: Callable[[socket.socket, bytes], None] = lambda connection, first: connection.close()
        self._summon: Callable[[str, str], None] = lambda node, call: None
        self._closing = False

    def open(self, http: Callable[[socket.socket, bytes], None], summon: Callable[[str, str], None]) -> None:
        """`http(connection, first)` takes what is not for the relay: `first` is its first byte, still to be read, or
        nothing if it has said nothing; `summon(node, call)` tells that node that somebody calls,
        or has the caller refused. Both are called in the relay's thread, and must not wait."""
        self._http, self._summon = http, summon
        self._loop.watch(self._listener, READ, self._accept)
        self._thread.start()

    def refuse(self, call: str, reason: SojournError) -> None:
        self._loop.soon(lambda: self._refuse(call, reason))

    def node_left(self, node: str) -> None:
        """What was said to its agent may not have been heard: whoever waits for it had better dial again."""
        self._loop.soon(lambda: self._refuse_callers(node))

    def close(self) -> None:
        """Stop listening and hang up on everybody; returns when that is done."""
        self._closing = True
        self._loop.wake()
        if self._thread.is_alive():
            self._thread.join()

    # ── its thread ───────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._closing:
            try:
                self._loop.run_once()
            except Exception:
                log.exception("a defect in the relay")
        for call in self._calls.values():
            call.caller.close()
        for splice in list(self._splices):
            splice.close()
        self._loop.close()

    def _accept(self, _ready: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # gone again before it was accepted
            return
        except OSError as full:  # out of descriptors: a pause may free some
            log.error("cannot accept at the controller's port: %s", full)
            self._loop.forget(self._listener)
            self._loop.later(_PAUSE_SECONDS, lambda: self._loop.watch(self._listener, READ, self._accept))
            return
        connection.setblocking(False)
        with suppress(OSError):  # what is gone already will show it
            hasten(connection)
        notice_death(connection)
        Newcomer(self._loop, connection, self._http, self._asked)

    def _asked(self, connection: socket.socket, line: bytes) -> None:
        try:
            said = decode_line(line)
            if isinstance(call := said.get("call"), str):
                self._fetched(call, connection)
            elif isinstance(node := said.get("node"), str):
                self._call(node, connection)
            else:
                raise Invalid("The first line names no node.", "Fronts and agents dial the relay, and nobody else.")
        except SojournError as refused:
            log.info("turned a caller away: %s", refused.message)
            turn_away(connection, refused)

    def _call(self, node: str, caller: socket.socket) -> None:
        if len(self._calls) >= _MOST_WAITING:
            raise Busy(f"{_MOST_WAITING} callers wait at the relay already.", "Dial again.")
        call = secrets.token_hex(16)
        late = Unreachable(f"Node {node} did not fetch its caller for {_FETCH_SECONDS:g} s.", "Dial again.")
        self._calls[call] = Call(node, caller, self._loop.later(_FETCH_SECONDS, lambda: self._refuse(call, late)))
        self._summon(node, call)

    def _fetched(self, identity: str, agent: socket.socket) -> None:
        call = self._calls.pop(identity, None)
        if call is None:
            raise Unknown("Nobody waits at the relay for that call.", "Whoever did has gone.")
        call.patience.cancel()
        log.info("a connection to node %s is relayed", call.node)

        def over(carried_bytes: int) -> None:
            log.info("%d bytes were relayed to and from node %s", carried_bytes, call.node)
            self._splices.discard(splice)

        splice = Splice(self._loop, call.caller, agent, over)
        self._splices.add(splice)

    def _refuse(self, identity: str, reason: SojournError) -> None:
        if call := self._calls.pop(identity, None):
            call.patience.cancel()
            log.debug("no way to node %s: %s", call.node, reason.message)  # fronts dial again as long as it is away
            turn_away(call.caller, reason)

    def _refuse_callers(self, node: str) -> None:
        gone = Unreachable(f"The line to node {node} ended.", "Dial again.")
        for identity in [identity for identity, call in self._calls.items() if call.node == node]:
            self._refuse(identity, gone)


class Newcomer:
    """A connection that has not shown yet what it is. Nothing behind its first line is read, and nothing at all of
    what is HTTP's.

    `http(connection, first)`: it is no caller, or says nothing; `asked(connection, line)`: the first line of one that
    is.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        http: Callable[[socket.socket, bytes], None],
        asked: Callable[[socket.socket, bytes], None],
    ) -> None:
        self._loop, self._connection = loop, connection
        self._http, self._asked = http, asked
        self._line = b""
        self._patience = loop.later(_FIRST_LINE_SECONDS, self._lose_patience)
        loop.watch(connection, READ, self._ready)

    def _ready(self, _ready: int) -> None:
        connection = self._connection
        try:
            seen = connection.recv(_LONGEST_LINE, socket.MSG_PEEK)
            if not self._line and not seen.startswith(b"{"):
                self._leave()
                self._http(connection, seen[:1])
                return
            if not seen or len(self._line) > _LONGEST_LINE:
                raise ConnectionResetError("no first line")
            self._line += connection.recv(seen.find(b"\n") + 1 or len(seen))
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            connection.close()
            return
        if self._line.endswith(b"\n"):
            self._leave()
            self._asked(connection, self._line)

    def _lose_patience(self) -> None:
        self._leave()
        if self._line:
            turn_away(self._connection, Invalid("The first line did not end.", "Dial again."))
        else:
            self._http(self._connection, b"")

    def _leave(self) -> None:
        self._patience.cancel()
        self._loop.forget(self._connection)
