"""Between which nodes sessions move, and what a saved state crosses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from sojourn import embedded
from sojourn.client import Client
from sojourn.compare.hosts import HERE, THERE, Hosts, hosts
from sojourn.compare.wire import THEIR_ADDRESS, Shape
from sojourn.errors import Incompatible, Refused, Unknown
from sojourn.model import NodeStatus
from sojourn.sandbox.mounts import remove_tree
from sojourn.settings import Controller

How = Literal["measured", "reckoned", "none"]
_PIECE_BYTES = 1 << 20
_FAR_END = f"""
import socket
with socket.create_server(({THEIR_ADDRESS!r}, 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        connection = server.accept()[0]
        while connection.recv({_PIECE_BYTES}):
            pass
        connection.send(b"!")
        connection.close()
"""
"""Takes what is sent, and says when it has all."""


@dataclass(frozen=True)
class Place:
    """Where the ways are tried."""

    client: Client | None = None
    """Of the controller whose sessions move; None: none can."""
    source: str = ""
    target: str = ""
    refusal: str = ""
    """Why no session can be moved."""
    link: Shape | None = None
    """What is known of the link; None: there is none, or nothing is known of it."""
    wire: Hosts | None = None
    """The link itself, where it is of our making."""

    @property
    def how(self) -> How:
        """Where the times come from that files take on their way."""
        return "measured" if self.wire else "reckoned" if self.link else "none"

    @property
    def crossed_bytes(self) -> int:
        """What has gone over the wire so far, headers included; 0 without one."""
        return self.wire.wire.crossed_bytes if self.wire else 0

    def sent_s(self, files: Path) -> float:
        """Seconds until a file, or all of a folder's, is at the other end: measured if there is a wire, reckoned from
        its size if only its shape is known, 0 without a link."""
        paths = sorted(path for path in files.rglob("*") if path.is_file()) if files.is_dir() else [files]
        if not self.link:
            return 0.0
        if not self.wire:
            return self.link.seconds(sum(path.stat().st_size for path in paths))
        return _sent_s(self.wire, paths)


@contextmanager
def place(controller: Controller | None, node: str | None, link: Shape | None) -> Iterator[Place]:
    """With a node: sessions of this controller move to it. Else: two nodes on this machine, made for this, with the
    link between them where root may make one; where none can be had, only a refusal. Raises Unknown, Incompatible."""
    if node:
        assert controller
        with Client(controller.url, controller.token) as client:
            yield Place(client, _source_for(client, node), node, link=link)
    else:
        with ExitStack() as stack:
            yield _own_place(stack, link)


def _own_place(stack: ExitStack, link: Shape | None) -> Place:
    """Two nodes here, which go with the stack."""
    if len(embedded.default_nodes()) < 2:
        return Place(refusal="a live kernel moves where root, runc and CRIU are; --node names such a node", link=link)
    if not link:
        return Place(stack.enter_context(_own_nodes()), HERE, THERE)
    try:
        pair, client = stack.enter_context(hosts(link))
    except Refused as refused:
        return Place(refusal=f"between two nodes here. {refused.message}", link=link)
    return Place(client, HERE, THERE, link=link, wire=pair)


def _source_for(client: Client, node: str) -> str:
    """A node from which sessions can go there."""
    known = {view.name: view for view in client.nodes()}
    if node not in known:
        raise Unknown(f"There is no node {node!r}.", f"The nodes: {', '.join(sorted(known)) or 'none'}.")
    if known[node].status is not NodeStatus.ONLINE:
        raise Incompatible(f"Node {node} is offline.", "`sojourn nodes` shows which are online.")
    ways = [way for way in client.ways() if way.target == node]
    if not ways:
        raise Incompatible(f"There is no other node from which a session could move to {node}.", "`sojourn nodes`")
    return min(ways, key=lambda way: len(way.obstacles)).source


@contextmanager
def _own_nodes() -> Iterator[Client]:
    """Nodes below a folder of their own; what the user has set up, and what runs, is left alone."""
    folder = tempfile.mkdtemp(prefix="sojourn-compare-")
    others = {name: value for name, value in os.environ.items() if name not in ("SOJOURN_CONTROLLER", "SOJOURN_TOKEN")}
    with patch.dict(os.environ, {**others, "SOJOURN_HOME": folder}, clear=True):
        try:
            controller = embedded.start(nodes=(HERE, THERE), say=lambda greeting: None)
            with Client(controller.url, controller.token) as client:
                yield client
        finally:
            embedded.stop()
            remove_tree(Path(folder))


def _sent_s(wire: Hosts, paths: list[Path]) -> float:
    argv = wire.inside(sys.executable, "-c", _FAR_END)
    far_end = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert far_end.stdout
    try:
        port = int(far_end.stdout.readline())
        since = time.monotonic()
        with socket.create_connection((THEIR_ADDRESS, port)) as connection:
            for path in paths:
                with path.open("rb") as file:
                    connection.sendfile(file)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
        return time.monotonic() - since
    finally:
        far_end.kill()
        far_end.wait()
