from __future__ import annotations

import socket
import sys

import pytest

from sojourn.transport.keepalive import SILENT_SECONDS, notice_death


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have fewer of these options")
def test_a_silent_connection_is_given_up_in_time_idle_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        notice_death(connection)
        idle, pause, count = (
            connection.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + pause * count <= SILENT_SECONDS
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * SILENT_SECONDS


def test_other_sockets_are_left_alone_and_one_that_is_closed_is_no_error() -> None:
    one, other = socket.socketpair()
    with one, other:
        notice_death(one)
    notice_death(one)
    closed = socket.socket()
    closed.close()
    notice_death(closed)
