"""The ports a kernel is told to bind."""

from __future__ import annotations

import socket

from sojourn.front.connection import CHANNELS, INNER_PORTS, Connection, inner_connection

OUTER = Connection(shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5, key="k", curve_publickey="p")


def test_they_are_free_distinct_and_out_of_the_way_of_outgoing_connections() -> None:
    inner = [inner_connection(OUTER) for _ in range(50)]
    ports = [one.port(channel) for one in inner for channel in CHANNELS]
    assert len(set(ports)) == len(ports)
    assert all(INNER_PORTS[0] <= port <= INNER_PORTS[1] for port in ports)
    with socket.create_server(("127.0.0.1", ports[0])):
        pass


def test_the_key_stays_and_curve_ends_at_the_switchboard() -> None:
    inner = inner_connection(OUTER)
    assert (inner.key, inner.curve_publickey) == ("k", None)
