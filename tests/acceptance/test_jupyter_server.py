"""A real Jupyter Server, spoken to as a browser does: a WebSocket that stays open while the kernel moves."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager

import httpx
import pytest
from websockets.sync.client import connect

from sojourn import embedded
from sojourn.jupyter import kernelspec

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

TOKEN = "for-this-test"
PATIENCE = 60


class Server:
    """Jupyter Server as a subprocess, with the kernel "sojourn" and the front's kernels as external ones."""

    def __init__(self, folder) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        kernelspec.install(prefix=str(folder))
        kernelspec.offer_left_kernels(embedded.start())
        environment = os.environ | {
            "JUPYTER_PATH": str(folder / "share" / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(folder),
        }
        options = {
            "IdentityProvider.token": TOKEN,
            "ServerApp.port": str(self.port),
            "ServerApp.root_dir": str(folder),
            "ServerApp.allow_external_kernels": "True",
            "ServerApp.kernel_manager_class": "sojourn.jupyter.server_kernels.LastingKernels",
            "ServerApp.external_connection_dir": str(kernelspec.connections_folder()),
        }
        argv = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"]
        argv += [f"--{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        headers = {"Authorization": f"token {TOKEN}"}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=PATIENCE)
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.http.get("/api/status").raise_for_status()
                return
            except httpx.HTTPError:
                assert self.process.poll() is None, "Jupyter Server did not start"
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def end(self, signum: int = signal.SIGTERM) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signum)
            self.process.wait(PATIENCE)

    @contextmanager
    def channels(self, kernel: str):
        url = f"ws://127.0.0.1:{self.port}/api/kernels/{kernel}/channels?token={TOKEN}"
        with connect(url, max_size=None, open_timeout=PATIENCE) as channels:
            yield channels


def ask(channels, code: str) -> str:
    message = uuid.uuid4().hex
    header = {"msg_id": message, "msg_type": "execute_request", "username": "", "session": "t", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
    body = {
        "channel": "shell",
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
    }
    channels.send(json.dumps(body | {"user_expressions": {}}))
    return message


def listen(channels, message: str, each=lambda text: None) -> str:
    """What the cell printed, once it is idle."""
    heard = ""
    while True:
        frame = json.loads(channels.recv(timeout=PATIENCE))
        if frame["parent_header"].get("msg_id") != message:
            continue
        if frame["msg_type"] == "stream":
            heard += frame["content"]["text"]
            each(heard)
        if frame["msg_type"] == "error":
            raise AssertionError("\n".join(frame["content"]["traceback"]))
        if frame["msg_type"] == "status" and frame["content"]["execution_state"] == "idle":
            return heard


def run(channels, code: str) -> str:
    return listen(channels, ask(channels, code)).strip()


@pytest.fixture
def server(tmp_path, sojourner):
    server = Server(tmp_path)
    yield server
    server.end()
    for view in sojourner.sessions():
        sojourner.stop(view.id)
    while sojourner.sessions():
        time.sleep(0.1)


def kernel_on(server: Server) -> str:
    return server.http.post("/api/kernels", json={"name": "sojourn"}).raise_for_status().json()["id"]


def test_the_browsers_line_stays_open_while_the_kernel_moves(server, sojourner):
    kernel = kernel_on(server)
    before = {view.id for view in sojourner.sessions()}
    moved = []

    def move_at_line_100(heard: str) -> None:
        if not moved and heard.count("\n") >= 100:
            (session,) = [
                view.id for view in sojourner.sessions() if view.id in before and view.name.startswith("kernel")
            ]
            moved.append(sojourner.move(session, "there" if sojourner.session(session).node == "here" else "here"))

    with server.channels(kernel) as channels:
        code = "import time\nfor i in range(600):\n    print(i, flush=True)\n    time.sleep(0.005)"
        heard = listen(channels, ask(channels, code), move_at_line_100)
    assert moved[0].move is not None
    assert heard.split() == [str(number) for number in range(600)]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_kernel_outlives_its_server(end, server, sojourner, tmp_path):
    kernel = kernel_on(server)
    with server.channels(kernel) as channels:
        run(channels, "x = 41")
    assert [each["id"] for each in server.http.get("/api/kernels").json()] == [kernel]  # and not a second time
    server.end(end)
    again = Server(tmp_path / "again")
    try:
        deadline = time.monotonic() + PATIENCE
        while not (left := [each["id"] for each in again.http.get("/api/kernels").json()]):
            assert time.monotonic() < deadline, "the new server does not show the kernel"
            time.sleep(0.5)
        (found,) = left
        with again.channels(found) as channels:
            assert run(channels, "print(x + 1)") == "42"
    finally:
        again.end()
