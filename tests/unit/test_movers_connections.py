from __future__ import annotations

import os
import socket
import sys

import pytest

from sojourn.movers.connections import Connection, end_repair, outside_connections, parse_table
from sojourn.movers.inspection import sums

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0200000A:C350 0100000A:1538 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
"""
TABLE6 = """  sl  local_address                         remote_address                        st
   0: 0000000000000000FFFF00000200000A:C351 0000000000000000FFFF00000100000A:1538 01 0
   1: 00000000000000000000000001000000:0050 00000000000000000000000001000000:C000 08 0
"""

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the example is a little machine's")


@little_endian
def test_a_table_of_connections() -> None:
    assert list(parse_table(TABLE)) == [Connection(("10.0.0.2", 50000), ("10.0.0.1", 5432))]
    assert list(parse_table(TABLE6)) == [
        Connection(("10.0.0.2", 50001), ("10.0.0.1", 5432)),
        Connection(("::1", 80), ("::1", 49152)),
    ]


def test_connections_as_a_person_reads_them_and_as_they_travel() -> None:
    one = Connection(("10.0.0.2", 50000), ("10.0.0.1", 5432))
    assert str(one) == "tcp 10.0.0.1:5432"
    assert str(Connection(("::1", 1), ("fd00::1", 80))) == "tcp [fd00::1]:80"
    assert Connection.from_wire(one.to_wire()) == one


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_stays_on_the_loopback_is_not_outside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        mine = client.getsockname()
        assert all(connection.local != mine for connection in outside_connections(os.getpid()))


@pytest.mark.skipif(not hasattr(os, "pidfd_open") or os.geteuid() != 0, reason="needs root and pidfd_getfd")
def test_sockets_in_repair_are_taken_out_of_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            client.setsockopt(socket.IPPROTO_TCP, 19, 1)
            assert end_repair([os.getpid()]) == 1
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"
            assert end_repair([os.getpid()]) == 0


def test_sums_of_mappings() -> None:
    text = "5600-7ff [rollup]\nRss: 100 kB\nPss:  64 kB\nPss_Dirty: 1 kB\nPrivate_Dirty: 8 kB\nShared_Dirty: 4 kB\n"
    assert sums(text.splitlines()) == {"Pss": 65536, "Private_Dirty": 8192, "Shared_Dirty": 4096}
