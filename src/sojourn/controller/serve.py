"""The controller as a program: listens, writes its card for who starts it on this machine, ends on SIGTERM."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from sojourn.client.words import TokenKind, TokenRequest
from sojourn.controller.app import build_app
from sojourn.controller.authority import Shown, kept, own_names
from sojourn.controller.controller import DEAD_SECONDS, Controller
from sojourn.controller.port import SharedPort
from sojourn.controller.roster import Roster
from sojourn.controller.tokens import Gate
from sojourn.database import Database, copy, shown, sqlite_url
from sojourn.errors import Busy, Invalid, SojournError, Unauthorized
from sojourn.lifecycle import Limits
from sojourn.settings import data_folder, write_private
from sojourn.transport.keepalive import PING_SECONDS, PONG_SECONDS
from sojourn.transport.routes import is_loopback
from sojourn.transport.tls import secret_of

log = logging.getLogger(__name__)

DEFAULT_LISTEN = "127.0.0.1:8571"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
GHOST_SECONDS = 15.0
"""For how long a database server may still hold what a broken connection held."""
_LOOK_TICKS = 6000
"""Tenths of a second between two looks at what this machine is called now, and at the age of the certificate."""


@dataclass(frozen=True)
class Options:
    listen: str = DEFAULT_LISTEN
    """HOST:PORT; port 0: any free one."""
    database: str = ""
    """sqlite:////PATH or postgresql://USER@HOST/NAME; empty: SQLite in the controller's folder."""
    limits: Limits = field(default_factory=Limits)
    dead_s: float = DEAD_SECONDS
    plain: bool = False
    """Speak no TLS: a proxy in front does."""
    names: tuple[str, ...] = ()
    """What else it is called, or reached at, in its certificate."""


def folder() -> Path:
    return data_folder() / "controller"


def serve(options: Options) -> None:
    """Run a controller until SIGTERM or SIGINT. One that loses its database begins anew, as if it had been started
    again, when that answers. Raises Invalid, Busy (the address or the database is taken)."""
    url = _database_url(options)
    listener = _listen(options.listen)
    address = "{}:{}".format(*listener.getsockname()[:2])
    try:
        database = Database(url)
    except BaseException:
        listener.close()
        raise
    # uvicorn ends gracefully and then raises the signal once more, for us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while _reign(options, listener, database):
            database = _open_again(url)
            listener = _listen(address)
    except KeyboardInterrupt:
        log.info("interrupted")


def take_over(options: Options, source: str) -> int:
    """Copy the database at another address into the controller's own; the number of rows. Raises Busy while a
    controller uses either, and Refused when the own one is not empty."""
    with closing(Database(source)) as before, closing(Database(_database_url(options))) as own:
        return copy(before, own)


def _database_url(options: Options) -> str:
    return options.database or sqlite_url(folder() / "sojourn.db")


def _reign(options: Options, listener: socket.socket, database: Database) -> bool:
    """One controller, from the reading of the database to its end; whether that came because the database was lost."""
    with closing(listener), closing(database):
        try:
            sealed = not options.plain and not is_loopback("{}:{}".format(*listener.getsockname()[:2]))
            authority = kept(database, time.time()) if sealed else None
            controller = Controller(database, authority=authority, limits=options.limits, dead_s=options.dead_s)
            url = _url(listener)
            _write_card(url, controller)
            log.info("the controller listens at %s", url)
            if authority:
                log.info("others reach it by https; its authority has the fingerprint %s", authority.fingerprint)
            shown = Shown(authority, lambda: own_names(options.names), time.time()) if authority else None
            _server(controller, database, shown).run(sockets=[listener])
        except SQLAlchemyError:
            if not database.lost:
                raise
        return database.lost


def _open_again(url: str) -> Database:
    """As soon as the database answers. Raises Busy when another controller has it by then; what the server still holds
    of our own broken connection is given time to go."""
    log.error("the connection to the database %s is lost: nothing is done until it is there again", shown(url))
    pause, patience, told = FIRST_PAUSE_SECONDS, GHOST_SECONDS, ""
    while True:
        try:
            return Database(url)
        except Busy:
            if patience < 0:
                raise
            patience -= pause
        except SojournError as away:
            if away.message != told:  # it may be away for days
                log.warning("%s", away.message)
            told = away.message
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class _Server(SharedPort):
    """Ends, too, when the database is lost: what can't be written down must not be done."""

    def __init__(self, config: uvicorn.Config, roster: Roster, database: Database, shown: Shown | None) -> None:
        super().__init__(config, roster, shown.context if shown else None)
        self._database, self._shown = database, shown

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self._shown and counter % _LOOK_TICKS == 0 and self._shown.renew(time.time()):
            log.info("the controller's certificate is renewed")
        there = self._database.answers() if counter % 10 == 0 else not self._database.lost
        return await super().on_tick(counter) or not there


def _server(controller: Controller, database: Database, shown: Shown | None) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            build_app(controller),
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PONG_SECONDS,
            timeout_graceful_shutdown=3,
        ),
        controller.roster,
        database,
        shown,
    )


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Invalid(f"{address!r} is not an address to listen at.", "Write HOST:PORT, as 127.0.0.1:8571.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle off only where the protocol is named; with it an answer takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(128)
    except OSError as taken:
        listener.close()
        raise Busy(f"{address} can't be listened at: {taken.strerror}.", "Choose another --listen.") from taken
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _write_card(url: str, controller: Controller) -> None:
    """What the embedded controller's starter, and an administrator on this machine, need to know."""
    path = folder() / "controller.json"
    try:
        before = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        before = {}
    pinned = controller.authority.pinned if controller.authority else str
    card = {
        "url": url,
        "token": pinned(_kept(controller.gate, "api", before.get("token", ""))),
        "join_token": pinned(_kept(controller.gate, "join", before.get("join_token", ""))),
        "pid": os.getpid(),
    }
    write_private(path, card)


def _kept(gate: Gate, kind: TokenKind, token: str) -> str:
    """The secret of the card's token of before if it is still good, else a new one."""
    now, secret = time.time(), secret_of(token)
    try:
        if secret:
            gate.person(secret, now) if kind == "api" else gate.joiner(secret, now)
            return secret
    except Unauthorized:
        pass
    return gate.create(TokenRequest(kind=kind, name=_user(), admin=True), now)[1]


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "local"
