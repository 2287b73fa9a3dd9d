"""The front's client, with a front that hangs."""

from __future__ import annotations

import socket
import time

import pytest

from sojourn.errors import Unreachable
from sojourn.front import client
from sojourn.front.client import FrontClient
from sojourn.front.words import Card
from sojourn.settings import Controller


def test_a_front_that_hangs_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter Server polls its kernels from its event loop."""
    monkeypatch.setattr(FrontClient._ask, "__defaults__", (None, 0.1))
    assert client.AT_ONCE_SECONDS <= 10
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        card = Card(url=f"http://127.0.0.1:{hangs.getsockname()[1]}", token="", pid=1)
        began = time.monotonic()
        with pytest.raises(Unreachable):
            FrontClient(card, Controller("http://127.0.0.1:1", "")).kernel("s")
        assert time.monotonic() < began + 5
