"""Nodes that leave and return, deadlines that pass, and a controller that was away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from sojourn import wire
from sojourn.errors import MoveFailed, SessionLost, Unreachable
from sojourn.lifecycle.ends import stopped
from sojourn.lifecycle.events import (
    ClockJumped,
    ControllerStarted,
    Decision,
    NodeDied,
    NodeLeft,
    NodeReturned,
    Tell,
    Tick,
)
from sojourn.lifecycle.moving import (
    done,
    filled,
    lose,
    release_source,
    roll_back,
    rolled_back,
    source_gone,
    stays,
    thawed,
)
from sojourn.lifecycle.state import Move, Session
from sojourn.lifecycle.steps import (
    Moment,
    abandon_arrival,
    depart,
    end,
    from_error,
    go_on_at_source,
    prepare_arrival,
    start_sandbox,
    unreachable,
    waiting,
    with_move,
)
from sojourn.model import MovePhase, MoveReport, SessionStatus
from sojourn.wire import Held


def _controller_started(s: Session, _: ControllerStarted, at: Moment) -> Decision:
    if s.ended:
        return s, []
    s = replace(s, away=s.nodes if s.moving else frozenset({s.node}))
    if s.status is SessionStatus.STARTING:
        return replace(s, deadline=at.after(at.limits.start_s)), []
    if s.status is SessionStatus.STOPPING:
        return replace(s, deadline=at.after(at.limits.answer_s)), []
    return waiting(s, at), []


def _left(s: Session, e: NodeLeft, at: Moment) -> Decision:
    if s.ended or e.node not in s.nodes:
        return s, []
    move = s.moving
    if move is None and e.node != s.node:
        return s, []
    s = replace(s, away=s.away | {e.node})
    if move and move.phase is MovePhase.PREPARING:
        return stays(s, at, unreachable(e.node))
    if move and move.phase is MovePhase.COMMITTING and e.node == move.source:
        return done(s, at), []
    return waiting(s, at), []


def _node_died(s: Session, e: NodeDied, at: Moment) -> Decision:
    move = s.moving
    reason = f"Node {e.node} has not answered for a long time."
    if s.status is SessionStatus.STOPPING:
        return stopped(s, e.node, wire.SandboxStopped(session=s.id, incarnation=s.incarnation), at)
    if s.ended:
        return s, []
    if s.status is SessionStatus.STARTING and e.node == s.node:
        return end(s, SessionStatus.FAILED, at, reason), []
    if move and e.node == move.source:
        return source_gone(s, at, reason)
    if move and e.node == move.target and move.phase in (MovePhase.DEPARTING, MovePhase.FILLING):
        return roll_back(s, at, unreachable(e.node), target_gone=True)
    if move and e.node == move.target and move.phase is MovePhase.ROLLING_BACK:
        return (s, []) if move.abandoned else release_source(s, at)
    return lose(s, at, reason) if e.node == s.node else (s, [])


def _returned(s: Session, e: NodeReturned, at: Moment) -> Decision:
    """Set what the node holds against what the law knows; each case ends as if nothing had been lost between."""
    s = replace(s, away=s.away - {e.node})
    held = {one.incarnation: one for one in e.held}
    if s.status is SessionStatus.STOPPING and not held:
        return stopped(s, e.node, wire.SandboxStopped(session=s.id, incarnation=s.incarnation), at)
    if s.status is SessionStatus.LOST:
        s, tells = _back_from_the_dead(s, e.node, held, at)
    elif s.moving and e.node == s.moving.target:
        s, tells = _target_returned(s, s.moving, held.pop(s.moving.incarnation, None), at)
    elif s.moving and e.node == s.moving.source:
        newest = held.pop(max(held, default=0), None)
        s, tells = _source_returned(s, s.moving, newest, at)
    elif e.node == s.node and not s.ended and s.status is not SessionStatus.STOPPING:
        s, tells = _home_returned(s, held.pop(s.incarnation, None), at)
    else:
        tells = []
    return s, [*tells, *dismissals(e.node, held.values())]


def dismissals(node: str, held: Iterable[Held]) -> list[Tell]:
    """What to tell a node that holds copies which no longer count."""
    return [Tell(node, _dismissal(one)) for one in held]


def _dismissal(one: Held) -> wire.Instruction:
    if one.move and one.state in ("arriving", "filling"):
        return wire.AbandonArrival(move=one.move, session=one.session)
    if one.move and one.state in ("departing", "departed"):
        return wire.CommitMove(move=one.move, session=one.session)
    return wire.StopSandbox(session=one.session, incarnation=one.incarnation)


def _home_returned(s: Session, one: Held | None, at: Moment) -> Decision:
    if s.status in (SessionStatus.PENDING, SessionStatus.STARTING):
        if one and one.state == "running":
            return replace(s, status=SessionStatus.RUNNING, deadline=None), []
        return s, [start_sandbox(s)]
    if one is None:
        return lose(s, at, f"Node {s.node} came back without it.")
    if one.state in ("departing", "departed") and s.move and one.move == s.move.id:
        return roll_back(s, at, from_error(s.move.error))
    return s, []


def _target_returned(s: Session, move: Move, one: Held | None, at: Moment) -> Decision:
    if move.phase is MovePhase.PREPARING:
        return waiting(s, at), [prepare_arrival(s, move)]
    if move.phase is MovePhase.COMMITTING:
        return (s, []) if one else lose(s, at, f"Node {move.target} came back without it.")
    if move.phase is MovePhase.ROLLING_BACK:
        if one and one.state in ("filling", "running"):
            s = with_move(s, thawed_at=at.now)
        # It answers in any case, and what it has to tell comes before its answer.
        return waiting(s, at), [abandon_arrival(s, move.id, move.target)] if one or not move.abandoned else []
    if one is None or (one.state == "arriving" and move.phase is MovePhase.FILLING):
        return roll_back(s, at, SessionLost(f"Node {move.target} came back without what had arrived."))
    known: dict[str, Any] = {"move": move.id, "session": s.id, "incarnation": move.incarnation, "report": MoveReport()}
    if one.state == "running":
        return filled(s, move.target, wire.SessionFilled(**known), at)
    if one.state == "filling":
        s, _ = thawed(s, move.target, wire.SessionThawed(**known), at)
    return waiting(s, at), []


def _source_returned(s: Session, move: Move, one: Held | None, at: Moment) -> Decision:
    if one is None:
        return source_gone(s, at, f"Node {move.source} came back without it.")
    if move.phase is MovePhase.COMMITTING:
        return s, [Tell(move.source, wire.CommitMove(move=move.id, session=s.id))]
    if move.phase is MovePhase.ROLLING_BACK:
        if not move.abandoned:
            return waiting(s, at), []
        back = wire.MoveRolledBack(move=move.id, session=s.id, incarnation=one.incarnation)
        settled, _ = rolled_back(s, move.source, back, at)
        return (settled, []) if settled is not s and one.state == "running" else (s, [go_on_at_source(s)])
    if one.state == "departed":
        return waiting(with_move(s, sent=True), at), []
    if one.state == "running" and move.phase is MovePhase.DEPARTING and not move.sent:
        return waiting(s, at), [depart(s, move)]
    if one.state == "running" and move.sent:
        return roll_back(s, at, MoveFailed(f"Node {move.source} went on by itself.", "Move again."))
    return waiting(s, at), []


def _back_from_the_dead(s: Session, node: str, held: dict[int, Held], at: Moment) -> Decision:
    one = held.get(s.incarnation) or (held.get(s.move.source_incarnation) if s.move else None)
    if node != s.node or one is None:
        return s, []
    if one.state == "running" and one.incarnation == s.incarnation:
        held.pop(one.incarnation)
        return replace(s, status=SessionStatus.RUNNING, reason="", ended_at=None), []
    if s.move and one.move == s.move.id and one.state in ("departing", "departed", "running"):
        held.pop(one.incarnation)
        s = replace(with_move(s, source_lost=""), ended_at=None)
        return roll_back(s, at, from_error(s.move.error if s.move else None))
    return s, []


def _tick(s: Session, _: Tick, at: Moment) -> Decision:
    if s.deadline is None or at.now < s.deadline:
        return s, []
    move = s.moving
    if s.status is SessionStatus.STARTING:
        late = f"Node {s.node} did not start it within {at.limits.start_s:.0f} s."
        return end(s, SessionStatus.FAILED, at, late), [
            Tell(s.node, wire.StopSandbox(session=s.id, incarnation=s.incarnation))
        ]
    if s.status is SessionStatus.STOPPING:
        return end(s, SessionStatus.STOPPED, at, f"{' and '.join(sorted(s.stopping))} did not confirm its end."), []
    return _move_late(s, move, at) if move else (replace(s, deadline=None), [])


def _clock_jumped(s: Session, e: ClockJumped, at: Moment) -> Decision:
    return (s if s.deadline is None else replace(s, deadline=s.deadline + e.seconds)), []


def _move_late(s: Session, move: Move, at: Moment) -> Decision:
    if move.phase is MovePhase.PREPARING:
        return stays(s, at, Unreachable(f"Node {move.target} was not prepared in time.", "Look at its agent's log."))
    if move.phase is MovePhase.COMMITTING:
        return done(s, at), [Tell(move.source, wire.CommitMove(move=move.id, session=s.id))]
    if move.phase is MovePhase.ROLLING_BACK:
        return release_source(s, at)
    if move.target in s.away:
        return roll_back(s, at, unreachable(move.target), target_gone=True)
    doing = "sent" if not move.sent else "filled" if move.phase is MovePhase.FILLING else "thawed"
    return roll_back(s, at, MoveFailed(f"The session was not {doing} in time.", "Look at the agents' logs."))


EVENTS: dict[type, Callable[..., Decision]] = {
    ControllerStarted: _controller_started,
    NodeLeft: _left,
    NodeReturned: _returned,
    NodeDied: _node_died,
    Tick: _tick,
    ClockJumped: _clock_jumped,
}
