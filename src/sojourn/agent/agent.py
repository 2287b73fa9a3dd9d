"""The agent as a whole: what happens at its start, in which order, and at its end."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sojourn import __version__
from sojourn.agent import eviction, load, machine
from sojourn.agent.arrivals import Arrivals
from sojourn.agent.calls import fetch
from sojourn.agent.capabilities import capabilities
from sojourn.agent.data_port import DataPort
from sojourn.agent.departures import Departures
from sojourn.agent.environments import Environments
from sojourn.agent.folder import Folder
from sojourn.agent.identity import Identity
from sojourn.agent.images import NodeImages
from sojourn.agent.journal import Journal
from sojourn.agent.line import Line
from sojourn.agent.recovery import recover
from sojourn.agent.runner import Node, Runner
from sojourn.errors import Unauthorized, Unreachable
from sojourn.model import Eviction
from sojourn.rider.build import build_rider
from sojourn.transport.routes import is_loopback, relay_of
from sojourn.wire import PROTOCOL, Event, Hello

log = logging.getLogger(__name__)

_THREADS = 8
"""For blocking work; the halves of moves and what waits for riders have threads of their own."""
_TIDY_SECONDS = 60.0
_ANY = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Settings:
    controller: str
    """http(s)://host:port"""
    join_token: str
    name: str
    folder: Path
    labels: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    """Where its data port is; empty: it has none, and is reached by the relay alone."""
    port: int = 0
    sandbox: Literal["auto", "runc", "process"] = "auto"
    eviction: str = "none"
    """Who says that the node is about to be taken away, see `eviction`."""
    metadata_url: str = ""
    """Where that is asked for, instead of the cloud's own address."""
    elsewhere: tuple[str, ...] = ()
    """Where the controller may be, if not at `controller`."""


class Agent:
    """Made in the event loop; raises Busy when another agent has the folder, Unauthorized without any token."""

    def __init__(self, settings: Settings) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "work"))
        self.settings = settings
        self.folder = Folder(settings.folder)
        self.identity = Identity.load(self.folder.node_file, settings.join_token)
        if not self.identity.bearer:
            self.folder.release()
            raise Unauthorized(
                "This node has no join token.", "Make one with `sojourn token create NAME --kind join` and pass it on."
            )
        self.journal = Journal(self.folder.journal, machine.boot_id())
        self.line: Line | None = None
        self.runner: Runner | None = None
        self.port: DataPort | None = None

    async def run(self) -> None:
        """Until cancelled. What an agent before us left is put in order before the controller hears of us."""
        able = await asyncio.to_thread(capabilities, self.folder.capabilities_file, self.settings.sandbox)
        self.folder.sandboxes.mkdir(exist_ok=True, mode=0o700)
        rider = await asyncio.to_thread(build_rider, self.folder.path)
        node = Node(self.settings.name, self.folder.sandboxes, able.sandboxes, str(rider), (str(self.folder.path),))
        self.runner = runner = Runner(node, self.journal, self._tell)
        departures, arrivals = Departures(runner, self._relay, lambda: self.identity.authority), Arrivals(runner)
        images, environments = NodeImages(runner, self._relay), Environments(runner, self._relay)
        await recover(runner, departures, arrivals)
        port = self.port = DataPort(
            lambda: self.identity.key,
            {
                "tunnel": runner.admit,
                "move": arrivals.admit_link,
                "image": images.admit,
                "environment": environments.admit,
            },
            lambda: self.identity.seal,
        )
        address = self._listen_at(port)

        def hello() -> Hello:
            return Hello(
                protocol=PROTOCOL,
                version=__version__,
                name=self.settings.name,
                labels=self.settings.labels,
                capacity=load.capacity(),
                capabilities=able,
                address=address,
                held=runner.held(),
                request=self.identity.request(),
            )

        gauge = load.Gauge(runner.attended.values, departures.pace)

        def called(call: str) -> None:
            runner.spawn(fetch(call, self._relay(), port))

        self.line = line = Line(
            self.settings.controller,
            self.identity,
            self.journal,
            hello,
            gauge.read,
            runner.instruct,
            called,
            self.settings.elsewhere,
        )
        self.journal.on_event = line.wake
        log.info("node %s %s", self.settings.name, f"listens at {address}" if address else "is reached by the relay")

        def evicted(notice: Eviction | None) -> None:
            says = f"this node is taken away at {time.ctime(notice.at)}, says {notice.source}" if notice else "it stays"
            log.warning("%s", says)
            gauge.eviction = notice
            line.beat()

        notices = eviction.watch(self.settings.eviction, self.settings.metadata_url, evicted)
        await asyncio.gather(line.run(), self._tidy(runner, environments), notices)

    def _tell(self, event: Event) -> None:
        """What need not survive. A move taken back at the start may make progress before there is anybody to tell."""
        if self.line:
            self.line.tell(event)

    async def _tidy(self, runner: Runner, environments: Environments) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            await asyncio.to_thread(self.journal.tidy)
            runner.spawn(runner.sweep())
            runner.spawn(environments.sweep(time.time()))

    async def close(self) -> None:
        """End; the sessions go on, for the next agent to find."""
        if self.port:
            await self.port.close()
        if self.runner:
            await self.runner.leave()
        self.journal.close()
        self.folder.release()

    def _relay(self) -> str:
        """The controller's, where it is reached from here."""
        return relay_of(self.line.controller if self.line else self.settings.controller)

    def _listen_at(self, port: DataPort) -> str | None:
        """Open the data port; returns where others reach it, None if nobody elsewhere does. Raises Unreachable."""
        settings = self.settings
        if not settings.host:
            return None
        try:
            number = port.open(settings.host, settings.port)
        except OSError as taken:
            raise Unreachable(
                f"Cannot listen at {settings.host}:{settings.port}: {taken.strerror}.", "Give another --listen."
            ) from taken
        host = settings.host if settings.host not in _ANY else outward_address(settings.controller)
        address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        return None if is_loopback(address) and not is_loopback(self._relay()) else address


def outward_address(controller: str) -> str:
    """The address of this machine that the way to the controller starts from."""
    parts = urlsplit(controller)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((parts.hostname or "127.0.0.1", parts.port or 80))
        except OSError:
            return socket.gethostname()
        address: str = probe.getsockname()[0]
    return address
