"""`sojourn forward`, as a person uses it: a web app in a kernel, reached from here before, during and after a move."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.client import connect

import sojourn
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

APP = """
import hashlib, http.server, random, threading, time
from websockets.sync.server import serve

class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        pieces = [random.Random(number).randbytes(65536) for number in range(48)] if self.path == "/stream" else [b"hi"]
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, pieces))))
        self.send_header("X-Digest", hashlib.sha256(b"".join(pieces)).hexdigest())
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(0.05 if len(pieces) > 1 else 0)
    def log_message(self, *_): pass

def echo(line):
    for message in line:
        line.send(message + " from inside")

servers = http.server.ThreadingHTTPServer(("127.0.0.1", 8787), App), serve(echo, "127.0.0.1", 8788)
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
"""
PATIENCE = 20


class Forward:
    """The command, running: `urls` as it printed them, and what it has said on stderr."""

    def __init__(self, session: str, *arguments: str, ports: int = 1) -> None:
        argv = [sys.executable, "-m", "sojourn.cli.main", "forward", session, *arguments]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        assert self.process.stderr
        lines = [self.process.stdout.readline() for _ in range(ports)]
        self.urls = [line.split(" -> ")[0] for line in lines]
        self.inside = [line.rstrip().rpartition(":")[2] for line in lines]
        self.said: list[str] = []
        self._hearing = threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()), daemon=True)
        self._hearing.start()

    def says(self, words: str) -> bool:
        return any(words in line for line in self.said)

    def end(self, signum: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        self._hearing.join()
        return code


@contextmanager
def forwarded(session: str, *arguments: str, ports: int = 1) -> Iterator[Forward]:
    running = Forward(session, *arguments, ports=ports)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture(scope="module")
def app(sojourner: sojourn.Client) -> Iterator[tuple[str, Any]]:
    """A session with a web server at 8787 and a WebSocket server at 8788, and its kernel's client."""
    manager, client = start_kernel()
    execute(client, APP)
    yield session_of(manager), client
    end_kernel(manager, client)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        found: bytes = answer.read()
        return found


def other_node(client: sojourn.Client, session: str) -> str:
    return "there" if client.session(session).node == "here" else "here"


def in_the_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_what_flows_goes_on_across_a_move(sojourner: sojourn.Client, app: tuple[str, Any]) -> None:
    session, _ = app
    with forwarded(session, ":8787", ":8788", ports=2) as running:
        assert running.inside == ["8787", "8788"]
        web, chat = running.urls
        assert get(web) == b"hi"
        with connect(chat.replace("http", "ws"), proxy=None) as line, urllib.request.urlopen(f"{web}/stream") as stream:
            line.send("before")
            assert line.recv(PATIENCE) == "before from inside"
            digest = stream.headers["X-Digest"]
            reading, read = in_the_background(lambda: hashlib.sha256(stream.read()).hexdigest())
            target = other_node(sojourner, session)
            moving, _ = in_the_background(lambda: sojourner.move(session, target, wait="filled"))
            while moving.is_alive():
                assert get(web) == b"hi"  # new ones, too, whatever the move is at
            moving.join()
            reading.join()
            assert read == [digest]
            line.send("after")
            assert line.recv(PATIENCE) == "after from inside"
        assert running.says(f"is on {target} now")
        assert running.end() == 0


def test_a_connection_wakes_a_session_and_those_it_had_go_on(sojourner: sojourn.Client, app: tuple[str, Any]) -> None:
    session, _ = app
    with forwarded(session, ":8787", ":8788", ports=2) as running:
        web, chat = running.urls
        with connect(chat.replace("http", "ws"), proxy=None, ping_interval=None) as line:
            for wake in (lambda: get(web), lambda: line.send("good morning")):
                sojourner.suspend(session, force=True)
                until(lambda: sojourner.session(session).status == "suspended", "the session to sleep")
                time.sleep(0.3)
                assert sojourner.session(session).status == "suspended"  # a line that is only open wakes nobody
                wake()
                until(lambda: sojourner.session(session).status == "running", "the session to wake")
            assert line.recv(PATIENCE) == "good morning from inside"
        assert running.says("the next connection wakes it")


def test_without_waking_a_sleeping_session_refuses(sojourner: sojourn.Client, app: tuple[str, Any]) -> None:
    session, client = app
    with forwarded(session, "--no-wake", ":8787") as running:
        assert get(running.urls[0]) == b"hi"
        sojourner.suspend(session, force=True)
        until(lambda: running.says("connections are refused"), "it to be told")
        with pytest.raises((OSError, urllib.error.URLError)):
            get(running.urls[0])
        assert sojourner.session(session).status == "suspended"
        assert execute(client, "6 * 7") == "42"  # a cell wakes it as ever
        assert get(running.urls[0]) == b"hi"


def test_it_ends_with_the_session_and_says_so(sojourner: sojourn.Client) -> None:
    manager, client = start_kernel()
    with forwarded(session_of(manager), "0:8787") as running:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            second = Forward(session_of(manager), f"{port}:8787", ports=0)
            assert second.wait() == 1
            assert second.says(f"Nothing can listen at 127.0.0.1:{port}")
        end_kernel(manager, client)
        assert running.wait() == 1
        assert running.says("has ended")
