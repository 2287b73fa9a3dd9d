"""Moving a session: find out everything that can be found out while it runs, then hand the wish to the law."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress

from sojourn.client.words import Moved, MoveRequest, Until
from sojourn.controller.images import Images
from sojourn.controller.plans import Plans
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.roster import Roster
from sojourn.errors import DoesNotFit, Incompatible, MoveFailed, SessionLost, SojournError, Unknown, from_wire
from sojourn.lifecycle import Move, MoveCancelled, MoveWanted, Session
from sojourn.model import MovePhase, MovePlan, SessionStatus, Shipment
from sojourn.placement import needs_of

_THAWED = frozenset({MovePhase.FILLING, MovePhase.COMMITTING, MovePhase.DONE, MovePhase.FAILED})
_FILLED = frozenset({MovePhase.DONE, MovePhase.FAILED})
"""Not `committing`: who waited to the end may ask for the next move at once."""
COMMIT_SECONDS = 10.0
"""How long the next move is held back, rather than refused, while the last one's source still frees its copy."""
_REACHED: dict[Until, frozenset[MovePhase]] = {
    "accepted": frozenset(MovePhase),
    "thawed": _THAWED,
    "filled": _FILLED,
}


class Moves:
    def __init__(self, reconciler: Reconciler, roster: Roster, images: Images, plans: Plans) -> None:
        self._reconciler, self._roster, self._images, self._plans = reconciler, roster, images, plans

    async def move(self, session: Session, asked: MoveRequest) -> Moved:
        """Plan, begin, and wait as long as asked. Raises the reason of a refusal before anything is touched, and
        MoveFailed when the session had to stay."""
        begun, plan = await self.begin(session, asked)
        if begun is None:
            return Moved(session=self._reconciler.get(session.id).view(), move=None, plan=plan)
        move = await self.until(session.id, begun.id, asked.wait)
        return Moved(session=self._reconciler.get(session.id).view(), move=move.view(session.id), plan=plan)

    def known(self, move: str) -> bool:
        try:
            self._reconciler.move(move)
        except Unknown:
            return False
        return True

    async def begin(
        self, session: Session, asked: MoveRequest, identity: str | None = None, in_cell: bool = False
    ) -> tuple[Move | None, MovePlan]:
        """The move just begun; None if there is nothing to move, if it is only planned, or if it is to be by objects
        and the session asks for it `in_cell`, a cell of its own that has to end first."""
        session = await self._committed(session)
        prospect = await self._plans.prospect(session, asked, in_cell)
        plan = prospect.plan
        if plan.source == plan.target:
            return None, plan
        if asked.dry_run:
            return None, await self._plans.in_full(session, plan)
        if prospect.refusal:
            raise prospect.refusal
        if in_cell and plan.strategy == "objects":
            return None, plan
        self._roster.require_online(plan.target)
        ahead: tuple[Shipment, ...] = ()
        if plan.image:
            brought = await self._images.bring_for(session, session.spec, plan.target)
            ahead = (Shipment(what="image", done_bytes=brought, total_bytes=brought),) if brought else ()
        return self._reconciler.apply(session.id, self._wanted(asked, plan, identity, ahead)).move, plan

    async def _committed(self, session: Session) -> Session:
        """The session, once its last move is over, if that one has nothing left to do but to free the source's copy."""

        def over(now: Session) -> bool:
            return now.moving is None or now.moving.phase is not MovePhase.COMMITTING

        with suppress(TimeoutError):
            return await asyncio.wait_for(self._reconciler.until(session.id, over), COMMIT_SECONDS)
        return self._reconciler.get(session.id)

    def _wanted(
        self, asked: MoveRequest, plan: MovePlan, identity: str | None, ahead: tuple[Shipment, ...]
    ) -> MoveWanted:
        assert plan.strategy
        return MoveWanted(
            move=identity or uuid.uuid4().hex,
            target=plan.target,
            strategy=plan.strategy,
            connections_reset=plan.connections_reset,
            memory_bytes=needs_of(asked.to, self._roster.views()).memory_bytes,
            shipments=ahead,
            may_lose=asked.may_lose if plan.strategy == "objects" else (),
        )

    async def until(self, session: str, move: str, wait: Until) -> Move:
        """The move, once it has got so far. Raises what it failed with, and SessionLost."""

        def reached(now: Session) -> bool:
            return now.move is None or now.move.id != move or now.move.phase in _REACHED[wait]

        now = await self._reconciler.until(session, reached)
        if now.move is None or now.move.id != move:
            return self._reconciler.move(move)[1]
        if now.status is SessionStatus.LOST:
            raise SessionLost(f"Session {now.name or now.id} is lost: {now.reason}", "Start a new one.")
        if now.move.phase is MovePhase.FAILED:
            raise _failure(now, now.move)
        return now.move

    def cancel(self, move: str) -> Move:
        """Raises Unknown, and Busy when the session has left already."""
        session, found = self._reconciler.move(move)
        after = self._reconciler.apply(session, MoveCancelled(move))
        return after.move if after.move and after.move.id == move else found


def _failure(session: Session, move: Move) -> SojournError:
    """What a node found out too late for the plan, but before the freeze, is still that it does not fit there."""
    error = from_wire(move.error or {})
    kind = type(error) if isinstance(error, DoesNotFit | Incompatible) else MoveFailed
    return kind(
        f"Session {session.name or session.id} could not move to {move.target}: {error.message}",
        f"{error.hint} It goes on at {move.source}.".strip(),
    )
