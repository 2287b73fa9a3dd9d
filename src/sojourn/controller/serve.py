"""The controller as a program: listens, writes its card for who starts it on this machine, ends on SIGTERM."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from sojourn.client.words import TokenKind, TokenRequest
from sojourn.controller.app import build_app
from sojourn.controller.controller import DEAD_SECONDS, Controller
from sojourn.controller.tokens import Gate
from sojourn.database import Database, sqlite_url
from sojourn.errors import Busy, Invalid, Unauthorized
from sojourn.lifecycle import Limits
from sojourn.settings import data_folder, write_private

log = logging.getLogger(__name__)

DEFAULT_LISTEN = "127.0.0.1:8571"


@dataclass(frozen=True)
class Options:
    listen: str = DEFAULT_LISTEN
    """HOST:PORT; port 0: any free one."""
    database: str = ""
    """A SQLAlchemy URL; empty: SQLite in the controller's folder."""
    limits: Limits = field(default_factory=Limits)
    dead_s: float = DEAD_SECONDS


def folder() -> Path:
    return data_folder() / "controller"


def serve(options: Options) -> None:
    """Run a controller until SIGTERM or SIGINT. Raises Invalid, Busy (the address or the database is taken)."""
    listener = _listen(options.listen)
    try:
        database = Database(options.database or sqlite_url(folder() / "sojourn.db"))
    except BaseException:
        listener.close()
        raise
    controller = Controller(database, limits=options.limits, dead_s=options.dead_s)
    url = _url(listener)
    _write_card(url, controller.gate)
    log.info("the controller listens at %s", url)
    # uvicorn ends gracefully and then raises the signal once more, for us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _server(controller).run(sockets=[listener])
    except KeyboardInterrupt:
        log.info("interrupted")
    finally:
        listener.close()
        database.close()


def _server(controller: Controller) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            build_app(controller),
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=3,
        )
    )


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Invalid(f"{address!r} is not an address to listen at.", "Write HOST:PORT, as 127.0.0.1:8571.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
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


def _write_card(url: str, gate: Gate) -> None:
    """What the embedded controller's starter, and an administrator on this machine, need to know."""
    path = folder() / "controller.json"
    try:
        before = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        before = {}
    card = {
        "url": url,
        "token": _kept(gate, "api", before.get("token")),
        "join_token": _kept(gate, "join", before.get("join_token")),
        "pid": os.getpid(),
    }
    write_private(path, card)


def _kept(gate: Gate, kind: TokenKind, secret: str | None) -> str:
    """The card's token of before if it is still good, else a new one."""
    now = time.time()
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
