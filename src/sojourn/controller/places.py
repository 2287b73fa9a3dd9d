"""From what the law says to what a node can act on: places get an address and a ticket signed for that node, saves and
wakes what opens the store."""

from __future__ import annotations

import uuid

from sojourn.controller.roster import Roster
from sojourn.lifecycle import Berth, DepartTo, SaveTo, WakeFrom
from sojourn.model import NodeView, Place, SessionSpec, StorePass
from sojourn.tickets import sign
from sojourn.wire import Depart, SaveSession, SendEnvironment, WakeSession

TICKET_SECONDS = 3600.0
"""A ticket is good for at least so long, and at most half as long again."""


def place(roster: Roster, session: str, berth: Berth | None, anchor: str | None, now: float) -> Place | None:
    """None also for a watcher without an anchor."""
    node = roster.get(berth.node) if berth else None
    if berth is None or node is None or anchor is None:
        return None
    claims = {
        "for": "tunnel",
        "session": session,
        "incarnation": berth.incarnation,
        "epoch": berth.epoch,
        "anchor": anchor,
    }
    return Place(
        node=berth.node,
        address=node.view.address or "",
        ticket=sign(claims, node.key, expiry(now)),
        incarnation=berth.incarnation,
        epoch=berth.epoch,
        authority=roster.authority,
    )


def depart(roster: Roster, wanted: DepartTo, now: float) -> Depart:
    """The law's wish with what the source needs to dial the target."""
    node = roster.node(wanted.target)
    claims = {"for": "move", "move": wanted.move, "session": wanted.session, "incarnation": wanted.incarnation}
    return Depart(
        move=wanted.move,
        session=wanted.session,
        incarnation=wanted.incarnation,
        strategy=wanted.strategy,
        target=wanted.target,
        address=node.view.address or "",
        ticket=sign(claims, node.key, expiry(now)),
        may_lose=wanted.may_lose,
    )


def environment(roster: Roster, target: NodeView, spec: SessionSpec, now: float) -> SendEnvironment:
    """With what its home needs to bring a session's environment to where it is to start. Of what is the session's own,
    as its key, its home learns nothing."""
    request, key = uuid.uuid4().hex, roster.node(target.name).key
    path = {name: value for name, value in spec.program.env.items() if name == "PATH"}
    told = {"files": {}, "program": spec.program.model_copy(update={"env": path})}
    return SendEnvironment(
        request=request,
        spec=spec.model_copy(update=told),
        target=target.name,
        address=target.address or "",
        ticket=sign({"for": "environment", "request": request}, key, expiry(now)),
        authority=roster.authority,
    )


def save(wanted: SaveTo, store: StorePass) -> SaveSession:
    return SaveSession(
        save=wanted.save, session=wanted.session, incarnation=wanted.incarnation, keep=wanted.keep, store=store
    )


def wake(wanted: WakeFrom, store: StorePass) -> WakeSession:
    return WakeSession(
        wake=wanted.wake,
        session=wanted.session,
        incarnation=wanted.incarnation,
        epoch=wanted.epoch,
        checkpoint=wanted.checkpoint,
        store=store,
        spec=wanted.spec,
    )


def expiry(now: float) -> float:
    """The same for a while, so that a place told twice is the same place."""
    step = TICKET_SECONDS / 2
    return (now // step + 3) * step
