"""Sealed connections: TLS to the outside, a socket pair to the inside.

Who has a connection gives it away and gets a socket in return that carries the same bytes, open to read. That one can
be handed to another process, as a rider or a pager, which then need know nothing of TLS. A few threads carry all sealed
connections of a process, by `Loop`s of their own. Ends and resets pass as they would without a seal: an end is TLS's
own, so nobody on the way can make a stream look as if it had ended.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import struct
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from sojourn.errors import SojournError, Unauthorized, Unreachable, from_wire
from sojourn.transport.answers import turn_away
from sojourn.transport.lines import encode_line
from sojourn.transport.loop import READ, WRITE, Loop
from sojourn.transport.tls import name_of, trusting

if TYPE_CHECKING:
    from collections.abc import Callable

    from sojourn.transport.routes import Route

log = logging.getLogger(__name__)

PIECE = 1 << 18
"""Bytes that one side may send before others get their turn, and all that waits for one that does not read."""
HANDSHAKE_SECONDS = 15.0
"""Longer than a relay waits for a node to fetch its caller."""
_MOST_CARRIERS = min(4, os.cpu_count() or 1)
_AT_ONCE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""To linger for no time: a close is then a reset."""
_ANOTHERS_NAME = 62
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH."""
_RECORD = 1 << 15
"""More than the longest record of TLS."""


def knock(connection: socket.socket, route: Route, ticket: str) -> socket.socket:
    """Say what is said first on a fresh connection by this route, and return what goes on from there: the connection,
    or its plain end, where any failure of TLS is answered as the node would refuse. Raises OSError, Invalid; the
    connection is then still the caller's.

    The ticket leaves only after the node has shown that it is the one that was meant.
    """
    if route.relayed_to:
        connection.send(encode_line({"sojourn": 1, "node": route.relayed_to}))
    first_words = encode_line({"sojourn": 1, "ticket": ticket})
    if not route.authority:
        connection.send(first_words)
        return connection
    plain = dialled(connection, route.authority, route.node)
    with suppress(OSError):  # why it was refused already is still to be read
        plain.send(first_words)
    return plain


def dialled(connection: socket.socket, authority: str, node: str) -> socket.socket:
    """The plain end of a connection to a node for which this authority vouches. Raises Invalid."""
    context = trusting(authority, name_of(node))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing)
    return _carried(connection, Session(session, incoming, outgoing, whom=f"node {node}"))


def answered(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    """The plain end of a connection that somebody has begun with us."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_side=True)
    return _carried(connection, Session(session, incoming, outgoing))


# ── who carries them ─────────────────────────────────────────────────────────────────────────────────────────


