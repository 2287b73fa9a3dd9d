"""What whoever is dialled says before a connection is a tunnel, a link, or nothing (contracts, 2)."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from sojourn.errors import SojournError

_PIECE = 16384


def say(connection: socket.socket, message: dict[str, Any]) -> None:
    """One short line on a connection that has sent nothing yet; one that is gone is left alone."""
    with suppress(OSError):
        connection.send(json.dumps(message).encode() + b"\n")


def turn_away(connection: socket.socket, reason: SojournError) -> None:
    """Say why, and close."""
    say(connection, {"ok": False, "error": reason.to_wire()})
    connection.setblocking(False)
    with connection, suppress(OSError):
        # A close with bytes unread would reset the connection and take the answer with it.
        while connection.recv(_PIECE):
            pass
