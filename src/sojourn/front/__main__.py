"""`python -m sojourn.front`: the front as a program; one for each user, started by `front.client.ensure`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from sojourn.front.app import make_app
from sojourn.front.client import front_folder
from sojourn.front.host import IDLE_SECONDS, Front
from sojourn.front.locks import take_lock
from sojourn.front.socket_folders import remove_orphaned_folders
from sojourn.front.words import Card
from sojourn.settings import write_private

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="sojourn.front", description=__doc__)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="stay that long with nothing to host")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    allow_many_kernels()
    folder = front_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "front.lock").open("w") as lock:
        if take_lock(lock):
            remove_orphaned_folders()
            asyncio.run(serve(folder, arguments.idle_seconds))
        else:
            log.info("this user has a front already")


def allow_many_kernels() -> None:
    """A kernel takes some forty descriptors here; of the usual 1,024 two dozen kernels would use up all."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # macOS promises more than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Server(uvicorn.Server):
    """uvicorn's ends the process by the signal it was sent, before anything could be put in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.handle_exit)
        yield


async def serve(folder: Path, idle_seconds: float) -> None:
    """Run until there is nothing left to host, or told to end."""
    token = secrets.token_urlsafe(32)
    front = Front(folder, idle_seconds)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Inherited by each connection: else an answer in two parts waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = Server(uvicorn.Config(make_app(front, token), log_level="warning", lifespan="off"))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await front.begin()
        card = folder / "front.json"
        write_private(card, Card(url=url, token=token, pid=os.getpid()).model_dump())
        watch = asyncio.create_task(_look_after(front, server, card))
        try:
            await server.serve(sockets=[listener])
        finally:
            card.unlink(missing_ok=True)
            watch.cancel()
            await front.end()


async def _look_after(front: Front, server: uvicorn.Server, card: Path) -> None:
    """Until nothing is hosted any more, or nobody can find this front: its card was removed."""
    while not server.should_exit:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            server.should_exit = not await front.look_after() or not await asyncio.to_thread(card.exists)
        except Exception:
            log.exception("the front stumbled over what it looks after")


if __name__ == "__main__":
    main()
