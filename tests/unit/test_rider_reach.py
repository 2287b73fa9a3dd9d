"""A try to reach a program that does not listen yet may end at itself."""

from __future__ import annotations

import socket
import sys

import pytest

from sojourn.rider.reach import _met_itself


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's simultaneous open on loopback")
def test_a_connection_to_itself_is_told_from_one_to_a_listener() -> None:
    with socket.socket() as lonely:
        lonely.bind(("127.0.0.1", 0))
        lonely.connect(lonely.getsockname())
        assert _met_itself(lonely)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as met:
        assert not _met_itself(met)
