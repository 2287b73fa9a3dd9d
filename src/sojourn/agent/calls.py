"""Callers whom the relay has for this node: fetched, and then as good as those who come to the data port
(contracts, Relay)."""

from __future__ import annotations

import logging
import socket

from sojourn.agent.data_port import DataPort
from sojourn.agent.rider_line import with_rider
from sojourn.transport.address import hasten, parse_tcp
from sojourn.transport.keepalive import notice_death
from sojourn.transport.lines import encode_line
from sojourn.transport.routes import RELAY_SECONDS

log = logging.getLogger(__name__)


async def fetch(call: str, relay: str, port: DataPort) -> None:
    """Dial the relay at host:port for this call, and bring who waits there to the data port."""
    try:
        connection = await with_rider(_dialled, call, relay)
    except OSError as absent:
        log.warning("a caller could not be fetched from the relay at %s: %s", relay, absent)
    else:
        port.receive(connection)


def _dialled(call: str, relay: str) -> socket.socket:
    connection = socket.create_connection(parse_tcp(relay), RELAY_SECONDS)
    try:
        hasten(connection)
        notice_death(connection)
        connection.sendall(encode_line({"sojourn": 1, "call": call}))
    except BaseException:
        connection.close()
        raise
    return connection
