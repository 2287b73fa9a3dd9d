"""The writer: a process that writes one checkpoint into the store.

    python -m sojourn.movers.saving.writer CONTROL

CONTROL is the number of an inherited Unix socket. One JSON line is one message, in this order.

From the agent:
    {"do": "open", "url", "identity", "key", "save", "layer": folder, "expected": bytes, "room": bytes}: the layer is
        written while the session runs, and where there is room, memory is taken for a copy of the session's
    {"do": "last", "always": [path, …]}: it stands still now; what changed in the layer meanwhile
    {"do": "memory", "tasks": [task, …]} with descriptors of /proc/PID/mem, any number of times
    {"do": "begin", "paged": bool} with a descriptor of the folder of CRIU's images, which hold the pages if not paged
    {"do": "publish", "manifest": {…}}                                   what only the agent knows of it

To the agent: `{"event": "ahead"}` (ready; what is kept is frozen only then), where there was room `{"event":
"copied"}` (let it go on), `{"event": "progress", "done", "total"}`, `{"event": "written", …}`,
`{"event": "published"}`, or `{"event": "failed", "error"}`.

When the agent ends, so does this process, and nothing of the checkpoint is ever visible.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sojourn.chunks import CHUNK, Body, ChunkRef, Manifest
from sojourn.errors import SaveFailed, SojournError
from sojourn.movers.criu.images import image_sizes
from sojourn.movers.haste import BRISK, hasten
from sojourn.movers.pagemap import lazy_pieces
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.supply import Buffer, FrozenMemory
from sojourn.movers.saving.memory import Aside, Images, Shared, Source, Straight, in_threads
from sojourn.movers.saving.windows import Window, runs, windows
from sojourn.movers.store import open_vault
from sojourn.sandbox.layer import Index, Layer

_PATIENT = 5
"""Niceness while the session runs: what is written then is in nobody's way."""
_THREADS = min(2 * max(os.cpu_count() or 2, 2), 8)
"""More than cores: some wait for the store."""
_PROGRESS_SECONDS = 0.2
_LONG_WRITE_SECONDS = 1.0
"""A layer that took longer to write ahead is written ahead again: what changed should not wait for the freeze."""
_MOST_WRITES_AHEAD = 4


