"""The source's half of a move by CRIU."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sojourn.errors import CriuFailed, Immovable, MoveFailed, SojournError
from sojourn.model import Strategy
from sojourn.movers.base import Departure, Facts, HangUp, Link, Note, Tell
from sojourn.movers.connections import Connection, end_repair, outside_connections
from sojourn.movers.criu import images
from sojourn.movers.criu.service import Criu, Places, memory_folder
from sojourn.movers.criu.shared_files import forget_sizes
from sojourn.movers.fits import LET_GO
from sojourn.movers.haste import hastened
from sojourn.movers.inspection import blockers, inspect
from sojourn.movers.pager.lines import MOST_DESCRIPTORS, Lines
from sojourn.movers.pager.supply import open_memory
from sojourn.movers.parcels import Parcels
from sojourn.movers.processes import Lasting, start_module
from sojourn.sandbox.layer import Index
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import SessionFrozen, SessionSent

PAGE_CONNECTIONS = 3
"""One for faults, two for the bulk."""
MOST_SHARED_BYTES = 64 << 20
"""Forks that share more than this of their memory are copied through images: the pager would multiply it."""
_LONG_SEND_SECONDS = 1.0
"""A layer that took longer to send ahead is sent ahead again: what changed meanwhile should not wait for the freeze."""
_MOST_SENDS_AHEAD = 4
_CURE_SECONDS = 10.0
"""CRIU left alone in the middle of a dump, by an agent that died, ends by itself and takes its code out of the tasks;
killed before that, it would take them with it."""


class CriuDeparture(Departure):
    """See `base.Departure`."""

    direct = True
    """Where both agents share a kernel, memory is handed over instead of sent."""

    def __init__(
        self, sandbox: RuncSandbox, move: str, strategy: Strategy, *, tell: Tell, note: Note, hang_up: HangUp
    ) -> None:
        self._sandbox, self._move, self._strategy = sandbox, move, strategy
        self._tell, self._note, self._hang_up = tell, note, hang_up
        self.resumed = True
        self._paged = True
        """The pager carries the pages; else they are in CRIU's images, which keep what forks share."""
        self._frozen_at: float | None = None
        self._marks: dict[str, float] = {}
        self._criu: Lasting | None = None
        self._page_source: Lasting | None = None
        self._folder = memory_folder() / f"{move}.out"

    @classmethod
    def recover(
        cls,
        sandbox: RuncSandbox,
        move: str,
        strategy: Strategy,
        facts: Facts,
        *,
        tell: Tell,
        note: Note,
        hang_up: HangUp,
    ) -> CriuDeparture:
        """After a crash of the agent. When `resumed` is still true, the caller has to `roll_back`."""
        departure = cls(sandbox, move, strategy, tell=tell, note=note, hang_up=hang_up)
        departure.resumed = facts.get("phase") != "sent"
        departure.scathed = bool(facts.get("scathed"))
        departure._criu = Lasting.noted(facts.get("criu"))
        departure._page_source = Lasting.noted(facts.get("page_source"))
        return departure

    def run(self, link: Link) -> None:
        try:
            self._run(link)
        except BaseException as failed:
            if self.resumed or self.scathed:
                self._end()
            if isinstance(failed, (SojournError, KeyboardInterrupt)):
                raise
            raise MoveFailed(f"Moving session {self._name} failed: {failed!r}") from failed

    def commit(self) -> None:
        self._sandbox.kill()
        self._drop()

    def roll_back(self) -> None:
        self._end()
        self.resumed = not self.scathed

    # ── the move ──

    def _run(self, link: Link) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        parcels = Parcels(link.socket)
        with contextlib.ExitStack() as stack:
            meeting = self._greet(parcels, stack)
            source = None if meeting else self._start_page_source(link, stack)
            sent = self._send_layer_ahead(parcels)
            if found := blockers(self._sandbox):  # opened since the move was planned
                raise Immovable(f"Session {self._name} can't be moved: {'; '.join(found)}.", LET_GO)
            criu = Criu(Places(self._folder, self._folder, "dump.log"), self._sandbox.network)
            stack.callback(criu.let_go)
            self._criu = Lasting.of(criu.pid)
            self._note_phase("freezing")
            stack.enter_context(hastened())
            with ThreadPoolExecutor(1) as beside:
                outside: list[Future[list[Connection]]] = []

                def freeze() -> None:
                    self._freeze()
                    outside.append(beside.submit(self._send_beside_dump, parcels, sent, meeting or source))

                self._dump(criu, freeze)
                self._send_session(parcels, meeting, outside[0].result())

    def _greet(self, parcels: Parcels, stack: contextlib.ExitStack) -> Lines | None:
        """Agree on the way the memory goes: over a Unix socket when both are on one machine, else None."""
        parcels.send(move=self._move, strategy=self._strategy, boot=boot_id(), origin=self._sandbox.origin)
        answer, meeting = parcels.receive(), None
        self._paged = self._strategy == "lazy" or (bool(answer["pager"]) and not self._shares_memory())
        # The target may be lying about the kernel it shares; a path of its choice would lead to other people's sockets.
        if answer["meet"] == str(meeting_place(self._move)) and self.direct:
            with contextlib.suppress(OSError):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.connect(answer["meet"])
                meeting = Lines(connection)
        parcels.send(direct=meeting is not None, paged=self._paged)
        return meeting

    def _start_page_source(self, link: Link, stack: contextlib.ExitStack) -> Lines | None:
        """It gets its connections now, and will get its tasks when they stand still."""
        if not self._paged:
            return None
        pages = [stack.enter_context(link.open()) for _ in range(PAGE_CONNECTIONS)]
        ours, theirs = socket.socketpair()
        numbers = [theirs.fileno(), *(connection.fileno() for connection in pages)]
        with theirs:
            self._page_source = start_module(
                "sojourn.movers.pager.source", [str(number) for number in numbers], numbers, self._folder
            )
        return Lines(stack.enter_context(ours))

    def _send_layer_ahead(self, parcels: Parcels) -> Index:
        """While the session runs; returns the index of what was sent."""
        layer, sent = self._sandbox.layer, Index()
        for _ in range(_MOST_SENDS_AHEAD):
            began, now = time.monotonic(), layer.index()
            parcels.send(layer="ahead")
            parcels.send_stream(layer.delta(sent, now))
            parcels.expect("applied")
            sent = now
            if time.monotonic() - began < _LONG_SEND_SECONDS:
                break
        return sent

    def _freeze(self) -> None:
        self._hang_up()
        self._frozen_at = time.monotonic()
        self._sandbox.freeze()
        self._mark("frozen")
        self._tell(SessionFrozen(move=self._move, session=self._sandbox.plan.session))

    def _send_beside_dump(self, parcels: Parcels, sent: Index, memory: Lines | None) -> list[Connection]:
        """What the tasks left in files, and access to their memory: both are settled once they stand still. Returns
        their connections to the outside, which take 10 ms to find."""
        sandbox = self._sandbox
        parcels.send(layer="last")
        parcels.send_stream(sandbox.layer.delta(sent, always=sandbox.restless_files()))
        self._mark("layer sent")
        if memory and self._paged:
            self._hand_over(memory)
        return outside_connections(sandbox.root_pid() or 0)

    def _hand_over(self, memory: Lines) -> None:
        """Descriptors, not PIDs: what they lead to never changes."""
        tasks = tasks_of(self._sandbox.pids())
        opened = open_memory(tasks)
        try:
            for some in batched(opened.items(), MOST_DESCRIPTORS):
                memory.send({"do": "memory", "tasks": [task for task, _ in some]}, [number for _, number in some])
            memory.send({"do": "begin"})
        finally:
            for number in opened.values():
                os.close(number)

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

    def _send_session(self, parcels: Parcels, meeting: Lines | None, outside: list[Connection]) -> None:
        sandbox, sizes = self._sandbox, images.image_sizes(self._folder)
        self._note_phase("sent")
        self.resumed = False
        parcels.send(
            images=sizes,
            frozen_at=self._frozen_at,
            frozen_for=time.monotonic() - (self._frozen_at or 0),
            marks=self._marks,
            outside=[connection.to_wire() for connection in outside],
        )
        if meeting:
            with opened_folder(self._folder) as number:
                meeting.send({"do": "images"}, [number])
        else:
            parcels.send_stream(images.contents(self._folder, sizes))
        self._tell(SessionSent(move=self._move, session=sandbox.plan.session))

    # ── ends ──

    def _end(self) -> None:
        """The session runs here, from where it was stopped."""
        sandbox = self._sandbox
        if self._criu:
            self._criu.end(_CURE_SECONDS)
        self._look_for_scathe()
        self._drop()
        end_repair(sandbox.pids())
        sandbox.release()
        sandbox.thaw()

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

    def _shares_memory(self) -> bool:
        return inspect(self._sandbox).forked_sharing_bytes > MOST_SHARED_BYTES

    def _mark(self, step: str) -> None:
        self._marks[step] = round(time.monotonic() - (self._frozen_at or 0), 4)

    def _note_phase(self, phase: str) -> None:
        processes = {"criu": self._criu, "page_source": self._page_source}
        self._note({"phase": phase, **{name: process and process.to_note() for name, process in processes.items()}})


def meeting_place(move: str) -> Path:
    """Where the target listens for a source on its own machine; in a folder of this user alone."""
    return memory_folder() / f"{move}.in" / "meeting.socket"


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
