"""Moving a session: find out everything that can be found out while it runs, then hand the wish to the law."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sojourn.client.words import Moved, MoveRequest, Until
from sojourn.controller.fitness import Outlook, outlook, require_fit, unfit
from sojourn.controller.images import Images, Stock
from sojourn.controller.questions import Questions
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.roster import Roster
from sojourn.errors import (
    DoesNotFit,
    Incompatible,
    MoveFailed,
    Refused,
    SessionLost,
    SojournError,
    Unknown,
    Unreachable,
    from_wire,
)
from sojourn.lifecycle import Move, MoveCancelled, MoveWanted, Session, raise_unless_movable
from sojourn.model import (
    Inspection,
    MovePhase,
    MovePlan,
    Needs,
    NodeStatus,
    NodeView,
    SessionStatus,
    Shipment,
    Strategy,
)
from sojourn.placement import choose, needs_of, offers
from sojourn.sandbox.canary import require_same

_THAWED = frozenset({MovePhase.FILLING, MovePhase.COMMITTING, MovePhase.DONE, MovePhase.FAILED})
_FILLED = frozenset({MovePhase.DONE, MovePhase.FAILED})
"""Not `committing`: who waited to the end may ask for the next move at once."""
_REACHED: dict[Until, frozenset[MovePhase]] = {
    "accepted": frozenset(MovePhase),
    "thawed": _THAWED,
    "filled": _FILLED,
}


Clock = Callable[[], float]
"""Seconds since the epoch."""


@dataclass(frozen=True)
class Prospect:
    """A plan, and the error it would be refused with."""

    plan: MovePlan
    refusal: SojournError | None = None


class Moves:
    def __init__(
        self, reconciler: Reconciler, roster: Roster, questions: Questions, images: Images, clock: Clock
    ) -> None:
        self._reconciler, self._roster, self._questions, self._clock = reconciler, roster, questions, clock
        self._images = images

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
        self, session: Session, asked: MoveRequest, identity: str | None = None
    ) -> tuple[Move | None, MovePlan]:
        """The move just begun; None if there is nothing to move, or if it is only planned."""
        prospect = await self.prospect(session, asked.to, asked.strategy)
        plan = prospect.plan
        if plan.source == plan.target:
            return None, plan
        if asked.dry_run:
            return None, await self._with_environment(session, await self._looked_at(session, plan))
        if prospect.refusal:
            raise prospect.refusal
        assert plan.strategy
        self._roster.require_online(plan.target)
        ahead: tuple[Shipment, ...] = ()
        if plan.image:
            brought = await self._images.bring_for(session, session.spec, plan.target)
            ahead = (Shipment(what="image", done_bytes=brought, total_bytes=brought),) if brought else ()
        memory_bytes = needs_of(asked.to, self._roster.views()).memory_bytes
        wanted = MoveWanted(
            identity or uuid.uuid4().hex, plan.target, plan.strategy, plan.connections_reset, memory_bytes, ahead
        )
        return self._reconciler.apply(session.id, wanted).move, plan

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

    # ── planning ─────────────────────────────────────────────────────────────────────────────────────────────

    async def prospect(self, session: Session, to: str | Needs, strategy: Strategy | Literal["auto"]) -> Prospect:
        """What a move would do. Raises Unknown, Invalid, Busy, Unreachable: then there is nothing to plan."""
        nodes = self._roster.views()
        needs = needs_of(to, nodes)
        if (
            session.status is SessionStatus.RUNNING
            and needs.node == session.node
            and offers(self._home(session), needs)
        ):
            return Prospect(_stays(session))
        raise_unless_movable(session, self._clock())
        inspection = await self._questions.inspect(session.node, session.id)
        home = self._home(session)
        if offers(home, needs, own_memory_bytes=inspection.memory_bytes):
            return Prospect(_stays(session))
        stock = await self._images.stock_of(session.spec)
        try:
            target = self._target(session, home, needs, inspection, stock)
            image = self._images.missing(session, target.name, stock)
        except (Refused, Unreachable) as nowhere:
            return Prospect(_plan(session, needs.node or "", inspection, Outlook(), nowhere), nowhere)
        way = outlook(home, target, inspection, None if strategy == "auto" else strategy)
        plan = _plan(session, target.name, inspection, way, way.refusal)
        lacks = {"image": session.spec.image, "image_bytes": image.size_bytes} if image else {}
        closed = target.capabilities.refusals.get("network", "")
        return Prospect(plan.model_copy(update={"no_network": closed, **lacks}), way.refusal)

    async def _looked_at(self, session: Session, plan: MovePlan) -> MovePlan:
        """The plan, once it is known whether the folders that the session shares are the target's too. A move finds
        that out by itself."""
        shared = [folder.path for folder in plan.folders if folder.mode == "shared"]
        if not shared or not plan.fits:
            return plan
        try:
            await self._require_same(session, plan, shared)
        except (Refused, Unreachable) as differ:
            return plan.model_copy(update={"fits": False, "refusals": (differ.message,), "hint": differ.hint})
        return plan

    async def _with_environment(self, session: Session, plan: MovePlan) -> MovePlan:
        """The plan, with what the target lacks of the session's environment. A move finds that out by itself, too."""
        there = self._roster.view(plan.target).capabilities.root_id if plan.fits else ""
        if not plan.fits or session.spec.image or there == self._home(session).capabilities.root_id:
            return plan
        try:
            layers = await self._questions.environment(plan.source, session.id)
            lacking = await self._questions.environment(plan.target, session.id, layers)
        except Refused as incomplete:
            return plan.model_copy(update={"fits": False, "refusals": (incomplete.message,), "hint": incomplete.hint})
        return plan.model_copy(update={"environment": lacking})

    async def _require_same(self, session: Session, plan: MovePlan, shared: list[str]) -> None:
        of, look = uuid.uuid4().hex, self._questions.look
        try:
            known = await look(plan.source, session, shared, of, "put")
            seen = await look(plan.target, session, shared, of, "look")
        finally:
            with suppress(SojournError):
                await look(plan.source, session, shared, of, "forget")
        require_same(known, f"node {plan.source}", seen, f"node {plan.target}")

    def _target(self, session: Session, home: NodeView, needs: Needs, inspection: Inspection, stock: Stock) -> NodeView:
        """Rather one that has the session's image. Raises why a node that was named won't do, or why none of the others
        does."""
        others = [node for node in self._roster.views() if node.name != home.name or needs.node == home.name]
        named = [node for node in others if node.name == needs.node and node.status is NodeStatus.ONLINE]
        for node in named:
            require_fit(session, home, node)
        stocked = [node for node in others if not stock.lacking(node.name)]
        with suppress(DoesNotFit):
            return choose(needs, stocked, memory_bytes=inspection.memory_bytes, unfit=partial(unfit, session, home))
        return choose(needs, others, memory_bytes=inspection.memory_bytes, unfit=partial(unfit, session, home))

    def _home(self, session: Session) -> NodeView:
        return self._roster.view(session.node)


def _stays(session: Session) -> MovePlan:
    return MovePlan(session=session.id, source=session.node, target=session.node)


def _plan(
    session: Session, target: str, inspection: Inspection, way: Outlook, refusal: SojournError | None
) -> MovePlan:
    return MovePlan(
        session=session.id,
        source=session.node,
        target=target,
        fits=refusal is None,
        refusals=(refusal.message,) if refusal else (),
        hint=refusal.hint if refusal else "",
        strategy=way.strategy,
        connections_reset=inspection.outside_connections,
        page_bytes=inspection.private_dirty_bytes,
        layer_bytes=inspection.layer_bytes,
        folders=inspection.folders,
        why=way.why,
        frozen_s=way.frozen_s,
        filled_s=way.filled_s,
    )


def _failure(session: Session, move: Move) -> SojournError:
    """What a node found out too late for the plan, but before the freeze, is still that it does not fit there."""
    error = from_wire(move.error or {})
    kind = type(error) if isinstance(error, DoesNotFit | Incompatible) else MoveFailed
    return kind(
        f"Session {session.name or session.id} could not move to {move.target}: {error.message}",
        f"{error.hint} It goes on at {move.source}.".strip(),
    )
