"""The small steps that the law's decisions are made of: deadlines, changes of state, instructions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sojourn import wire
from sojourn.errors import MoveFailed, SojournError
from sojourn.lifecycle.events import DepartTo, Tell
from sojourn.lifecycle.state import Limits, Move, Session
from sojourn.model import MovePhase, SessionStatus


@dataclass(frozen=True)
class Moment:
    now: float
    limits: Limits = field(default_factory=Limits)

    def after(self, seconds: float) -> float:
        return self.now + seconds


def waiting(s: Session, at: Moment) -> Session:
    """The session with the deadline of what it waits for now; None: for a node to return or to be declared dead."""
    return replace(s, deadline=_deadline(s, at)) if s.moving else s


def _deadline(s: Session, at: Moment) -> float | None:
    move, limits = s.moving, at.limits
    assert move
    target_away, source_away = move.target in s.away, move.source in s.away
    if move.phase is MovePhase.PREPARING:
        return at.after(limits.prepare_s)
    if move.phase is MovePhase.COMMITTING:
        return at.after(limits.answer_s)
    if move.abandoned:
        return None
    if move.source_lost:
        return None if target_away else at.after(limits.fence_s)
    if source_away and move.phase is not MovePhase.ROLLING_BACK:
        return None
    if target_away:
        return at.after(limits.fence_s)
    if move.phase is MovePhase.ROLLING_BACK:
        return at.after(limits.answer_s)
    if move.phase is MovePhase.FILLING:
        return at.after(limits.fill_s)
    return at.after(limits.thaw_s if move.sent else limits.send_s)


def end(s: Session, status: SessionStatus, at: Moment, reason: str = "") -> Session:
    ended = replace(s, status=status, reason=reason or s.reason, deadline=None, ended_at=at.now)
    return replace(ended, away=frozenset(), stopping=frozenset())


def with_move(s: Session, **changes: Any) -> Session:
    assert s.move
    return replace(s, move=replace(s.move, **changes))


def move_of(s: Session, move: str, node: str, side: Literal["source", "target"] | None = None) -> Move | None:
    """The move under way, if it is this one and the node has that part in it."""
    now = s.moving
    if now is None or now.id != move:
        return None
    sides = {"source": now.source, "target": now.target}
    return now if node in ([sides[side]] if side else sides.values()) else None


def failed_move(move: Move, at: Moment, error: SojournError) -> Move:
    return replace(move, phase=MovePhase.FAILED, error=move.error or error.to_wire(), ended_at=at.now)


def from_error(error: dict[str, str] | None) -> SojournError:
    """The error as a MoveFailed that keeps what was said."""
    error = error or {}
    return MoveFailed(error.get("message", "The move failed."), error.get("hint", ""))


def unreachable(node: str) -> SojournError:
    return MoveFailed(f"Node {node} can't be reached.", "Look whether its agent runs, then move again.")


def told(move: Move, error: SojournError) -> str:
    return f"The move to {move.target} failed: {error.message}"


def start_sandbox(s: Session) -> Tell:
    start = wire.StartSandbox(session=s.id, incarnation=s.incarnation, epoch=s.epoch, spec=s.spec)
    return Tell(s.node, start)


def prepare_arrival(s: Session, move: Move) -> Tell:
    arrival = wire.PrepareArrival(
        move=move.id,
        session=s.id,
        incarnation=move.incarnation,
        epoch=s.epoch,
        strategy=move.strategy,
        spec=s.spec,
    )
    return Tell(move.target, arrival)


def depart(s: Session, move: Move) -> Tell:
    return Tell(move.source, DepartTo(move.id, s.id, move.incarnation, move.strategy, move.target))


def abandon_arrival(s: Session, move: str, node: str) -> Tell:
    return Tell(node, wire.AbandonArrival(move=move, session=s.id))


def go_on_at_source(s: Session) -> Tell:
    assert s.move
    back = wire.RollBackMove(move=s.move.id, session=s.id, incarnation=s.incarnation, epoch=s.epoch)
    return Tell(s.move.source, back)