class Writer:
    """One checkpoint."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._speaking = threading.Lock()
        self._tally = Tally(self.say)
        self._layer_parts: list[int] = []
        """Bytes of each delta that the layer's body consists of, one after the other."""
        self._sent = Index()
        self._ahead = threading.Event()
        self._copy: Aside | None = None
        self._last: queue.SimpleQueue[Iterable[bytes]] = queue.SimpleQueue()

    def say(self, **message: Any) -> None:
        with self._speaking:
            self._lines.send(message)

    def run(self) -> None:
        """Raises SojournError, and OSError when the agent has ended."""
        opened = self._hear("open")
        self._vault = open_vault(opened["url"], opened["identity"], opened["key"])
        self._layer = Layer(Path(opened["layer"]))
        if opened["room"]:
            self._copy = Aside(opened["room"], _THREADS)
        with self._vault.writing(opened["save"]):
            layer = self._in_background(self._write_layer)
            if self._copy:
                self._copy.take(opened["expected"])
            self._ahead.wait()
            self.say(event="ahead")
            self._await_freeze()
            array, chunks, images = self._write_state()
            body = layer.result()
            self.say(event="written", **self._tally.numbers(array, images, body))
            self._publish({"images": images, "layer": body, "memory": runs(array, chunks)})

    def _hear(self, wanted: str) -> dict[str, Any]:
        message = self._lines.receive()
        if message is None or message["do"] != wanted:
            raise ConnectionResetError(f"the agent has ended where {wanted} was due")
        return message

    def _publish(self, written: dict[str, Any]) -> None:
        said = self._hear("publish")["manifest"]
        facts = {**said.pop("strategy_facts"), "layer_parts": self._layer_parts}
        self._vault.publish(Manifest(**said, **written, strategy_facts=facts))
        self.say(event="published")

    # ── the layer ──

    def _write_layer(self) -> Body:
        return self._vault.write_body(self._layer_stream(), self._tally.count)

    def _layer_stream(self) -> Iterator[bytes]:
        """The deltas that carry the layer from nothing to the freeze: the first ones while the session runs."""
        for _ in range(_MOST_WRITES_AHEAD):
            began, now = time.monotonic(), self._layer.index()
            yield from self._measured(self._layer.delta(self._sent, now))
            self._sent = now
            if time.monotonic() - began < _LONG_WRITE_SECONDS:
                break
        self._ahead.set()
        yield from self._measured(self._last.get())

    def _measured(self, delta: Iterable[bytes]) -> Iterator[bytes]:
        size = 0
        for piece in delta:
            size += len(piece)
            yield piece
        self._layer_parts.append(size)

    def _await_freeze(self) -> None:
        last = self._hear("last")
        delta = self._layer.delta(self._sent, always=last["always"])
        self._last.put(list(delta) if self._copy else delta)

    # ── memory and images ──

    def _write_state(self) -> tuple[list[Window], list[str], dict[str, Body]]:
        tasks, folder, array = self._take_state()
        memory = self._settle_memory(tasks, array)
        images = Images(folder, sizes := image_sizes(folder))
        self._tally.total = len(array) * CHUNK + sum(sizes.values())
        return array, self._write_all(memory), images.bodies(self._write_all(images))

    def _settle_memory(self, tasks: FrozenMemory, array: list[Window]) -> Source:
        if self._copy and self._copy.fits(array):
            hasten(os.getpid())
            self._copy.bring(tasks, array)
            self.say(event="copied")
            hasten(os.getpid(), _PATIENT)
            return self._copy
        hasten(os.getpid(), BRISK)
        return Straight(tasks, array)

    def _take_state(self) -> tuple[FrozenMemory, Path, list[Window]]:
        """What leads to the tasks' memory, the folder of images, and the windows that are in neither yet."""
        found: dict[int, int] = {}
        while message := self._lines.receive():
            if message["do"] == "begin":
                folder = Path(f"/proc/self/fd/{self._lines.take()[0]}")
                pieces = lazy_pieces(folder) if message["paged"] else {}
                return FrozenMemory(found), folder, [one for task in pieces for one in windows(task, pieces[task])]
            found.update(zip(message["tasks"], self._lines.take(len(message["tasks"])), strict=True))
        raise ConnectionResetError("the agent has ended before it handed over the memory")

    def _write_all(self, source: Source) -> list[str]:
        """The chunk of each number."""
        chunks = [""] * source.count

        def work() -> None:
            buffer = Buffer(CHUNK)
            for number in numbers:
                written = self._vault.write(source.read(number, buffer))
                source.done(number)
                chunks[number] = written.id
                self._tally.done(written)

        numbers = Shared(range(source.count))
        in_threads(_THREADS, work)
        return chunks

    def _in_background(self, work: Callable[[], Body]) -> Future[Body]:
        """In a thread of its own; a failure is said at once, for the agent may be what this process waits for."""
        future: Future[Body] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as failed:
                future.set_exception(failed)
                self.complain(failed)

        threading.Thread(target=run, name="layer", daemon=True).start()
        return future

    def complain(self, failed: BaseException) -> None:
        error = failed if isinstance(failed, SojournError) else SaveFailed(f"The writer failed: {failed!r}")
        with contextlib.suppress(OSError):
            self.say(event="failed", error=error.to_wire())


class Tally:
    """What has been written so far; counted by many threads."""

    def __init__(self, say: Callable[..., None]) -> None:
        self.total = 0
        """Bytes of memory and images to be written."""
        self._say, self._lock = say, threading.Lock()
        self._chunks = self._new_chunks = self._stored_bytes = self._done = 0
        self._told_at = time.monotonic()

    def count(self, written: ChunkRef) -> None:
        with self._lock:
            self._chunks += bool(written.id)
            self._new_chunks += bool(written.stored)
            self._stored_bytes += written.stored

    def done(self, written: ChunkRef) -> None:
        """Count it, and say from time to time how far this has come."""
        self.count(written)
        with self._lock:
            self._done += written.size
            due = time.monotonic() > self._told_at + _PROGRESS_SECONDS
            if due:
                self._told_at = time.monotonic()
        if due:
            self._say(event="progress", done=self._done, total=self.total)

    def numbers(self, array: list[Window], images: dict[str, Body], layer: Body) -> dict[str, int]:
        """As SaveReport names them. What forks share is in CRIU's images of pages, and memory all the same."""
        pages = sum(body.size for name, body in images.items() if name.startswith("pages-"))
        return {
            "memory_bytes": sum(window.size for window in array) + pages,
            "image_bytes": sum(body.size for body in images.values()) - pages,
            "layer_bytes": layer.size,
            "stored_bytes": self._stored_bytes,
            "chunks": self._chunks,
            "new_chunks": self._new_chunks,
        }


def main() -> None:
    writer = Writer(Lines(socket.socket(fileno=int(sys.argv[1]))))
    try:
        writer.run()
    except Exception as failed:
        writer.complain(failed)
        raise


if __name__ == "__main__":
    main()
