"""The controller's clients, without a controller."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sojourn.client import AsyncClient, Client


class Says(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def keeps_alive(connection: socket.socket) -> bool:
    return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


def test_a_controller_that_went_away_in_silence_is_noticed(url: str) -> None:
    with Client(url, "t") as client, client._open().stream("GET", "/") as answer:
        assert keeps_alive(answer.extensions["network_stream"].get_extra_info("socket"))


async def test_also_by_asyncio(url: str) -> None:
    async with AsyncClient(url, "t") as client, client._open().stream("GET", "/") as answer:
        assert keeps_alive(answer.extensions["network_stream"].get_extra_info("socket"))
