"""Bringing a session to life with CRIU: what an arrival from another node and a wake from a checkpoint have in common.

prepare    the sandbox, the pager
… the way here: `CriuArrival` takes the state from the source, `CriuWake` from the store …
thaw       CRIU makes the tasks, which miss their memory
fill       the pager answers faults and brings the rest
abandon
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

from sojourn.errors import CriuFailed, MoveFailed, from_wire
from sojourn.model import MoveReport, Strategy
from sojourn.movers.base import Arrival, Facts, Note, Tell
from sojourn.movers.connections import Connection, reset
from sojourn.movers.criu import images
from sojourn.movers.criu.service import Criu, Places, memory_folder
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.target import AGENT_SOCKET
from sojourn.movers.processes import Lasting, start_module
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import FillProgressed, SessionFilled, SessionThawed

_PAGER_SECONDS = 10.0


class CriuRevival(Arrival):
    """See `base.Arrival`."""

    way_back: ClassVar[str] = "The session goes back to its source."
    """What becomes of a session that can't be filled."""

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

    def _remember(self, facts: Facts) -> None:
        """What an agent before this one noted."""
        self.thawed = facts.get("phase") == "thawed"
        self._pager = Lasting.noted(facts.get("pager"))
        self._criu_was = Lasting.noted(facts.get("criu"))
        self._filled = facts.get("filled")
        self._report = MoveReport.model_validate(facts.get("report", {}))

    def go_on(self) -> None:
        self._sandbox.cgroups.settle()
        if self._strategy == "lazy" and not self._filled:
            if not (self._pager and self._pager.alive()):
                raise MoveFailed(f"The pager of session {self._name} is gone.", self.way_back)
            self._attach()
            self._await_fill()
        self._finish()

    def halt(self) -> None:
        with self._lock:
            if self.thawed and not self._abandoned:
                self._sandbox.freeze()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if self._criu:
                self._criu.kill()
        if self._criu_was:
            self._criu_was.kill()
        self._sandbox.kill()
        self._let_go()

    # ── making ready ──

    def _make_folder(self) -> None:
        images.remove(self._folder)
        self._folder.mkdir(mode=0o700)

    def _start_pager(self) -> None:
        self._pager = start_module("sojourn.movers.pager.target", [str(self._folder)], [], self._folder)
        self._note({"phase": "prepared", "pager": self._pager.to_note()})

    def _start_criu(self, stack: contextlib.ExitStack) -> Criu:
        """It is born into the box, and so is all that it restores."""
        with self._lock:
            self._check_wanted()
            self._criu = Criu(Places(self._folder, self._folder, "restore.log"), self._sandbox.network)
            self._sandbox.cgroups.enter(self._criu.pid)
        stack.callback(self._criu.kill)
        self._note({"phase": "receiving", "criu": Lasting.of(self._criu.pid).to_note()})
        return self._criu

    def _mark(self, step: str, zero: float, before: Mapping[str, float], **more: Any) -> None:
        timeline = {**before, step: round(time.monotonic() - zero, 4)}
        self._report = self._report.model_copy(update={**more, "timeline": timeline})

    def _thaw(self, criu: Criu, outside: Sequence[Connection], zero: float, filling: Future[None] | None) -> None:
        """`outside`: connections that lead to where nobody knows them any more; they are reset."""
        sandbox = self._sandbox
        external = [f"mnt[{inside}]:{folder}" for inside, folder in sandbox.binds.items()]

        def before_thaw() -> None:
            if filling:
                self._await_leave(filling)
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

    def _await_leave(self, filling: Future[None]) -> None:
        """Called when all is made and nothing runs yet: what must be so before the thaw. Raises what speaks against."""
        if self._strategy == "copy":
            filling.result()

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
                    self.way_back,
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
        link_bytes = self._filled["received_bytes"] if self._filled else 0
        filled = {"filled_s": seconds, "page_bytes": page_bytes, "link_bytes": link_bytes}
        self._report = self._report.model_copy(update=filled)
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
