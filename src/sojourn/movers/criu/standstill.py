"""Bringing a session to a standstill with CRIU, and letting it go on: what a departure to another node and a save
into the store have in common.

    hang up, freeze   nothing of it leads outside, nothing of it runs
    dump              CRIU writes what the kernel knows of it, without its memory
    hold              from here on neither the end of CRIU nor a thaw of the box lets anything run
    … the way on: `CriuDeparture` sends it to another node, `CriuSave` writes it into the store …
    commit | roll_back
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from sojourn.errors import CriuFailed, Immovable, MoveFailed, SojournError
from sojourn.movers.base import Departure, Facts, HangUp, Link, Note, Tell
from sojourn.movers.connections import Connection, end_repair, outside_connections
from sojourn.movers.criu import images
from sojourn.movers.criu.service import Criu, Places, memory_folder
from sojourn.movers.criu.shared_files import forget_sizes
from sojourn.movers.fits import LET_GO
from sojourn.movers.haste import hastened
from sojourn.movers.inspection import blockers
from sojourn.movers.pager.lines import MOST_DESCRIPTORS, Lines
from sojourn.movers.pager.supply import open_memory
from sojourn.movers.processes import Lasting
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import SessionFrozen

_CURE_SECONDS = 10.0
"""CRIU left alone in the middle of a dump, by an agent that died, ends by itself and takes its code out of the tasks;
killed before that, it would take them with it."""


class CriuStandstill(Departure):
    """See `base.Departure`. A way on says in `_go` what it does with a session that stands still."""

    failure: ClassVar[type[SojournError]] = MoveFailed
    """What goes wrong without a name of its own."""
    verb: ClassVar[str] = "Moving"

    def __init__(self, sandbox: RuncSandbox, move: str, *, tell: Tell, note: Note, hang_up: HangUp) -> None:
        self._sandbox, self._move = sandbox, move
        self._tell, self._note, self._hang_up = tell, note, hang_up
        self.resumed = True
        self._paged = True
        """The pages are read from the frozen memory; else they are in CRIU's images, which keep what forks share."""
        self._frozen_at: float | None = None
        self._marks: dict[str, float] = {}
        self._criu: Lasting | None = None
        self._page_source: Lasting | None = None
        """The process that reads the frozen memory."""
        self._folder = memory_folder() / f"{move}.out"

    def _remember(self, facts: Facts) -> None:
        """What an agent before this one noted."""
        self.scathed = bool(facts.get("scathed"))
        self._criu = Lasting.noted(facts.get("criu"))
        self._page_source = Lasting.noted(facts.get("page_source"))

    def run(self, link: Link | None) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._go(link)
        except BaseException as failed:
            if self.resumed or self.scathed:
                self._end()
            if isinstance(failed, (SojournError, KeyboardInterrupt)):
                raise
            raise self.failure(f"{self.verb} session {self._name} failed: {failed!r}") from failed

    @abstractmethod
    def _go(self, link: Link | None) -> None: ...

    def commit(self) -> None:
        self._sandbox.kill()
        self._drop()

    def roll_back(self) -> None:
        self._end()
        self.resumed = not self.scathed

    # ── the standstill ──

    @contextlib.contextmanager
    def _standing_still(self, beside_dump: Callable[[], None]) -> Iterator[list[Connection]]:
        """The session stands still, is dumped and held; gives its connections to the outside. `beside_dump` is called
        in a thread of its own when it has just been frozen. Afterwards CRIU has let go of it, but it is still held."""
        if found := blockers(self._sandbox):  # opened since this was planned
            raise Immovable(f"Session {self._name} can't be moved: {'; '.join(found)}.", LET_GO)
        with contextlib.ExitStack() as stack:
            criu = Criu(Places(self._folder, self._folder, "dump.log"), self._sandbox.network)
            stack.callback(criu.let_go)
            self._criu = Lasting.of(criu.pid)
            self._note_phase("freezing")
            stack.enter_context(hastened())
            with ThreadPoolExecutor(1) as beside:
                outside: list[Future[list[Connection]]] = []

                def freeze() -> None:
                    self._freeze()
                    outside.append(beside.submit(self._settle_outside, beside_dump))

                self._dump(criu, freeze)
                found_outside = outside[0].result()
            yield found_outside

    def _settle_outside(self, beside_dump: Callable[[], None]) -> list[Connection]:
        """Connections to the outside take 10 ms to find."""
        beside_dump()
        return outside_connections(self._sandbox.root_pid() or 0)

    def _freeze(self) -> None:
        self._hang_up()
        self._frozen_at = time.monotonic()
        self._sandbox.freeze()
        self._mark("frozen")
        self._tell(SessionFrozen(move=self._move, session=self._sandbox.plan.session))

    def _hand_over(self, memory: Lines) -> dict[int, int]:
        """Descriptors, not PIDs: what they lead to never changes. Returns whose: PID in the sandbox -> PID here."""
        tasks = tasks_of(self._sandbox.pids())
        opened = open_memory(tasks)
        try:
            for some in batched(opened.items(), MOST_DESCRIPTORS):
                memory.send({"do": "memory", "tasks": [task for task, _ in some]}, [number for _, number in some])
        finally:
            for number in opened.values():
                os.close(number)
        return tasks

    def _dump(self, criu: Criu, freeze: Callable[[], None]) -> None:
        sandbox = self._sandbox
        root = sandbox.root_pid()
        if root is None:
            raise MoveFailed(f"Session {self._name} ended before it could be frozen.")
        external = [f"mnt[{bind}]:{bind}" for bind in sandbox.binds]
        boxes = sandbox.cgroups.boxes()
        freezer = boxes.get("freezer") or boxes[""]
        try:
            criu.dump(root, lazy=self._paged, freezer=freezer, external=external, freeze=freeze)
        except BaseException:
            self._look_for_scathe()
            raise
        self._mark("dumped")
        # From here on neither the end of CRIU nor a thaw of the box lets anything run.
        sandbox.hold()
        if not (self._criu and self._criu.alive()):
            self._scathe()
            raise CriuFailed(f"CRIU was killed when it had just dumped session {self._name}.", "Move it again.")
        forget_sizes(self._folder, sandbox.binds)

    # ── ends ──

    def _end(self) -> None:
        """The session runs here, from where it was stopped."""
        if self._criu:
            self._criu.end(_CURE_SECONDS)
        self._look_for_scathe()
        self._drop()
        self._thaw()

    def _thaw(self) -> None:
        """Right any number of times."""
        end_repair(self._sandbox.pids())
        self._sandbox.release()
        self._sandbox.thaw()

    def _look_for_scathe(self) -> None:
        """CRIU thaws the box while it works, and freezes it again when it ends by itself. Where it was killed tasks run
        now, with their sockets in repair: what they send is lost, and what they receive. The fewer moments the better.
        Before its first image it has not touched a socket."""
        if any(self._folder.glob("*.img")) and not self._sandbox.cgroups.stands_still():
            self._scathe()

    def _scathe(self) -> None:
        self.resumed, self.scathed = False, True
        self._sandbox.freeze()
        self._note({"scathed": True})

    def _drop(self) -> None:
        if self._criu:
            self._criu.end(_CURE_SECONDS)
        if self._page_source:
            self._page_source.kill()
        images.remove(self._folder)

    # ── inside ──

    @property
    def _name(self) -> str:
        return f"{self._sandbox.plan.session[:12]}.{self._sandbox.plan.incarnation}"

    def _mark(self, step: str) -> None:
        self._marks[step] = round(time.monotonic() - (self._frozen_at or 0), 4)

    def _note_phase(self, phase: str) -> None:
        processes = {"criu": self._criu, "page_source": self._page_source}
        self._note({"phase": phase, **{name: process and process.to_note() for name, process in processes.items()}})


def boot_id() -> str:
    """The same in all that share a running kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def tasks_of(pids: Iterable[int]) -> dict[int, int]:
    """PID in the sandbox -> PID here (proc_pid_status(5), NSpid)."""
    found = {}
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        found[int(line.split()[-1])] = pid
    return found


def batched(items: Iterable[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    left = list(items)
    while left:
        yield left[:size]
        left = left[size:]


@contextlib.contextmanager
def opened_folder(folder: Path) -> Iterator[int]:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number
    finally:
        os.close(number)
