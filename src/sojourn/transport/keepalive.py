"""How soon a connection is given up that leads nowhere any more.

A cable that was pulled, or a laptop that was closed, says nothing: by itself the system goes on sending for a quarter
of an hour, and would wait for ever where it has nothing to send. What is made again by itself, as a tunnel, or undone
by the law, as a move, is better given up soon.
"""

from __future__ import annotations

import socket
from contextlib import suppress

SILENT_SECONDS = 20
"""Who has acknowledged nothing for so long is gone. So is who takes nothing for so long: that can't be told apart."""
_KEEPALIVE = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": SILENT_SECONDS // 5 - 1,
    "TCP_USER_TIMEOUT": 1000 * SILENT_SECONDS,
}
NOTICE_DEATH = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, int(getattr(socket, name)), value)
        for name, value in _KEEPALIVE.items()
        if hasattr(socket, name)
    ),
]
"""Socket options (level, name, value) by which the system finds out. They stay with a socket that is handed on."""

PING_SECONDS, PONG_SECONDS = 5.0, 15.0
"""The same for WebSockets: how often each end asks, and how long it waits for the answer."""


def notice_death(connection: socket.socket) -> None:
    """Fine on any socket; one that is gone already will show it."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            for option in NOTICE_DEATH:
                connection.setsockopt(*option)
