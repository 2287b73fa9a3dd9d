"""Writers and sweeps keep out of each other's way, in a store that knows nothing of locks.

A writer relies on chunks that no manifest may name yet; a sweep removes such chunks. So both leave an object behind
while they work, and each looks for the other's **after** its own is visible:

    writer: put lease; look for marks, wait until there is none; …write…; create the manifest; remove the lease
    sweep:  put mark; look for leases, give up if one is alive; bury the dead; read all manifests; remove; remove mark

1. *Nobody crashes.* Whoever comes second sees the first, for both put before they look. A sweep that sees a lease has
   removed nothing and goes. A writer that sees a mark keeps its lease standing and waits; the sweep looks for leases
   again before each few chunks, so that is soon. A writer learns what the store has only after its wait: from manifests
   that are whole, none of whose chunks a later sweep can want.
2. *A writer is given up though it lives* (it stood still, its network was cut, the store's clock jumped). Before a
   sweep goes on past a dead lease it **buries** the checkpoint: it creates an empty object at the very key the manifest
   is to get. `Backend.create` succeeds for one of the two only. Is it the writer: the sweep, which reads all manifests
   afterwards, finds every chunk named. Is it the sweep: the writer can't publish, however late it comes. No clock
   has a say in this.
3. *A sweep is given up though it lives.* It removes chunks only while it has touched its mark within `permit_s`, by a
   clock of its own that also counts a sleeping machine; a mark that is gone can't be touched. Who removes a mark puts a
   placeholder first, and waits `grace_s` before it removes that: to all other writers it is one more mark. All that is
   asked of the world is that this wait outlasts the permit and one call to delete (80 s at most with S3's timeouts).
   Readings of two machines' clocks are nowhere compared. Sweeps leave each other's marks alone, and need not care.

How old a lease or mark is, the store's clock alone says: `changed_at` of what was touched just now, less `changed_at`
of the other. That decides when to give up waiting, not whether it is safe. A holder whose process is known to have
ended (same machine, same boot, no such process) is dead at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.chunks.backend import Backend, Entry
from sojourn.chunks.layout import Layout, last
from sojourn.errors import StoreFailed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Times:
    """Seconds."""

    refresh_s: float = 20
    dead_s: float = 180
    """Without a touch, by the store's clock: it is given up."""
    permit_s: float = 30
    """A touch of its mark lets a sweep remove chunks for so long, by its own clock … """
    grace_s: float = 120
    """… and who gives up a sweep waits so long before it relies on that."""
    poll_s: float = 0.2


class Watch:
    """Seconds that have passed here, also while the machine slept. Tests bring their own."""

    def now(self) -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Lease:
    """An object that says: somebody is at work here. Touched by a thread of its own until it is let go.

    `key`: where; a writer's lease, or a sweep's mark.
    """

    def __init__(self, backend: Backend, key: str, times: Times, watch: Watch) -> None:
        self.key = key
        self._backend, self._times, self._watch = backend, times, watch
        self._lost = False
        self._ended = threading.Event()
        self._touched_at = watch.now()
        backend.put(key, json.dumps(_this_process()).encode())
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """Raises StoreFailed: it is lost, or the store does not answer."""
        begun = self._watch.now()
        try:
            self._backend.touch(self.key)
        except KeyError:
            self._lost = True
        self.require(self._times.dead_s)  # a touch that took too long may have come after somebody's verdict
        self._touched_at = max(self._touched_at, begun)

    def require(self, within_s: float) -> None:
        """Raises StoreFailed unless a touch succeeded within so many seconds."""
        if self._watch.now() - self._touched_at > within_s:
            self._lost = True
        if self._lost:
            raise StoreFailed(
                "The store did not hear of this writer for too long, and may have been swept meanwhile.",
                "Try again; if it comes back, look at the network to the store and at the load of this machine.",
            )

    def let_go(self) -> None:
        """Remove it. A store that does not answer keeps it until it expires."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreFailed):
            self._backend.delete(self.key)

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(self._times.refresh_s):
            try:
                self.touch()
            except StoreFailed as wrong:
                _log.warning("%s: %s", self.key, wrong.message)


@contextlib.contextmanager
def held(lease: Lease) -> Iterator[Lease]:
    try:
        yield lease
    finally:
        lease.let_go()


@dataclass
class Others:
    """Who else has a lease (or a mark)."""

    alive: list[Entry] = field(default_factory=list)
    silent: list[Entry] = field(default_factory=list)
    """Not touched for so long that they are given up. They may be alive, though."""
    ended: list[Entry] = field(default_factory=list)
    """Their process is no more."""


def others(backend: Backend, prefix: str, mine: Lease, times: Times) -> Others:
    """Those below `prefix`, by the store's time: touching `mine` asks for it. Raises StoreFailed: mine is lost."""
    mine.touch()
    now = max((entry.changed_at for entry in backend.keys(mine.key)), default=float("-inf"))
    found = Others()
    for entry in backend.keys(prefix):
        if entry.key == mine.key:
            continue
        if _process_ended(backend, entry.key):
            found.ended.append(entry)
        elif now - entry.changed_at > times.dead_s:
            found.silent.append(entry)
        else:
            found.alive.append(entry)
    return found


def wait_for_sweeps(backend: Backend, layout: Layout, lease: Lease, times: Times, watch: Watch) -> None:
    """Returns when no sweep is at work, and none can begin while `lease` stands."""
    while True:
        marks = others(backend, layout.sweeps, lease, times)
        backend.delete(*(mark.key for mark in marks.ended))
        if marks.silent:
            _give_up(backend, layout, marks.silent, times, watch)
        elif marks.alive:
            watch.sleep(times.poll_s)
        else:
            return


def _give_up(backend: Backend, layout: Layout, marks: list[Entry], times: Times, watch: Watch) -> None:
    """What is left if we end in the middle is a mark of nobody: the next writer gives it up in the same way."""
    placeholder = layout.sweeps + holder()
    backend.put(placeholder, b"")
    backend.delete(*(mark.key for mark in marks))
    watch.sleep(times.grace_s)
    backend.delete(placeholder)


def bury(backend: Backend, layout: Layout, lease: Entry) -> None:
    """Whoever held this lease can't publish any more; unless it has."""
    backend.create(layout.checkpoint(last(lease.key).rpartition(".")[0]), b"")
    backend.delete(lease.key)


def holder() -> str:
    return secrets.token_hex(6)


# ── whose process is known to have ended ─────────────────────────────────────────────────────────────────────────


def _process_ended(backend: Backend, key: str) -> bool:
    """Whether the holder is known to have ended: its process ran here, and is not there now."""
    try:
        there = json.loads(backend.get(key))
        same_machine = there["machine"] is not None and there["machine"] == _machine()
        return same_machine and _started(int(there["pid"])) != there["started"]
    except (KeyError, ValueError, TypeError):
        return False  # gone, or nobody's: time will tell


def _this_process() -> dict[str, object]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> list[str] | None:
    """Where a process id means this process, until the next boot; None where the kernel does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [platform.node(), boot, str(Path("/proc/self/ns/pid").readlink())]
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
