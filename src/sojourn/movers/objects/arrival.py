"""The target's half of a move by objects."""

from __future__ import annotations

import time

from sojourn.errors import MoveFailed, SojournError, Unreachable
from sojourn.model import Luggage, MoveReport
from sojourn.movers.base import Arrival, Facts, Link, Note, Tell
from sojourn.movers.objects.files import receive
from sojourn.movers.objects.meeting import accept, make_working_folder, working_folder
from sojourn.movers.objects.porter_line import START_SECONDS, FindPorter, PorterLine
from sojourn.movers.parcels import Parcels
from sojourn.sandbox.base import Sandbox
from sojourn.wire import SessionFilled, SessionThawed

_LAST_WORDS = 2000
"""Bytes."""


class ObjectsArrival(Arrival):
    """See `base.Arrival`: a sandbox with the session's program, started anew, which is given the namespace."""

    def __init__(self, sandbox: Sandbox, move: str, *, tell: Tell, note: Note, porter: FindPorter) -> None:
        self._sandbox, self._move = sandbox, move
        self._tell, self._note, self._porter = tell, note, porter
        self._line: PorterLine | None = None
        self._report = MoveReport()
        self._made = False
        """The working folder was, for this session."""

    def remember(self, facts: Facts) -> None:
        """What an arrival noted whose agent has crashed. When `thawed`, the caller has to `go_on`, else to
        `abandon`."""
        self.thawed = "report" in facts
        self._report = MoveReport.model_validate(facts.get("report", {}))

    def prepare(self) -> None:
        """Returns when the kernel has begun: what it takes for that, the session runs on at the source."""
        self._made = make_working_folder(self._sandbox)
        self._sandbox.create()
        self._sandbox.start()
        try:
            self._line = PorterLine.to(self._porter, START_SECONDS)
        except Unreachable as absent:
            raise MoveFailed(
                f"The session's program did not begin on node {self._sandbox.plan.node}: "
                f"{self._sandbox.log(_LAST_WORDS).strip() or absent.message}",
                "Has that node the same Python and packages, at the same paths? An image has, wherever it is.",
            ) from absent

    def receive(self, link: Link | None) -> None:
        if link is None or self._line is None:
            raise MoveFailed(f"Session {self._sandbox.plan.session} can't be taken in without a link and a kernel.")
        parcels, files = Parcels(link.socket), 0
        if accept(parcels, self._sandbox, self._move, self._made).files:
            cwd = working_folder(self._sandbox)
            files = receive(parcels, cwd).sent_bytes + receive(parcels, cwd).sent_bytes
        luggage = Luggage.model_validate(parcels.expect("luggage"))
        try:
            arrived = self._line.arrive(parcels.receive_stream())
        except SojournError as refused:
            parcels.send(refused=refused.to_wire())
            raise
        parcels.send(arrived=True)
        began, source = time.monotonic(), parcels.receive()
        self._report = MoveReport(
            froze=True,
            frozen_s=source["frozen_s"] + time.monotonic() - began,
            page_bytes=luggage.size_bytes,
            layer_bytes=files,
            lost=luggage.lost,
            notes=tuple(dict.fromkeys((*luggage.notes, *arrived["notes"]))),
        )
        self._note({"report": self._report.model_dump(mode="json")})
        self.thawed = True
        self.go_on()

    def go_on(self) -> None:
        """Whoever was restored is whole."""
        plan, said = self._sandbox.plan, {"move": self._move, "report": self._report}
        self._tell(SessionThawed(session=plan.session, incarnation=plan.incarnation, **said))
        self._tell(SessionFilled(session=plan.session, incarnation=plan.incarnation, **said))
        self._hang_up()

    def halt(self) -> None:
        self._hang_up()
        if self.thawed:
            self._sandbox.kill()

    def abandon(self) -> None:
        self._hang_up()
        self._sandbox.kill()

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line:
            line.close()
