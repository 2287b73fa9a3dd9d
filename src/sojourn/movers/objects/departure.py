"""The source's half of a move by objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from sojourn.errors import Immovable, MoveFailed, SojournError
from sojourn.model import Luggage
from sojourn.movers.base import Departure, Facts, Link, Note, Tell
from sojourn.movers.luggage import require_consent
from sojourn.movers.objects.files import send
from sojourn.movers.objects.left import left_behind
from sojourn.movers.objects.meeting import offer, working_folder
from sojourn.movers.objects.porter_line import FindPorter, PorterLine
from sojourn.movers.parcels import Parcels
from sojourn.sandbox.base import Sandbox
from sojourn.wire import FillProgressed, SessionFrozen, SessionSent

_TELL_SECONDS = 0.5


class ObjectsDeparture(Departure):
    """See `base.Departure`. The kernel stands still from the moment when it has packed until the move is decided."""

    def __init__(
        self,
        sandbox: Sandbox,
        move: str,
        *,
        may_lose: tuple[str, ...],
        tell: Tell,
        note: Note,
        porter: FindPorter,
        clients_yield: Callable[[], None],
        clients_go_on: Callable[[], object],
    ) -> None:
        """`clients_yield()`: returns when nothing is on its way between the kernel and its clients, and nothing will
        be; raises Busy. `clients_go_on()`: takes that back."""
        self._sandbox, self._move, self._may_lose = sandbox, move, may_lose
        self._tell, self._note, self._porter = tell, note, porter
        self._clients_yield, self._clients_go_on = clients_yield, clients_go_on
        self._line: PorterLine | None = None
        self._asked = False
        """The kernel has been: it stands still, perhaps, and has to be told to go on."""
        self._told_at = 0.0
        self._name = sandbox.plan.spec.name or sandbox.plan.session

    def remember(self, facts: Facts) -> None:
        """What a departure noted whose agent has crashed. When `resumed` is still true, the caller has to
        `roll_back`."""
        self.resumed, self._asked = facts.get("phase") != "sent", "phase" in facts

    def run(self, link: Link | None) -> None:
        if link is None:
            raise MoveFailed(f"Session {self._name} can't be moved without a connection to its target.")
        try:
            self._go(Parcels(link.socket))
        except BaseException:
            if self.resumed:
                self.roll_back()
            raise

    def commit(self) -> None:
        self._hang_up()

    def roll_back(self) -> None:
        self._hang_up()
        try:
            if self._asked:
                line = PorterLine.to(self._porter)
                line.ask("goes_on", do="go_on")
                line.close()
        finally:
            self._clients_go_on()

    # ── the move ──

    def _go(self, parcels: Parcels) -> None:
        self._line = PorterLine.to(self._porter)
        meeting = offer(parcels, self._sandbox, self._move)
        cwd = working_folder(self._sandbox)
        if meeting.files:
            send(parcels, cwd, tell=self._progressed)  # while it runs
        behind = left_behind(self._sandbox)
        self._clients_yield()
        began, self._asked = time.monotonic(), True
        self._note({"phase": "asked"})
        packed = self._line.ask("luggage", do="depart", may_lose=self._may_lose)
        luggage = behind.beside(Luggage.model_validate(packed))
        luggage = luggage.model_copy(update={"notes": (*luggage.notes, *meeting.notes)})
        require_consent(self._name, luggage, self._may_lose)
        self._tell(SessionFrozen(move=self._move, session=self._sandbox.plan.session))
        if meeting.files:
            left = send(parcels, cwd, tell=self._progressed).left
            notes = (*luggage.notes, *(f"of {cwd}, this stays behind: {one}" for one in left))
            luggage = luggage.model_copy(update={"notes": notes})
        parcels.send(luggage=luggage.model_dump(mode="json"))
        parcels.send_stream(self._told(self._line.sent(), luggage.size_bytes))
        self._line.sent_bytes()
        parcels.answer("arrived")
        self._note({"phase": "sent"})
        self.resumed = False
        parcels.send(begin=True, frozen_s=time.monotonic() - began)
        self._tell(SessionSent(move=self._move, session=self._sandbox.plan.session))

    def _told(self, frames: Iterable[bytes], total: int) -> Iterator[bytes]:
        done = 0
        for frame in frames:
            yield frame
            done += len(frame)
            self._progressed(min(done, total), total)

    def _progressed(self, done_bytes: int, total_bytes: int) -> None:
        if time.monotonic() > self._told_at + _TELL_SECONDS:
            self._told_at, session = time.monotonic(), self._sandbox.plan.session
            self._tell(FillProgressed(move=self._move, session=session, done_bytes=done_bytes, total_bytes=total_bytes))

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line:
            line.close()


def look(sandbox: Sandbox, porter: FindPorter) -> Luggage:
    """What would travel. Raises Busy, and Unreachable where there is no porter."""
    line = PorterLine.to(porter)
    try:
        return left_behind(sandbox).beside(Luggage.model_validate(line.ask("luggage", do="look")))
    finally:
        with suppress(SojournError):
            line.close()


def require_descriptors(sandbox: Sandbox) -> None:
    """Raises Immovable where an agent's connection can't be handed to the kernel."""
    if not sandbox.passes_descriptors:
        raise Immovable(
            f"Session {sandbox.plan.session} can't be asked for its objects: connections can't be handed over there.",
            "That needs Unix sockets, and a path of the node's folder that is short enough for them.",
        )
