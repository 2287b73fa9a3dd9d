"""Planning a move: what carries it and why, found out while the session runs and before anything is touched.

CRIU carries whatever it can: it loses nothing. Objects go where it can't, if nothing is lost without consent, or where
they are there in half its time and nothing is lost at all.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from sojourn.client.words import MoveRequest
from sojourn.controller.activity import Activities
from sojourn.controller.fitness import (
    Outlook,
    Require,
    is_estranged,
    outlook,
    require_fit,
    require_room_for_objects,
    require_sandboxed,
    unfit,
)
from sojourn.controller.images import Clock, Images, Stock
from sojourn.controller.questions import Questions
from sojourn.controller.roster import Roster
from sojourn.errors import Busy, DoesNotFit, Invalid, Refused, SojournError, Unreachable
from sojourn.lifecycle import Session, raise_unless_movable
from sojourn.model import (
    Carrier,
    Folder,
    Image,
    Inspection,
    Luggage,
    MovePlan,
    Needs,
    NodeStatus,
    NodeView,
    SessionStatus,
    Sight,
)
from sojourn.movers.luggage import (
    QUICK_S,
    Link,
    pause_by_objects,
    preference,
    require_consent,
    seconds_by_criu,
    seconds_by_objects,
)
from sojourn.placement import choose, needs_of, offers
from sojourn.sandbox.canary import is_same, require_same

_ALONE = 2
"""Processes of a session that has started none: its rider and its program."""


@dataclass(frozen=True)
class Prospect:
    """A plan, and the error it would be refused with."""

    plan: MovePlan
    refusal: SojournError | None = None
    lone: bool = False
    """Its program has started no other, which CRIU would carry and objects would not."""

    def refused(self, refusal: SojournError, *reasons: str) -> Prospect:
        """`reasons`: what it comes of; none: what the refusal says."""
        known = {"fits": False, "refusals": reasons or (refusal.message,), "hint": refusal.hint, "strategy": None}
        return replace(self, plan=self.plan.model_copy(update=known), refusal=refusal)


def carrier_of(asked: MoveRequest) -> Carrier | Literal["auto"]:
    """What is to carry it. Raises Invalid where one wish contradicts another."""
    of_strategy: Carrier | Literal["auto"] = (
        "auto" if asked.strategy == "auto" else "objects" if asked.strategy == "objects" else "criu"
    )
    if "auto" not in (asked.carrier, of_strategy) and asked.carrier != of_strategy:
        raise Invalid(
            f"Strategy {asked.strategy} is not one of {asked.carrier}'s.",
            "Choose the one or the other: lazy and copy are CRIU's, and objects have no other.",
        )
    carrier = of_strategy if asked.carrier == "auto" else asked.carrier
    if asked.may_lose and carrier == "criu":
        raise Invalid("CRIU loses no names, so none can be given up.", "Move as objects, or leave out what to drop.")
    return carrier


class Plans:
    def __init__(
        self, roster: Roster, questions: Questions, images: Images, activities: Activities, clock: Clock
    ) -> None:
        self._roster, self._questions, self._images = roster, questions, images
        self._activities, self._clock = activities, clock

    async def prospect(self, session: Session, asked: MoveRequest, in_cell: bool = False) -> Prospect:
        """What a move would do. `in_cell`: the session asks, in a cell of its own, so that its objects can't be looked
        at before that has ended. Raises Unknown, Invalid, Busy, Unreachable: then there is nothing to plan."""
        carrier = carrier_of(asked)
        needs = needs_of(asked.to, self._roster.views())
        if session.status is SessionStatus.RUNNING and needs.node == session.node and offers(self.home(session), needs):
            return Prospect(_stays(session))
        raise_unless_movable(session, self._clock())
        if carrier == "objects":
            return await self._as_objects(session, needs, asked.may_lose, in_cell)
        by_criu = await self._by_criu(session, needs, asked)
        if carrier == "criu" or by_criu.plan.source == by_criu.plan.target:
            return by_criu
        if by_criu.refusal:
            return await self._instead(session, needs, asked.may_lose, in_cell, by_criu, by_criu.refusal)
        return await self._quicker(session, by_criu, in_cell)

    def home(self, session: Session) -> NodeView:
        return self._roster.view(session.node)

    # ── by CRIU ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _by_criu(self, session: Session, needs: Needs, asked: MoveRequest) -> Prospect:
        home = self.home(session)
        try:
            require_sandboxed(session, home)
        except Refused as plain:
            memory_bytes = self._memory_of(session)
            if offers(home, needs, own_memory_bytes=memory_bytes):
                return Prospect(_stays(session))
            return Prospect(_plan(session, needs.node or "")).refused(plain)
        inspection = await self._questions.inspect(session.node, session.id)
        if offers(home, needs, own_memory_bytes=inspection.memory_bytes):
            return Prospect(_stays(session))
        stock = await self._images.stock_of(session.spec)
        try:
            target = self._target(session, home, needs, inspection.memory_bytes, stock, require_fit)
            image = self._images.missing(session, target.name, stock)
        except (Refused, Unreachable) as nowhere:
            return Prospect(_by_criu(session, needs.node or "", inspection, Outlook())).refused(nowhere)
        strategy = None if asked.strategy == "auto" else asked.strategy
        way = outlook(home, target, inspection, strategy)
        plan = _by_criu(session, target.name, inspection, way).model_copy(update=_ahead(session, target, image))
        prospect = Prospect(plan, lone=inspection.processes <= _ALONE)
        return prospect.refused(way.refusal) if way.refusal else prospect

    # ── as objects ───────────────────────────────────────────────────────────────────────────────────────────

    async def _as_objects(self, session: Session, needs: Needs, may_lose: tuple[str, ...], in_cell: bool) -> Prospect:
        """Needs no inspection: plain processes, and nodes that are not Linux, have none."""
        home, memory_bytes = self.home(session), self._memory_of(session)
        if offers(home, needs, own_memory_bytes=memory_bytes):
            return Prospect(_stays(session))
        stock = await self._images.stock_of(session.spec)
        choosing = partial(self._target, session, home, needs, stock=stock, require=require_room_for_objects)
        plan = _plan(session, needs.node or "")
        try:
            target = choosing(memory_bytes=memory_bytes)
            if in_cell:
                return Prospect(self._by_objects(session, target, None, stock, "as asked"))
            luggage = await self._questions.luggage(session.node, session.id)
            plan = plan.model_copy(update={"luggage": luggage})
            target = choosing(memory_bytes=max(memory_bytes, luggage.size_bytes))
            plan = self._by_objects(session, target, luggage, stock, "as asked")
            require_consent(session.name or session.id, luggage, may_lose)
        except Busy:
            raise
        except (Refused, Unreachable) as refusal:
            return Prospect(plan).refused(refusal)
        return Prospect(plan)

    def _by_objects(
        self, session: Session, target: NodeView, luggage: Luggage | None, stock: Stock, why: str
    ) -> MovePlan:
        """Raises Incompatible when the target can't have the session's image."""
        image = self._images.missing(session, target.name, stock)
        link = self._link(session, target)
        known = {
            "strategy": "objects",
            "why": why,
            "luggage": luggage,
            "frozen_s": pause_by_objects(luggage, link) if luggage else None,
            "filled_s": 0.0,
            "folders": _folders(session),
        }
        return _plan(session, target.name).model_copy(update={**known, **_ahead(session, target, image)})

    # ── either ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _instead(
        self,
        session: Session,
        needs: Needs,
        may_lose: tuple[str, ...],
        in_cell: bool,
        by_criu: Prospect,
        refusal: SojournError,
    ) -> Prospect:
        """As objects, for CRIU can't. If they can't go either, both reasons are told."""
        try:
            found = await self._as_objects(session, needs, may_lose, in_cell)
        except Busy as busy:
            raise Busy(f"{refusal.message} As objects: {busy.message}", busy.hint) from busy
        if found.refusal is None:
            why = f"CRIU can't: {refusal.message.removesuffix('.')}{self._about(session, found.plan)}"
            return replace(found, plan=found.plan.model_copy(update={"why": why}))
        if isinstance(found.refusal, DoesNotFit | Unreachable) and found.plan.luggage is None:
            return by_criu  # there is no place for it, whatever carries it; or nobody who could say what it holds
        one, other = refusal.message, found.refusal.message
        both = type(refusal)(f"{one} {other}", f"{found.refusal.hint} {refusal.hint}".strip())
        plan = by_criu.plan.model_copy(update={"luggage": found.plan.luggage})
        return replace(by_criu, plan=plan).refused(both, one, other)

    async def _quicker(self, session: Session, by_criu: Prospect, in_cell: bool) -> Prospect:
        """Of two ways that can be gone. The kernel is asked only where that may be worth it."""
        target = self._roster.view(by_criu.plan.target)
        link = self._link(session, target)
        takes_s = seconds_by_criu(by_criu.plan, link)
        if takes_s <= QUICK_S or in_cell or not self._comparable(session, target, by_criu):
            return _because(by_criu, f"CRIU carries everything, in about {takes_s:.1f} s")
        try:
            luggage = await self._questions.luggage(session.node, session.id)
        except SojournError:  # it runs a cell, or is no Python kernel
            return _because(by_criu, f"CRIU carries everything, in about {takes_s:.1f} s")
        better, why = preference(by_criu.plan, luggage, link)
        if not better or not (await self._looked_at(session, by_criu.plan)).fits:
            return _because(by_criu, why, luggage)
        stock = await self._images.stock_of(session.spec)
        return Prospect(self._by_objects(session, target, luggage, stock, why))

    def _comparable(self, session: Session, target: NodeView, by_criu: Prospect) -> bool:
        """Whether a new kernel would find there what this one has: the same Python. Other processes it would not."""
        activity = self._activities.of(session.id)
        at_home = session.spec.image is not None or not is_estranged(self.home(session), target)
        return by_criu.lone and at_home and not (activity and activity.executing)

    def _about(self, session: Session, plan: MovePlan) -> str:
        """How long it takes, where that is known."""
        if plan.luggage is None:
            return ""
        link = self._link(session, self._roster.view(plan.target))
        return f"; as objects it is there in about {seconds_by_objects(plan.luggage, link):.1f} s"

    # ── places ───────────────────────────────────────────────────────────────────────────────────────────────

    def _target(
        self, session: Session, home: NodeView, needs: Needs, memory_bytes: int, stock: Stock, require: Require
    ) -> NodeView:
        """Rather one that has the session's image. Raises why a node that was named won't do, or why none of the others
        does."""
        others = [node for node in self._roster.views() if node.name != home.name or needs.node == home.name]
        named = [node for node in others if node.name == needs.node and node.status is NodeStatus.ONLINE]
        for node in named:
            require(session, home, node)
        stocked = [node for node in others if not stock.lacking(node.name)]
        why_not = partial(unfit, session, home, require=require)
        with suppress(DoesNotFit):
            return choose(needs, stocked, memory_bytes=memory_bytes, unfit=why_not)
        return choose(needs, others, memory_bytes=memory_bytes, unfit=why_not)

    def _memory_of(self, session: Session) -> int:
        """As its node counts it: bytes; 0 where it can't."""
        return next((load.memory_bytes for load in self.home(session).load.used if load.session == session.id), 0)

    def _link(self, session: Session, target: NodeView) -> Link:
        home = self.home(session)
        return Link.between(home.capabilities, target.capabilities, home.load.save_bytes_per_s)

    # ── what is found out for a dry run alone ────────────────────────────────────────────────────────────────

    async def in_full(self, session: Session, plan: MovePlan) -> MovePlan:
        """With what a move finds out by itself."""
        if plan.strategy == "objects":
            return await self._left_behind(session, plan)
        return await self._with_environment(session, await self._looked_at(session, plan))

    async def _left_behind(self, session: Session, plan: MovePlan) -> MovePlan:
        """Objects take no folders along: those that are not the very same there are left."""
        shared = [folder.path for folder in plan.folders if folder.mode == "shared"]
        known, seen = await self._sights(session, plan, shared) if shared else ({}, {})
        same = {path for path in shared if path in known and path in seen and is_same(known[path], seen[path])}
        folders = tuple(Folder(path=one.path, mode="shared" if one.path in same else "left") for one in plan.folders)
        return plan.model_copy(update={"folders": folders})

    async def _looked_at(self, session: Session, plan: MovePlan) -> MovePlan:
        """The plan, once it is known whether the folders that the session shares are the target's too."""
        shared = [folder.path for folder in plan.folders if folder.mode == "shared"]
        if not shared or not plan.fits:
            return plan
        try:
            await self._require_same(session, plan, shared)
        except (Refused, Unreachable) as differ:
            return plan.model_copy(update={"fits": False, "refusals": (differ.message,), "hint": differ.hint})
        return plan

    async def _with_environment(self, session: Session, plan: MovePlan) -> MovePlan:
        """The plan, with what the target lacks of the session's environment."""
        if not plan.fits or session.spec.image or plan.strategy == "objects":
            return plan
        if not is_estranged(self.home(session), self._roster.view(plan.target)):
            return plan
        try:
            layers = await self._questions.environment(plan.source, session.id)
            lacking = await self._questions.environment(plan.target, session.id, layers)
        except Refused as incomplete:
            return plan.model_copy(update={"fits": False, "refusals": (incomplete.message,), "hint": incomplete.hint})
        return plan.model_copy(update={"environment": lacking})

    async def _require_same(self, session: Session, plan: MovePlan, shared: list[str]) -> None:
        known, seen = await self._sights(session, plan, shared)
        require_same(known, f"node {plan.source}", seen, f"node {plan.target}")

    async def _sights(
        self, session: Session, plan: MovePlan, shared: list[str]
    ) -> tuple[dict[str, Sight], dict[str, Sight]]:
        """What the source, and what the target, sees of these folders."""
        of, look = uuid.uuid4().hex, self._questions.look
        try:
            known = await look(plan.source, session, shared, of, "put")
            return known, await look(plan.target, session, shared, of, "look")
        finally:
            with suppress(SojournError):
                await look(plan.source, session, shared, of, "forget")


