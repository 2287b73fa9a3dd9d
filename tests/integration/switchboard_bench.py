"""A real ipykernel behind a real switchboard, for tests; the tunnel is stood in for by direct endpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from sojourn.client import Watched
from sojourn.front.connection import Connection, inner_connection
from sojourn.front.ledger import Ledger
from sojourn.front.parties import Line
from sojourn.front.recollection import Recollection
from sojourn.front.switchboard import Switchboard
from sojourn.model import MovePhase, MoveReport, MoveView, SessionStatus, SessionView
from sojourn.transport.loop import Loop


class DirectEnd:
    """Stands where the anchor stands: ports of this machine, signals to a process of this machine."""

    def __init__(self, program: subprocess.Popen[bytes], on_state: Callable[[str, str], None]) -> None:
        self.state = "connected"
        self.on_state = on_state
        self.said: list[dict[str, Any]] = []
        self.on_cut: Callable[[str, str], None] = lambda endpoint, reason: None
        self._program = program

    def place(self, place: object) -> None: ...
    def expect(self, place: object) -> None: ...
    def close(self) -> None: ...

    def listen(self, target: str) -> str:
        return f"tcp://{target.removeprefix('tcp:')}"

    def control(self, message: dict[str, Any]) -> None:
        self.said.append(message)
        if message["do"] == "signal":
            os.killpg(self._program.pid, message["signum"])


class Errands:
    """Moves are answered as the test says, at once or when it says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled = 0
        self.answer: Callable[[str], None] = lambda place: None
        self.wakes: list[str | None] = []
        self.discarded: list[str] = []
        self.told: list[bool] = []

    def move(self, session: str, place: str) -> None:
        self.asked.append(place)
        self.answer(place)

    def cancel_move(self, session: str) -> None:
        self.cancelled += 1

    def wake(self, session: str, place: str | None) -> None:
        self.wakes.append(place)

    def discard(self, session: str) -> None:
        self.discarded.append(session)

    def activity(self, session: str, executing: bool, at: float) -> None:
        self.told.append(executing)


class Bench:
    """One kernel, its switchboard, and clients."""

    def __init__(
        self, folder: Path, encrypted: bool = False, transport: str = "tcp", inner_key: str | None = None
    ) -> None:
        self.outer = _outer(encrypted, transport, folder)
        inner = inner_connection(self.outer)
        if inner_key:
            inner = inner.model_copy(update={"key": inner_key})
        self._file = folder / "inner.json"
        self._file.write_text(json.dumps(inner.for_file()))
        self.program = self._kernel()
        self.errands = Errands()
        self.zone: zmq.Context[Any] = zmq.Context()
        line = Line("s1", self.outer, inner, "python", "front-1")
        self.recollection = Recollection(folder / "known", "python")
        ledger = Ledger(folder / "owed")
        self.switchboard = Switchboard(line, self.zone, self._anchor, self.errands, ledger, self.recollection)
        self.switchboard.start()
        self.clients: list[BlockingKernelClient] = []

    def _kernel(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(self._file), "--HistoryManager.hist_file=:memory:"],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )

    def _anchor(
        self, loop: Loop, on_control: Callable[[dict[str, Any]], None], on_state: Callable[[str, str], None]
    ) -> DirectEnd:
        self._loop, self._on_control = loop, on_control
        self.end = DirectEnd(self.program, on_state)
        return self.end

    def rider_says(self, event: str) -> None:
        self._loop.soon(lambda: self._on_control({"event": event}))

    @property
    def yielded(self) -> int:
        """How often the switchboard has said so."""
        return self.end.said.count({"do": "yielded"})

    def swap(self) -> None:
        """Another kernel, which has begun, comes in the place of this one, and the streams begin anew."""
        self.program.kill()
        self.program.wait()
        self.program = self._kernel()
        _wait_for(self._file)
        self._loop.soon(lambda: self.end.on_state("reset", "another kernel"))

    def client(self) -> BlockingKernelClient:
        made = BlockingKernelClient()
        made.load_connection_info({**self.outer.for_file(), "key": self.outer.key.encode()})
        made.start_channels()
        self.clients.append(made)
        made.wait_for_ready(timeout=20)
        return made

    def sleep(self) -> None:
        """Nothing of the kernel runs, and nobody can reach it."""
        os.killpg(self.program.pid, signal.SIGSTOP)
        self.end.state = "away"
        self.news(SessionStatus.SUSPENDED)

    def wake(self, epoch: int = 1, reason: str = "") -> None:
        os.killpg(self.program.pid, signal.SIGCONT)
        self.end.state = "connected"
        self.news(epoch=epoch, reason=reason)
        self.switchboard.wake_ended()

    def news(
        self,
        status: SessionStatus = SessionStatus.RUNNING,
        phase: MovePhase | None = None,
        epoch: int = 1,
        reason: str = "",
    ) -> None:
        view = SessionView(
            id="s1", name="", owner="", status=status, node="here", incarnation=1, epoch=epoch, created_at=0.0,
            reason=reason,
        )  # fmt: skip
        move = phase and MoveView(
            id="m", session="s1", source="here", target="there", strategy="lazy", phase=phase, started_at=0.0,
            report=MoveReport(froze=True),
        )  # fmt: skip
        self.switchboard.watched(Watched(session=view, place=None, next_place=None, move=move))

    def close(self) -> None:
        for client in self.clients:
            client.stop_channels()
        self.switchboard.close()
        self.program.kill()
        self.program.wait()
        self.zone.term()


def _wait_for(file: Path) -> None:
    """Until the kernel with that connection file answers on shell and on iopub."""
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=20)
    client.stop_channels()


def _outer(encrypted: bool, transport: str, folder: Path) -> Connection:
    plain = inner_connection(
        Connection(key="secret", shell_port=0, iopub_port=0, stdin_port=0, control_port=0, hb_port=0)
    )
    body = plain.for_file()
    if transport == "ipc":
        body |= {"transport": "ipc", "ip": str(folder / "k")}
    if encrypted:
        public, secret = zmq.curve_keypair()
        body |= {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
    return Connection(**body)


@contextmanager
def bench_at(folder: Path, **how: Any) -> Iterator[Bench]:
    bench = Bench(folder, **how)
    try:
        yield bench
    finally:
        bench.close()


def run(client: BlockingKernelClient, code: str, **how: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of the reply, and what iopub said until idle."""
    return finish(client, client.execute(code, **how))


def finish(client: BlockingKernelClient, asked: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    reply = reply_to(client, asked)
    heard = []
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["parent_header"].get("msg_id") != asked:
            continue
        heard.append(message)
        if message["content"].get("execution_state") == "idle":
            return reply["content"], heard


def reply_to(client: BlockingKernelClient, asked: str) -> dict[str, Any]:
    while True:
        message = client.get_shell_msg(timeout=10)
        if message["parent_header"].get("msg_id") == asked:
            return dict(message)


def printed(heard: list[dict[str, Any]]) -> str:
    return "".join(message["content"]["text"] for message in heard if message["msg_type"] == "stream")


def wait_for_input(client: BlockingKernelClient, asked: str) -> None:
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["msg_type"] == "execute_input" and message["parent_header"]["msg_id"] == asked:
            return


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
