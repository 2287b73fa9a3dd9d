"""The target's half of a move by CRIU."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from sojourn.errors import CriuFailed, MoveFailed, SojournError, from_wire
from sojourn.model import MoveReport, Strategy
from sojourn.movers.abilities import has_userfaultfd
from sojourn.movers.base import Arrival, Facts, Link, Note, Tell
from sojourn.movers.connections import Connection, reset
from sojourn.movers.criu import images
from sojourn.movers.criu.departure import PAGE_CONNECTIONS, boot_id, meeting_place
from sojourn.movers.criu.service import Criu, Places, memory_folder
from sojourn.movers.haste import hastened
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.target import AGENT_SOCKET, listen
from sojourn.movers.parcels import Parcels
from sojourn.movers.processes import Lasting, start_module
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import FillProgressed, SessionFilled, SessionThawed

_PAGER_SECONDS = 10.0
_MEETING_SECONDS = 10.0
_IS_IT_RUNNING = "Is its agent running?"


class CriuArrival(Arrival):
    """See `base.Arrival`."""

    def __init__(self, sandbox: RuncSandbox, move: str, strategy: Strategy, *, tell: Tell, note: Note) -> None:
        self._sandbox, self._move, self._strategy = sandbox, move, strategy
        self._tell, self._note = tell, note
        self.thawed = False
        self._folder = memory_folder() / f"{move}.in"
        self._pager: Lasting | None = None
        self._agent_line: Lines | None = None
        self._criu: Criu | None = None
        self._criu_was: Lasting | None = None
        self._userfaults: list[int] = []
        """While these are open, a task that misses a page waits for it, whatever becomes of the pager."""
        self._lock = threading.Lock()
        self._abandoned = False
        self._report = MoveReport()
        self._paged = False
        self._filled: dict[str, Any] | None = None
        self._same_kernel = False

    @classmethod
    def recover(
        cls, sandbox: RuncSandbox, move: str, strategy: Strategy, facts: Facts, *, tell: Tell, note: Note
    ) -> CriuArrival:
        """After a crash of the agent. When `thawed`, the caller has to `go_on`, else to `abandon`."""
        arrival = cls(sandbox, move, strategy, tell=tell, note=note)
        arrival.thawed = facts.get("phase") == "thawed"
        arrival._pager = Lasting.noted(facts.get("pager"))
        arrival._criu_was = Lasting.noted(facts.get("criu"))
        arrival._filled = facts.get("filled")
        arrival._report = MoveReport.model_validate(facts.get("report", {}))
        return arrival

    def prepare(self) -> None:
        images.remove(self._folder)
        self._folder.mkdir(mode=0o700)
        self._sandbox.create(mount=False)
        if has_userfaultfd():
            self._pager = start_module("sojourn.movers.pager.target", [str(self._folder)], [], self._folder)
            self._note({"phase": "prepared", "pager": self._pager.to_note()})
            self._attach()

    def receive(self, link: Link) -> None:
        try:
            self._receive(link)
        except (SojournError, KeyboardInterrupt):
            raise
        except BaseException as failed:
            raise MoveFailed(f"Taking in session {self._name} failed: {failed!r}") from failed

    def go_on(self) -> None:
        self._sandbox.cgroups.settle()
        if self._strategy == "lazy" and not self._filled:
            if not (self._pager and self._pager.alive()):
                raise MoveFailed(f"The pager of session {self._name} is gone.", "The session goes back to its source.")
            self._attach()
            self._await_fill()
        self._finish()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if self._criu:
                self._criu.kill()
        if self._criu_was:
            self._criu_was.kill()
        self._sandbox.kill()
        self._let_go()

    # ── the move ──

    def _receive(self, link: Link) -> None:
        parcels = Parcels(link.socket)
        with contextlib.ExitStack() as stack:
            meeting = self._greet(parcels, link, stack)
            self._take_layer(parcels)
            stack.enter_context(hastened())
            criu = self._start_criu(stack)
            if meeting and self._paged:
                self._hand_on_memory(meeting)
            session = parcels.receive()
            zero = self._zero(session)
            number = self._take_images(session, parcels, meeting)
            stack.callback(os.close, number)
            criu.places = replace(criu.places, images=Path(f"/proc/self/fd/{number}"))
            self._mark("images received", zero, session["marks"], image_bytes=sum(session["images"].values()))
            filling = self._follow_fill(criu, number) if self._paged else None
            self._thaw(criu, session, zero, filling)
        if filling:
            filling.result()
        self._finish()

    def _greet(self, parcels: Parcels, link: Link, stack: contextlib.ExitStack) -> Lines | None:
        """Agree on the way the memory comes."""
        hello = parcels.receive()
        self._sandbox.inherit(hello["origin"])
        self._same_kernel = hello["boot"] == boot_id()
        path = meeting_place(self._move)
        listener = stack.enter_context(listen(path))
        parcels.send(meet=str(path) if self._same_kernel else None, pager=self._pager is not None)
        agreed = parcels.receive()
        self._paged = agreed["paged"]
        if agreed["direct"]:
            listener.settimeout(_MEETING_SECONDS)
            connection, _ = listener.accept()
            connection.settimeout(None)
            return Lines(stack.enter_context(connection))
        if self._paged:
            self._hand_on_connections([link.open() for _ in range(PAGE_CONNECTIONS)])
        return None

    def _hand_on_connections(self, connections: list[socket.socket]) -> None:
        numbers = [connection.fileno() for connection in connections]
        self._to_pager({"do": "connections", "count": len(numbers)}, numbers)
        for connection in connections:
            connection.close()

    def _hand_on_memory(self, meeting: Lines) -> None:
        while message := meeting.receive():
            if message["do"] == "begin":
                return
            numbers = meeting.take(len(message["tasks"]))
            self._to_pager(message, numbers)
            for number in numbers:
                os.close(number)
        raise MoveFailed("The source of the move is gone before it handed over the memory.", _IS_IT_RUNNING)

    def _take_layer(self, parcels: Parcels) -> None:
        """Until the last changes, made before the freeze, are in; then the root is put together."""
        written = 0
        while True:
            kind = parcels.expect("layer")
            stream = parcels.receive_stream()
            written += self._sandbox.layer.apply(stream)
            for _ in stream:
                raise MoveFailed("More of the writable layer came than it holds.")
            if kind == "last":
                break
            parcels.send(applied=written)
        self._sandbox.mount()
        self._report = self._report.model_copy(update={"layer_bytes": written})

    def _start_criu(self, stack: contextlib.ExitStack) -> Criu:
        """While the source is still dumping. It is born into the box, and so is all that it restores."""
        with self._lock:
            self._check_wanted()
            self._criu = Criu(Places(self._folder, self._folder, "restore.log"), self._sandbox.network)
            self._sandbox.cgroups.enter(self._criu.pid)
        stack.callback(self._criu.kill)
        self._note({"phase": "receiving", "criu": Lasting.of(self._criu.pid).to_note()})
        return self._criu

    def _take_images(self, session: dict[str, Any], parcels: Parcels, meeting: Lines | None) -> int:
        """A descriptor of the folder of CRIU's images: on one machine the source's own, as nothing has to be copied."""
        if meeting is None:
            images.receive(self._folder, session["images"], parcels)
            return os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        if not meeting.receive():
            raise MoveFailed("The source of the move is gone before it handed over the images.", _IS_IT_RUNNING)
        return meeting.take()[0]

    def _mark(self, step: str, zero: float, before: Mapping[str, float], **more: Any) -> None:
        timeline = {**before, step: round(time.monotonic() - zero, 4)}
        self._report = self._report.model_copy(update={**more, "timeline": timeline})

    def _thaw(self, criu: Criu, session: dict[str, Any], zero: float, filling: Future[None] | None) -> None:
        sandbox = self._sandbox
        external = [f"mnt[{inside}]:{outside}" for inside, outside in sandbox.binds.items()]
        outside = [Connection.from_wire(one) for one in session["outside"]]

        def before_thaw() -> None:
            if filling and self._strategy == "copy":
                filling.result()
            if outside:
                sandbox.network.run(lambda: reset(outside))

        try:
            root = criu.restore(sandbox.files.root, lazy=self._paged, external=external, before_thaw=before_thaw)
        except CriuFailed as failed:
            raise (filling.exception() if filling and filling.done() else None) or failed from None
        frozen = time.monotonic() - zero
        with self._lock:
            self._check_wanted()
            sandbox.adopt(root)
            self.thawed = True
        self._mark("thawed", zero, self._report.timeline, frozen_s=frozen, connections_reset=tuple(map(str, outside)))
        self._note({"phase": "thawed", "report": self._report.model_dump(mode="json")})
        self._tell(SessionThawed(**self._whose(), report=self._report))
        sandbox.cgroups.settle()

    # ── the fill ──

    def _follow_fill(self, criu: Criu, images: int) -> Future[None]:
        """Have the pages come, and follow that in a thread of its own: CRIU and what it has made so far need some of
        them before the thaw, and would wait for ever when they can't come."""
        self._to_pager({"do": "begin", "after_thaw": self._strategy == "lazy"}, [images])
        filling: Future[None] = Future()

        def follow() -> None:
            try:
                self._await_fill()
            except BaseException as failed:
                filling.set_exception(failed)
                if not self.thawed:
                    criu.kill()
                    self._sandbox.kill()
            else:
                filling.set_result(None)

        threading.Thread(target=follow, name="fill", daemon=True).start()
        return filling

    def _await_fill(self) -> None:
        """Until the pager says that every page is in."""
        line = self._agent_line
        assert line
        while True:
            for message in line.messages():
                if self._hear(message):
                    return
            if not line.pump():
                raise MoveFailed(
                    f"The pager of session {self._name} ended before every page was in.",
                    "The session goes back to its source.",
                )

    def _hear(self, message: dict[str, Any]) -> bool:
        match message["event"]:
            case "space":
                self._userfaults += self._agent_line.take() if self._agent_line else []
            case "progress":
                done = {"done_bytes": message["done"], "total_bytes": message["total"]}
                self._tell(FillProgressed(move=self._move, session=self._sandbox.plan.session, **done))
            case "stumbled":
                raise from_wire(message["error"])
            case "filled":
                self._filled = message
                self._note({"filled": message})
        return self._filled is not None

    def _finish(self) -> None:
        after_thaw = self._strategy == "lazy" and self._filled
        seconds = self._filled["seconds"] if self._filled and after_thaw else 0.0
        page_bytes = self._filled["filled_bytes"] if self._filled else 0
        self._report = self._report.model_copy(update={"filled_s": seconds, "page_bytes": page_bytes})
        self._tell(SessionFilled(**self._whose(), report=self._report))
        self._let_go()

    def _let_go(self) -> None:
        """Of the address spaces: only when all is filled, or nobody is left in them."""
        if self._pager:
            self._pager.kill()
        self._close_descriptors()
        images.remove(self._folder)

    def _close_descriptors(self) -> None:
        for number in self._userfaults:
            os.close(number)
        self._userfaults.clear()
        if self._agent_line:
            self._agent_line.close()

    # ── inside ──

    @property
    def _name(self) -> str:
        return f"{self._sandbox.plan.session[:12]}.{self._sandbox.plan.incarnation}"

    def _whose(self) -> dict[str, Any]:
        plan = self._sandbox.plan
        return {"move": self._move, "session": plan.session, "incarnation": plan.incarnation}

    def _attach(self) -> None:
        """To the pager; also after a crash of the agent, when it tells everything again."""
        deadline = time.monotonic() + _PAGER_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._folder / AGENT_SOCKET))
            except OSError as absent:
                connection.close()
                if time.monotonic() > deadline or not (self._pager and self._pager.alive()):
                    raise MoveFailed(
                        f"The pager of session {self._name} does not answer: {absent}", f"See {self._folder}/pager.log."
                    ) from absent
                time.sleep(0.002)
            else:
                self._agent_line = Lines(connection)
                return

    def _to_pager(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        assert self._agent_line
        try:
            self._agent_line.send(message, descriptors)
        except OSError as broken:
            raise MoveFailed(f"The pager of session {self._name} is gone: {broken}", "Move it again.") from broken

    def _check_wanted(self) -> None:
        if self._abandoned:
            raise MoveFailed(f"The arrival of session {self._name} was abandoned.")

    def _zero(self, session: dict[str, Any]) -> float:
        """The moment of the freeze on this machine's clock; between machines, without the time the news took."""
        if self._same_kernel:
            return float(session["frozen_at"])
        return time.monotonic() - float(session["frozen_for"])
