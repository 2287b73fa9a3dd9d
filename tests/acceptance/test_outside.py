"""What a session has open to the outside when it moves: reset at once, never hung, and made anew at the new place."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

import sojourn
from sojourn.testing import execute, session_of
from sojourn.testing.postgresql import postgresql, why_no_postgresql

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not shutil.which("pasta"), reason="pasta is not installed"),
]
AT_ONCE_SECONDS = 5.0
INSIDE = "169.254.250.2"

CLIENTS = """
import json, threading, time
import psycopg, requests
from websockets.sync.client import connect

class Waiting(threading.Thread):
    "In the middle of a request that is never answered."
    def __init__(self, ask):
        super().__init__(daemon=True)
        self.ask, self.ended = ask, "it got an answer"
        self.start()
    def run(self):
        try:
            self.ask()
        except Exception as error:
            self.ended = type(error).__name__

def use(ask):
    "What came of it, and after how many seconds."
    began = time.monotonic()
    try:
        said = str(ask())
    except Exception as error:
        said = type(error).__name__
    return said, time.monotonic() - began

def database():
    return psycopg.connect(DATABASE, autocommit=True)

def web():
    session = requests.Session()
    session.get(WEB)
    return session

def chat():
    made = connect(CHAT, ping_interval=None)
    made.send("hello")
    assert made.recv() == "hello"
    return made

idle = database(), web(), chat()
busy = database(), web(), chat()
waiting = [
    Waiting(lambda: busy[0].execute("SELECT pg_sleep(3600)")),
    Waiting(lambda: busy[1].get(WEB + "/never")),
    Waiting(lambda: busy[2].recv()),
]
"""
AFTER = f"""
for one in waiting:
    one.join({AT_ONCE_SECONDS})
print(json.dumps({{
    "waiting": [one.ended if not one.is_alive() else "it hangs" for one in waiting],
    "idle": [
        use(lambda: idle[0].execute("SELECT 1")),
        use(lambda: idle[1].get(WEB).text),
        use(lambda: idle[2].recv()),
    ],
    "anew": [
        use(lambda: database().execute("SELECT 1").fetchone()[0]),
        use(lambda: web().get(WEB).text),
        use(lambda: chat().close()),
    ],
}}))
"""
ADDRESS = "import socket\nsocket.create_connection({}).getsockname()[0]"


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    callers: set[tuple[str, int]] = set()
    over = threading.Event()

    def do_GET(self) -> None:
        self.callers.add(self.client_address)
        if self.path == "/never":
            self.over.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, *_: Any) -> None: ...


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@contextmanager
def served(server: Any) -> Iterator[int]:
    """Its port."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        Web.over.set()
        server.shutdown()
        server.socket.close()


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """A database, a web server and a WebSocket server at this machine's outward address."""
    if reason := why_no_postgresql():
        pytest.skip(reason)
    host = outward_address()
    with ExitStack() as open_, postgresql(host) as database:
        web = open_.enter_context(served(http.server.ThreadingHTTPServer((host, 0), Web)))
        chat = open_.enter_context(served(serve(echo, host, 0)))
        yield {
            "DATABASE": database.url(database.new_database().rpartition("/")[2], host),
            "WEB": f"http://{host}:{web}",
            "CHAT": f"ws://{host}:{chat}",
        }


def outward_address() -> str:
    """Where a sandbox, to which the node's loopback is closed, can reach this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            handle.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(handle.getsockname()[0])


def test_a_move_resets_what_leads_outside_and_it_can_be_made_anew(
    sojourner: sojourn.Client, kernel: tuple[Any, Any], addresses: dict[str, str]
) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "".join(f"{name} = {address!r}\n" for name, address in addresses.items()) + CLIENTS)
    web = addresses["WEB"].rpartition("/")[2].split(":")
    address = ADDRESS.format((web[0], int(web[1])))
    assert execute(client, address) == repr(INSIDE)
    callers = len(Web.callers)

    other = "there" if sojourner.session(session).node == "here" else "here"
    report = sojourner.move(session, other, wait="filled").move.report

    found = json.loads(execute(client, AFTER, timeout=30))
    # In the middle of a request: an error, not a wait.
    assert found["waiting"] == ["OperationalError", "ConnectionError", "ConnectionClosedError"]
    # Idle: the next use fails at once, or (requests, which looks before it asks) is done by a new connection.
    assert [said for said, _ in found["idle"]] == ["OperationalError", "hi", "ConnectionClosedError"]
    assert len(Web.callers) == callers + 2
    assert [said for said, _ in found["anew"]] == ["1", "hi", "None"]
    assert max(seconds for _, seconds in found["idle"] + found["anew"]) < AT_ONCE_SECONDS
    # The same address inside, wherever it is; the report names what was reset.
    assert execute(client, address) == repr(INSIDE)
    ports = {name.rpartition(":")[2] for name in report.connections_reset}
    assert ports == {url.rpartition(":")[2].split("/")[0] for url in addresses.values()}
