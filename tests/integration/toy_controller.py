"""A controller in a few lines for tests of the front: real riders with real kernels, and moves that move nothing.

Each session is one rider on this machine. `moves` decides what a move does; by default the rider stays where it is and
gets another incarnation, which is all a front can tell of a move. A session that sleeps is a rider that stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from sojourn.errors import SojournError, Unknown
from sojourn.model import (
    CheckpointView,
    MovePhase,
    MovePlan,
    MoveReport,
    MoveView,
    Place,
    SessionSpec,
    SessionStatus,
    SessionView,
    WakePhase,
    WakeView,
)
from sojourn.rider.build import build_rider
from sojourn.settings import Controller

SECRET = "s"


class Gate:
    """Stands where an agent's data port stands: introduces whoever comes to one rider."""

    def __init__(self, rider: Path) -> None:
        self.incarnation, self.epoch = 1, 1
        self._rider = rider
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._introduce(self._listener.accept()[0])

    def _introduce(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as rider:
            line = b""
            while not line.endswith(b"\n"):
                line += client.recv(1)
            ticket = json.loads(json.loads(line)["ticket"])
            client.sendall(b'{"ok":true}\n')
            rider.connect(str(self._rider))
            attach = {"attach": "tunnel", "secret": SECRET, **ticket}
            socket.send_fds(rider, [json.dumps(attach).encode() + b"\n"], [client.fileno()])
            rider.recv(4096)


class Session:
    """A rider, its gate, and what is told of them."""

    def __init__(self, folder: Path, spec: SessionSpec) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.spec = spec
        self.folder = folder / self.id
        self.folder.mkdir()
        self.rider = self._ride(spec)
        self.gate = Gate(self.folder / "rider.sock")
        self.view = SessionView(
            id=self.id, name=self.id, owner="me", status=SessionStatus.RUNNING, node="here", incarnation=1, epoch=1,
            created_at=time.time(),
        )  # fmt: skip
        self.move: MoveView | None = None
        self.wake: WakeView | None = None

    def _lay(self, files: dict[str, str]) -> dict[str, str]:
        """The spec's files, below this folder; said path -> real path."""
        paths = {path: self.folder / path.strip("/").replace("/", "-") for path in files}
        for path, real in paths.items():
            real.write_text(files[path])
        return {path: str(real) for path, real in paths.items()}

    def _ride(self, spec: SessionSpec) -> subprocess.Popen[bytes]:
        config = {
            "session": self.id,
            "listen": str(self.folder / "rider.sock"),
            "secret": SECRET,
            "announce": str(self.folder / "announced"),
            "socket": str(self.folder / "verbs.sock"),
            "program": spec.program.model_dump(mode="json"),
            "paths": self._lay(spec.files),
            "autostart": True,
            "spool": {"folder": str(self.folder / "spool"), "memory_bytes": 1 << 24, "disk_bytes": 1 << 28},
            "log": str(self.folder / "program.log"),
        }
        (self.folder / "rider.json").write_text(json.dumps(config))
        zipapp = build_rider(self.folder.parent / "riders")
        rider = subprocess.Popen([sys.executable, "-I", "-S", str(zipapp), str(self.folder / "rider.json")])
        until = time.monotonic() + 10
        while not (self.folder / "announced").exists() and time.monotonic() < until:
            time.sleep(0.01)
        return rider

    def stop(self) -> None:
        self.gate.close()
        if self.rider.poll() is None:
            for pid in reversed(_family(self.rider.pid)):
                os.kill(pid, signal.SIGKILL)
            self.rider.wait()

    def watched(self, anchor: str | None) -> dict[str, Any]:
        claims = {"incarnation": self.view.incarnation, "epoch": self.view.epoch, "anchor": anchor}
        place = Place(
            node=self.view.node or "here", address=self.gate.address, ticket=json.dumps(claims),
            incarnation=self.view.incarnation, epoch=self.view.epoch,
        )  # fmt: skip
        running = self.view.status in (SessionStatus.RUNNING, SessionStatus.MOVING)
        return {
            "session": self.view.model_dump(mode="json"),
            "place": place.model_dump(mode="json") if running and anchor else None,
            "next_place": None,
            "move": self.move.model_dump(mode="json") if self.move else None,
            "wake": self.wake.model_dump(mode="json") if self.wake else None,
        }


class ToyController:
    """Serves in a thread of its own; `sessions` may be changed from the test's through `change`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sessions: dict[str, Session] = {}
        self.asked: list[str] = []
        self.moves: Callable[[Session, str], None] = self.arrive
        self.wakes: Callable[[Session], None] = self.wake
        self.woken: list[str | None] = []
        """Places at which sessions were to be woken."""
        self.active: list[bool] = []
        self._watchers: set[asyncio.Event] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Controller(f"http://127.0.0.1:{self._listener.getsockname()[1]}", "t")
        self._server = uvicorn.Server(uvicorn.Config(self._app(), log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._listener.close()
        for session in self.sessions.values():
            session.stop()

    def begin(self, spec: SessionSpec) -> Session:
        session = Session(self.folder, spec)
        self.sessions[session.id] = session
        return session

    def change(self, session: Session, under_way: MoveView | None = None, **changes: Any) -> None:
        """From any thread: tell every watcher."""
        session.view = session.view.model_copy(update=changes)
        session.move = under_way
        self._loop.call_soon_threadsafe(self._tell)

    def freeze(self, session: Session, place: str = "there") -> None:
        """The rider and its program stand still, and the controller says so."""
        for pid in _family(session.rider.pid):
            os.kill(pid, signal.SIGSTOP)
        move = MoveView(
            id="m", session=session.id, source=session.view.node or "", target=place, strategy="lazy",
            phase=MovePhase.DEPARTING, started_at=0.0, report=MoveReport(froze=True),
        )  # fmt: skip
        self.change(session, move, status=SessionStatus.MOVING, move="m")

    def thaw(self, session: Session, place: str = "there", epoch: int = 0) -> None:
        for pid in _family(session.rider.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        known = session.view
        self.change(
            session, status=SessionStatus.RUNNING, move=None, node=place,
            incarnation=known.incarnation + 1, epoch=known.epoch + epoch,
        )  # fmt: skip

    def sleep(self, session: Session) -> None:
        """The rider and its program stand still, and nobody is told where."""
        for pid in _family(session.rider.pid):
            os.kill(pid, signal.SIGSTOP)
        self.change(session, status=SessionStatus.SUSPENDED, checkpoint="c")

    def wake(self, session: Session, epoch: int = 0) -> None:
        session.wake = WakeView(
            id=uuid.uuid4().hex, session=session.id, node="here", checkpoint="c", exact=not epoch,
            phase=WakePhase.FILLING, started_at=0.0,
        )  # fmt: skip
        self.change(session, status=SessionStatus.WAKING)
        time.sleep(0.2)
        self.thaw(session, "here", epoch)

    def arrive(self, session: Session, place: str) -> None:
        if place != session.view.node:
            self.freeze(session, place)
            time.sleep(0.05)
            self.thaw(session, place)

    def _tell(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    def _find(self, session: str) -> Session:
        if session not in self.sessions:
            raise Unknown(f"No session {session}.")
        return self.sessions[session]

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.exception_handler(SojournError)
        async def tell(_request: Request, error: SojournError) -> JSONResponse:
            return JSONResponse(error.to_wire(), status_code=error.http_status)

        @app.post("/api/sessions")
        async def start(request: Request) -> Any:
            spec = SessionSpec.model_validate((await request.json())["spec"])
            return (await asyncio.to_thread(self.begin, spec)).view

        @app.get("/api/sessions/{session}")
        async def view(session: str) -> Any:
            return self._find(session).view

        @app.delete("/api/sessions/{session}")
        async def stop(session: str) -> Any:
            found = self._find(session)
            await asyncio.to_thread(found.stop)
            self.change(found, status=SessionStatus.STOPPED)
            return found.view

        @app.post("/api/sessions/{session}/move")
        async def move(session: str, request: Request) -> Any:
            found, place = self._find(session), (await request.json())["to"]
            self.asked.append(place)
            await asyncio.to_thread(self.moves, found, place)
            plan = MovePlan(session=session, source="here", target=place)
            return {"session": found.view, "move": None, "plan": plan}

        @app.post("/api/sessions/{session}/resume")
        async def resume(session: str, request: Request) -> Any:
            found = self._find(session)
            self.woken.append((await request.json())["to"])
            if found.view.status is SessionStatus.SUSPENDED:
                await asyncio.to_thread(self.wakes, found)
            return found.view

        @app.post("/api/sessions/{session}/activity")
        async def activity(session: str, request: Request) -> None:
            self.active.append((await request.json())["executing"])

        @app.get("/api/sessions/{session}/spec")
        async def spec(session: str) -> Any:
            return self._find(session).spec

        @app.get("/api/checkpoints/{checkpoint}")
        async def checkpoint(checkpoint: str) -> Any:
            return CheckpointView(
                id=checkpoint, session="", owner="me", kind="suspend", node="here", created_at=86_400.0 * 3650
            )

        @app.websocket("/api/watch")
        async def watch(socket: WebSocket) -> None:
            await socket.accept()
            with contextlib.suppress(WebSocketDisconnect):
                await self._watch(socket)

        return app

    async def _watch(self, socket: WebSocket) -> None:
        changed, wanted = asyncio.Event(), {}
        self._watchers.add(changed)
        telling = asyncio.create_task(self._keep_telling(socket, changed, wanted))
        try:
            while True:
                message = await socket.receive_json()
                if "watch" not in message:
                    wanted.pop(message["unwatch"], None)
                elif message["watch"] in self.sessions:
                    wanted[message["watch"]] = message["anchor"]
                    changed.set()
                else:
                    await socket.send_json({"error": Unknown(f"No session {message['watch']}.").to_wire()})
        finally:
            telling.cancel()
            self._watchers.discard(changed)

    async def _keep_telling(self, socket: WebSocket, changed: asyncio.Event, wanted: dict[str, str | None]) -> None:
        while True:
            await changed.wait()
            changed.clear()
            for session, anchor in list(wanted.items()):
                await socket.send_json(self.sessions[session].watched(anchor))


def _family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
