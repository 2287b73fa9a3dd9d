"""What people, and sessions themselves, want."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sojourn.errors import Busy, MoveFailed, Refused, SessionLost, Unreachable
from sojourn.lifecycle.ends import stop
from sojourn.lifecycle.events import Decision, MoveCancelled, MoveWanted, SessionWanted, StopWanted
from sojourn.lifecycle.moving import roll_back, stays
from sojourn.lifecycle.state import Move, Session
from sojourn.lifecycle.steps import Moment, end, prepare_arrival, start_sandbox, waiting
from sojourn.model import MovePhase, MoveReport, SessionStatus


def _wanted(s: Session, _: SessionWanted, at: Moment) -> Decision:
    if s.status is not SessionStatus.PENDING:
        return s, []
    return replace(s, status=SessionStatus.STARTING, deadline=at.after(at.limits.start_s)), [start_sandbox(s)]


def _stop_wanted(s: Session, _: StopWanted, at: Moment) -> Decision:
    if s.status in (SessionStatus.STOPPED, SessionStatus.FAILED, SessionStatus.STOPPING):
        return s, []
    stopping, tells = stop(s, at)
    # Whoever comes back with a lost session is told to stop it then.
    return (end(s, SessionStatus.STOPPED, at), tells) if s.status is SessionStatus.LOST else (stopping, tells)


def _move_wanted(s: Session, e: MoveWanted, at: Moment) -> Decision:
    raise_unless_movable(s, at.now)
    if e.target == s.node:
        return s, []
    move = Move(
        id=e.move,
        source=s.node,
        target=e.target,
        strategy=e.strategy,
        source_incarnation=s.incarnation,
        incarnation=s.issued + 1,
        started_at=at.now,
        report=MoveReport(connections_reset=e.connections_reset),
    )
    s = replace(s, status=SessionStatus.MOVING, reason="", issued=s.issued + 1, move=move)
    return waiting(s, at), [prepare_arrival(s, move)]


def raise_unless_movable(s: Session, now: float) -> None:
    """Raises SessionLost, Refused or Busy (with the time to wait, where it is known)."""
    name = s.name or s.id
    if s.status is SessionStatus.LOST:
        raise SessionLost(f"Session {name} is lost: {s.reason}", "Start a new one.")
    if s.ended or s.status is SessionStatus.STOPPING:
        raise Refused(f"Session {name} is {s.status}; there is nothing to move.", "Start a new one.")
    if move := s.moving:
        eta = move.eta_s(now)
        wait = f"Try again in about {max(eta, 1):.0f} s." if eta is not None else "Wait until that move has ended."
        doing = "still receives its last pages from" if s.status is SessionStatus.FILLING else "is on its way from"
        raise Busy(f"Session {name} {doing} {move.source} to {move.target}.", wait)
    if s.status is not SessionStatus.RUNNING:
        raise Busy(f"Session {name} is still {s.status}.", "Wait until it runs.")
    if s.away:
        raise Unreachable(f"Node {s.node}, which holds session {name}, does not answer.", "Wait until it is back.")


def _move_cancelled(s: Session, e: MoveCancelled, at: Moment) -> Decision:
    move = s.moving
    if move is None or move.id != e.move:
        return s, []
    cancelled = MoveFailed("The move was cancelled.", "Move again whenever you like.")
    if move.phase is MovePhase.PREPARING:
        return stays(s, at, cancelled)
    if move.phase is MovePhase.DEPARTING and not move.sent:
        return roll_back(s, at, cancelled)
    if move.phase is MovePhase.ROLLING_BACK:
        return s, []
    raise Busy(f"Session {s.name or s.id} has already left {move.source}.", "Move it back when it is there.")


EVENTS: dict[type, Callable[..., Decision]] = {
    SessionWanted: _wanted,
    StopWanted: _stop_wanted,
    MoveWanted: _move_wanted,
    MoveCancelled: _move_cancelled,
}
