"""The pager's process at the target: takes userfaultfds from CRIU, answers faults, fills in the rest.

    python -m sojourn.movers.pager.target FOLDER

FOLDER is where CRIU works; `lazy-pages.socket` is made there (the name is CRIU's), and `pager.socket`, at which the
agent, and after a crash its successor, attaches. One JSON line is one message.

From the agent: first where the pages come from, one of
    {"do": "connections", "count": n} with connections to the page source, one for faults and the rest for the bulk
    {"do": "memory", "tasks": [task, …]} with descriptors of the tasks' memory
    {"do": "vault", "url", "identity", "key", "checkpoint"}, whose chunks are looked for: `{"event": "whole"}`
and then `{"do": "begin", "after_thaw": bool}` with a descriptor of the folder where CRIU's images are.

To the agent: `{"event": "ready"}`, `{"event": "space", "task"}` with the userfaultfd itself, `{"event": "restored"}`,
`{"event": "progress", "done", "total"}`, `{"event": "filled", …}`, `{"event": "stumbled", "error"}`. Who attaches
is first told everything again.

CRIU's side of the protocol (criu/uffd.c): on one connection, for each task its PID in the sandbox (int32, negative for
a zombie) and then one byte with the userfaultfd; at the end the number 0x52535446.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sojourn.errors import SojournError
from sojourn.movers.haste import BRISK, hasten
from sojourn.movers.pagemap import lazy_pieces
from sojourn.movers.pager.ahead import Larder
from sojourn.movers.pager.fill import Fill, Space
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.pieces import Piece
from sojourn.movers.pager.supply import FrozenMemory, LocalBulk, LocalSupply, RemoteSupply, Supply

if TYPE_CHECKING:
    from sojourn.movers.pager.vault import Chunks

LAZY_SOCKET, AGENT_SOCKET = "lazy-pages.socket", "pager.socket"
_RESTORED = 0x52535446
_PROGRESS_SECONDS = 0.2
_FIRST_MOMENTS = 0.06
"""So long after the restore the cores are left to the session and to those who bring its clients back to it."""


class Target:
    """The process's one loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._larder = Larder()
        self._remote: tuple[Supply, Supply] | None = None
        self._memory: dict[int, int] = {}
        self._chunks: Chunks | None = None
        self._verdicts: deque[SojournError | None] = deque()
        """On the checkpoint's chunks, from the thread that looks for them."""
        self._pagemaps: dict[int, list[Piece]] = {}
        self._fill: Fill | None = None
        self._agent: Lines | None = None
        self._news: list[dict[str, Any]] = []
        """What whoever attaches must hear, beside the spaces."""
        self._failed = self._filled = False
        self._restored_at = self._told_at = time.monotonic()
        self._criu = listen(folder / LAZY_SOCKET)
        self._control = listen(folder / AGENT_SOCKET)
        self._watch(self._bell, self._hear_bell)
        self._watch(self._control.fileno(), self._agent_attaches)

    def run(self) -> None:
        """Until it is killed: even when all is filled, somebody has to hear of it first."""
        while True:
            working = self._fill is not None and not self._failed and not self._filled
            busy = working and self._fill is not None and self._fill.has_work
            for key, _ in self._selector.select(0 if busy else self._patience()):
                key.data()
            if working:
                self._guarded(self._go_on)

    def _patience(self) -> float | None:
        """How long to wait for something to happen, in seconds."""
        held_back = self._fill is not None and self._fill.only_small and self._fill.restored
        return _FIRST_MOMENTS if held_back else None

    def _watch(self, descriptor: int, act: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, act)

    def _hear_bell(self) -> None:
        os.eventfd_read(self._bell)
        while self._verdicts:
            self._guarded(self._hear_verdict)

    def _hear_verdict(self) -> None:
        if failure := self._verdicts.popleft():
            raise failure
        self._tell({"event": "whole"})

    def _guarded(self, act: Callable[[], Any]) -> None:
        """After a failure stop filling but hold on to everything: who misses a page waits, and reads no zeros."""
        try:
            act()
        except SojournError as failed:
            self._failed = True
            self._unwatch_spaces()
            self._tell({"event": "stumbled", "error": failed.to_wire()})

    def _go_on(self) -> None:
        fill = self._fill
        assert fill
        now = time.monotonic()
        if fill.only_small and fill.restored and now > self._restored_at + _FIRST_MOMENTS:
            fill.only_small = False
            hasten(os.getpid(), BRISK)
        fill.step()
        if fill.done:
            self._finish(fill, now)
        elif now - self._told_at > _PROGRESS_SECONDS:
            self._told_at = now
            done = fill.filled_bytes + fill.dropped_bytes
            self._say({"event": "progress", "done": done, "total": fill.total_bytes})

    def _finish(self, fill: Fill, now: float) -> None:
        self._unwatch_spaces()
        result = {
            "event": "filled",
            "seconds": now - self._restored_at,
            "filled_bytes": fill.filled_bytes,
            "dropped_bytes": fill.dropped_bytes,
            "received_bytes": fill.received_bytes + self._larder.received_bytes,
            "faults": fill.faults,
        }
        fill.close()
        self._filled = True
        self._tell(result)

    def _unwatch_spaces(self) -> None:
        for descriptor in self._fill.spaces if self._fill else ():
            self._selector.unregister(descriptor)

    # ── the agent ──

    def _agent_attaches(self) -> None:
        if self._agent:
            self._agent_left()
        connection, _ = self._control.accept()
        self._agent = Lines(connection)
        self._watch(connection.fileno(), self._agent_speaks)
        self._say({"event": "ready"})
        for space in self._fill.spaces.values() if self._fill else ():
            self._tell_of(space)
        for message in self._news:
            self._say(message)

    def _agent_left(self) -> None:
        if self._agent:
            self._selector.unregister(self._agent.fileno())
            self._agent.close()
            self._agent = None

    def _agent_speaks(self) -> None:
        assert self._agent
        ended = not self._agent.pump()
        for message in self._agent.messages():
            if message["do"] == "memory":
                self._memory.update(zip(message["tasks"], self._agent.take(len(message["tasks"])), strict=True))
            elif message["do"] == "connections":
                self._connect([socket.socket(fileno=number) for number in self._agent.take(message["count"])])
            elif message["do"] == "vault":
                self._guarded(partial(self._open_vault, message))
            elif message["do"] == "begin":
                self._begin(self._agent.take()[0], message["after_thaw"])
        if ended:
            self._agent_left()

    def _say(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """To the agent, if there is one: a fill does not end with its agent."""
        if self._agent:
            try:
                self._agent.send(message, descriptors)
            except OSError:
                self._agent_left()

    def _tell(self, message: dict[str, Any]) -> None:
        self._news.append(message)
        self._say(message)

    def _tell_of(self, space: Space) -> None:
        """Before anything else is done with it: from then on its faults block even if this process dies."""
        self._say({"event": "space", "task": space.task}, (space.userfault.descriptor,))

    # ── CRIU ──

    def _begin(self, images: int, after_thaw: bool) -> None:
        """The images are here, CRIU is about to be asked: take its connection."""
        self._pagemaps = lazy_pieces(Path(f"/proc/self/fd/{images}"))
        os.close(images)
        urgent, bulk = self._supplies()
        self._fill = Fill(urgent, bulk, self._forked)
        self._fill.only_small = after_thaw
        if not after_thaw:
            hasten(os.getpid(), BRISK)
        self._watch(self._criu.fileno(), self._criu_connects)

    def _open_vault(self, message: dict[str, Any]) -> None:
        from sojourn.movers.pager.vault import Chunks  # a move's pager does without what the store needs

        chunks = self._chunks = Chunks(message["url"], message["identity"], message["key"], message["checkpoint"])

        def look() -> None:
            self._verdicts.append(chunks.missing())
            os.eventfd_write(self._bell, 1)

        threading.Thread(target=look, name="look-for-chunks", daemon=True).start()

    def _connect(self, connections: list[socket.socket]) -> None:
        """At once: memory may come ahead, while the session still runs at its source."""
        urgent, bulk, larder = connections[:1], connections[1:], self._larder
        self._remote = (
            RemoteSupply(urgent, self._bell, larder, stocks=False),
            RemoteSupply(bulk, self._bell, larder, stocks=True),
        )

    def _supplies(self) -> tuple[Supply, Supply]:
        if self._chunks:
            return self._chunks.supplies(self._bell)
        if self._remote:
            return self._remote
        memory = FrozenMemory(self._memory)
        return LocalSupply(memory, self._bell), LocalBulk(memory, self._bell)

    def _criu_connects(self) -> None:
        connection, _ = self._criu.accept()
        self._selector.unregister(self._criu.fileno())
        self._criu.close()
        self._watch(connection.fileno(), lambda: self._criu_speaks(connection))

    def _criu_speaks(self, connection: socket.socket) -> None:
        said = connection.recv(4, socket.MSG_WAITALL)
        task = int.from_bytes(said, sys.byteorder, signed=True)
        if len(said) == 4 and task < 0:
            return  # a zombie has no memory
        if len(said) == 4 and task != _RESTORED:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
            self._add(descriptors[0], task)
            return
        self._selector.unregister(connection.fileno())
        connection.close()
        if task == _RESTORED and self._fill:
            self._restored_at = time.monotonic()
            self._fill.restored = True
            self._tell({"event": "restored"})

    def _add(self, descriptor: int, task: int) -> None:
        assert self._fill
        self._watch_space(self._fill.add(descriptor, task, self._pagemaps.get(task, ())))

    def _watch_space(self, space: Space) -> None:
        fill = self._fill
        assert fill
        self._tell_of(space)
        self._watch(space.userfault.descriptor, lambda: self._guarded(lambda: fill.look(space)))

    def _forked(self, space: Space) -> None:
        self._watch_space(space)


def listen(path: Path) -> socket.socket:
    """A listening Unix socket that appears at its path only when it listens."""
    made = socket.socket(socket.AF_UNIX)
    draft = path.with_suffix(".new")
    made.bind(str(draft))
    made.listen(4)
    draft.rename(path)
    return made


def main() -> None:
    sys.setswitchinterval(0.0002)  # a fault must not wait 5 ms for a thread that unpacks a header
    Target(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
