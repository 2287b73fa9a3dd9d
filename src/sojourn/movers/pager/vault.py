"""Pages out of a checkpoint: an order is met from the chunks that hold its addresses."""

from __future__ import annotations

import os
import queue
import threading
import time
from bisect import bisect_right
from concurrent.futures import Future

from sojourn.chunks import CHUNK, Run
from sojourn.errors import Damaged, SojournError, StoreFailed
from sojourn.movers.pager.supply import Order, Supply, blocks_with_data
from sojourn.movers.store import open_vault

KEPT_CHUNKS = 128
"""Decoded, 32 MB: neighbouring faults, and strides that begin in the middle of a chunk, ask for the same ones."""
URGENT_THREADS = 4
BULK_THREADS = 4
"""More than cores: a store may be far away."""
PATIENCE_SECONDS = 30.0
"""A store may fail for a moment, and a session that runs already would lose all that it did since the thaw. Less than
the law gives a fill that makes no progress."""
_PAUSE_SECONDS = 0.1
_PATIENT = 5
"""Niceness of the bulk beside that of the faults."""


class Chunks:
    """The memory of a checkpoint's tasks. Safe from many threads."""

    def __init__(self, url: str, identity: str, key: str, checkpoint: str) -> None:
        """Raises Damaged when the manifest is missing or not what it was, StoreFailed."""
        self._vault = open_vault(url, identity, key)
        self._checkpoint = checkpoint
        self._manifest = self._vault.manifest(checkpoint)
        memory = self._manifest.memory
        self._runs = {int(task): sorted(runs, key=lambda run: run.address) for task, runs in memory.items()}
        self._starts = {task: [run.address for run in runs] for task, runs in self._runs.items()}
        self._lock = threading.Lock()
        self._kept: dict[str, Future[bytes]] = {}
        """In the order in which they were asked for."""

    def missing(self) -> SojournError | None:
        """Why the checkpoint can't be had whole, as far as a listing tells; None when it can."""
        try:
            problems = self._vault.verify(self._checkpoint, deep=False)
        except SojournError as failed:
            return failed
        return Damaged(problems[0], "Wake it from an older checkpoint.") if problems else None

    def read_into(self, task: int, address: int, view: memoryview) -> None:
        """Fill a view. Raises Damaged naming the chunk, StoreFailed."""
        while view:
            start, chunk, size = self._covering(task, address)
            offset = address - start
            length = min(size - offset, len(view))
            if chunk:
                of = f"memory of task {task} at {start:#x}"
                view[:length] = self._decoded(chunk, size, of)[offset : offset + length]
            else:
                view[:length] = bytes(length)
            view, address = view[length:], address + length

    def supplies(self, bell: int) -> tuple[VaultSupply, VaultSupply]:
        """For faults, and for the bulk."""
        return VaultSupply(self, bell, URGENT_THREADS, 0), VaultSupply(self, bell, BULK_THREADS, _PATIENT)

    def _covering(self, task: int, address: int) -> tuple[int, str, int]:
        """Address, id and bytes of the chunk that holds an address."""
        position = bisect_right(self._starts.get(task, []), address) - 1
        run = self._runs[task][position] if position >= 0 else Run(0, 0, ())
        if address >= run.address + run.size:
            raise Damaged(f"Checkpoint {self._checkpoint} lacks the memory of task {task} at {address:#x}.")
        number = address // CHUNK - run.address // CHUNK
        start = max(run.address, address // CHUNK * CHUNK)
        return start, run.chunks[number], min(address // CHUNK * CHUNK + CHUNK, run.address + run.size) - start

    def _decoded(self, chunk: str, size: int, of: str) -> bytes:
        """Who asks first decodes; the others wait for it."""
        with self._lock:
            found = self._kept.get(chunk)
            is_first = found is None
            if found is None:
                found = self._kept[chunk] = Future()
                if len(self._kept) > KEPT_CHUNKS:
                    del self._kept[next(iter(self._kept))]
        if is_first:
            try:
                found.set_result(self._read(chunk, size, of))
            except BaseException as failed:
                found.set_exception(failed)
        return found.result()

    def _read(self, chunk: str, size: int, of: str) -> bytes:
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, _PAUSE_SECONDS
        while True:
            try:
                return self._vault.read(self._manifest, chunk, size, of=of)
            except Damaged:
                raise
            except StoreFailed:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause *= 2


class VaultSupply(Supply):
    """Orders are met by threads of its own."""

    def __init__(self, chunks: Chunks, bell: int, threads: int, niceness: int) -> None:
        super().__init__(bell)
        self._chunks, self._niceness = chunks, niceness
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=self._work, name="vault-supply", daemon=True).start()

    def order(self, order: Order) -> None:
        self._orders.put(order)

    def _work(self) -> None:
        if self._niceness:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while True:
            order = self._orders.get()
            self._fetch(order)
            self._bring(order)

    def _fetch(self, order: Order) -> None:
        try:
            self._chunks.read_into(order.task, order.address, order.buffer.view[: order.length])
            order.blocks = blocks_with_data(order.buffer, order.length)
        except SojournError as failed:
            order.failure = failed
        except Exception as failed:  # an order that is never met would be waited for for ever
            order.failure = StoreFailed(f"A chunk could not be read: {failed!r}")