def _stays(session: Session) -> MovePlan:
    return MovePlan(session=session.id, source=session.node, target=session.node)


def _plan(session: Session, target: str) -> MovePlan:
    return MovePlan(session=session.id, source=session.node, target=target)


def _by_criu(session: Session, target: str, inspection: Inspection, way: Outlook) -> MovePlan:
    known = {
        "strategy": way.strategy,
        "connections_reset": inspection.outside_connections,
        "page_bytes": inspection.private_dirty_bytes,
        "layer_bytes": inspection.layer_bytes,
        "folders": inspection.folders,
        "why": way.why,
        "frozen_s": way.frozen_s,
        "filled_s": way.filled_s,
    }
    return _plan(session, target).model_copy(update=known)


def _ahead(session: Session, target: NodeView, image: Image | None) -> dict[str, object]:
    """What goes ahead, and what there is not at the target."""
    lacks = {"image": session.spec.image, "image_bytes": image.size_bytes} if image else {}
    return {"no_network": target.capabilities.refusals.get("network", ""), **lacks}


def _folders(session: Session) -> tuple[Folder, ...]:
    """A plain process sees its node's own, whatever was said of them."""
    mounts = session.spec.mounts if session.sandbox == "runc" else ()
    return tuple(Folder(path=mount.path, mode=mount.mode) for mount in mounts)


def _because(prospect: Prospect, why: str, luggage: Luggage | None = None) -> Prospect:
    known = {"why": f"{prospect.plan.why}; {why}" if prospect.plan.why else why, "luggage": luggage}
    return replace(prospect, plan=prospect.plan.model_copy(update=known))