class Carrier:
    """One thread, for any number of sealed connections."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.load = 0
        """Connections."""
        self.piece, self.opened = memoryview(bytearray(PIECE)), memoryview(bytearray(PIECE + _RECORD))
        """To read into, and to open into; nobody keeps what is there."""
        threading.Thread(target=self._run, name="tls", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.loop.run_once()
            except Exception:
                log.exception("a defect in a sealed connection")


_carriers: list[Carrier] = []
_choosing = threading.Lock()


def _carried(connection: socket.socket, session: Session) -> socket.socket:
    ours, theirs = socket.socketpair()
    far = socket.socket(fileno=connection.detach())  # so that nobody else can close it under its carrier
    for one in (far, ours):
        one.setblocking(False)
    with _choosing:
        if len(_carriers) < _MOST_CARRIERS and all(carrier.load for carrier in _carriers):
            _carriers.append(Carrier())
        carrier = min(_carriers, key=lambda one: one.load)
        carrier.load += 1
    carrier.loop.soon(lambda: Seal(carrier, far, ours, session).begin())
    return theirs


# ── one of them ──────────────────────────────────────────────────────────────────────────────────────────────


class Session:
    """One end of TLS, with what has come of it and what is to go. No I/O."""

    def __init__(self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, whom: str = "") -> None:
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing
        self.whom = whom
        """Who is dialled; empty: somebody dialled us."""

    def begin(self) -> bool:
        """Go on with the handshake; whether it is over. Raises ssl.SSLError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def take(self, sealed: memoryview) -> None:
        """What has come."""
        self._incoming.write(sealed)

    def open(self, into: memoryview) -> tuple[int, bool]:
        """All that can be read of what has come: how many bytes, and whether the other side has ended. Raises
        ssl.SSLError. Nothing may be left behind, or `end` fails."""
        count = 0
        try:
            while got := self._read(into[count:]):
                count += got
        except ssl.SSLWantReadError:
            return count, False
        except ssl.SSLZeroReturnError:
            pass
        return count, True

    def _read(self, into: memoryview) -> int:
        return self._tls.read(len(into), into)  # type: ignore[return-value]

    def seal(self, plain: memoryview) -> None:
        while plain:
            plain = plain[self._tls.write(plain) :]

    def end(self) -> None:
        """We say no more; what the other side says can still be read."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()

    def outgoing(self) -> bytes:
        """What is to be sent."""
        return self._outgoing.read()


class Seal:
    """Belongs to its carrier's thread. `far` carries TLS, `near` plain bytes."""

    def __init__(self, carrier: Carrier, far: socket.socket, near: socket.socket, session: Session) -> None:
        self._carrier, self._loop, self._session = carrier, carrier.loop, session
        self._far, self._near = far, near
        self._shaken = False
        self._sealed: bytes | memoryview = b""
        """To go out, not taken yet."""
        self._opened: bytes | memoryview = b""
        """To be read at the near end, not taken yet."""
        self._said_all = self._heard_all = False
        self._first = b""
        self._patience = self._loop.later(HANDSHAKE_SECONDS, self._late)

    def begin(self) -> None:
        self._guarded(self._shake)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────

    def _far_ready(self, ready: int) -> None:
        if ready & WRITE:
            self._guarded(self._push_out)
        if ready & READ and self._carrier_has_it:
            self._guarded(self._pull_in)

    def _near_ready(self, ready: int) -> None:
        if ready & WRITE:
            self._guarded(self._push_in)
        if ready & READ and self._carrier_has_it:
            self._guarded(self._pull_out)

    @property
    def _carrier_has_it(self) -> bool:
        return self._far.fileno() >= 0

    def _guarded(self, act: Callable[[], None]) -> None:
        """Do it, and look what comes next. What fails resets both ends."""
        try:
            with suppress(BlockingIOError):
                act()
            self._go_on()
        except ssl.SSLError as failed:
            self._fail(failed)
        except OSError:
            self._reset()

    def _go_on(self) -> None:
        if self._said_all and self._heard_all and not self._sealed and not self._opened:
            self._close()
            return
        hearing = not self._heard_all and not self._opened
        saying = self._shaken and not self._said_all and not self._sealed
        self._loop.watch(self._far, READ * hearing | WRITE * bool(self._sealed), self._far_ready)
        self._loop.watch(self._near, READ * saying | WRITE * bool(self._opened), self._near_ready)

    # ── outward ──────────────────────────────────────────────────────────────────────────────────────────────

    def _pull_out(self) -> None:
        piece = self._carrier.piece
        count = self._near.recv_into(piece)
        if count:
            self._session.seal(piece[:count])
        else:
            self._session.end()
            self._said_all = True
        self._push_out()

    def _push_out(self) -> None:
        """Send what waits, and what TLS itself has to say."""
        while waiting := self._sealed or self._session.outgoing():
            self._sealed = waiting
            self._sealed = memoryview(waiting)[self._far.send(waiting) :]

    # ── inward ───────────────────────────────────────────────────────────────────────────────────────────────

    def _pull_in(self) -> None:
        piece = self._carrier.piece
        count = self._far.recv_into(piece)
        if not count:
            raise ConnectionResetError("cut off")
        self._first = self._first or bytes(piece[:1024])[:count]
        self._session.take(piece[:count])
        if self._shaken:
            self._open()
        else:
            self._shake()

    def _open(self) -> None:
        opened = self._carrier.opened
        count, self._heard_all = self._session.open(opened)
        self._opened = opened[:count]
        try:
            self._push_in()
        finally:
            self._opened = bytes(self._opened)  # what is not taken waits in room of its own
        self._push_out()

    def _push_in(self) -> None:
        while self._opened:
            self._opened = memoryview(self._opened)[self._near.send(self._opened) :]
        if self._heard_all:
            with suppress(OSError):  # nobody reads there any more
                self._near.shutdown(socket.SHUT_WR)

    # ── the beginning, and the end ───────────────────────────────────────────────────────────────────────────

    def _shake(self) -> None:
        self._shaken = self._session.begin()
        self._push_out()
        if self._shaken:
            self._patience.cancel()
            self._open()

    def _late(self) -> None:
        whom = self._session.whom or "a caller"
        log.info("no TLS with %s in time", whom)
        self._refuse(Unreachable(f"There was no TLS with {whom} within {HANDSHAKE_SECONDS:g} s.", "Dial again."))

    def _fail(self, why: ssl.SSLError) -> None:
        if self._shaken:
            log.info("a sealed connection broke: %s", why)
            self._reset()
            return
        log.info("no TLS with %s: %s", self._session.whom or "a caller", why)
        with suppress(OSError):
            self._push_out()  # the other side hears what is wrong, if it takes it at once
        self._refuse(refusal(self._first) or _mistrust(self._session.whom, why))

    def _refuse(self, reason: SojournError) -> None:
        """Who has dialled reads the reason where it expects a node's answer."""
        self._forget()
        self._far.close()
        if self._session.whom:
            turn_away(self._near, reason)
        else:
            self._near.close()

    def _reset(self) -> None:
        with suppress(OSError):
            self._far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._close()

    def _close(self) -> None:
        self._forget()
        self._far.close()
        self._near.close()

    def _forget(self) -> None:
        self._patience.cancel()
        self._loop.forget(self._far)
        self._loop.forget(self._near)
        with _choosing:
            self._carrier.load -= 1


def refusal(first: bytes) -> SojournError | None:
    """What a relay, or an agent that has no certificate, says instead of a handshake: it can only refuse so."""
    with suppress(ValueError, TypeError, KeyError):
        error = json.loads(first.partition(b"\n")[0])["error"]
        return from_wire(error if isinstance(error, dict) else {"message": str(error)})
    return None


def _mistrust(whom: str, why: ssl.SSLError) -> SojournError:
    if isinstance(why, ssl.SSLCertVerificationError):
        said = "its certificate is another's" if why.verify_code == _ANOTHERS_NAME else why.verify_message
        return Unauthorized(
            f"Who answered is not {whom}: {said}.",
            "Another machine has that address, or somebody is in between.",
        )
    return Unreachable(f"There is no TLS with {whom}: {why.reason or why}.", "Dial again.")
