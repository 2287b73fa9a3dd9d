"""The small steps that the law's decisions are made of: deadlines, changes of state, instructions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sojourn import wire
from sojourn.errors import DoesNotFit, Incompatible, MoveFailed, SojournError, from_wire
from sojourn.lifecycle.events import DepartTo, SaveTo, Tell, WakeFrom
from sojourn.lifecycle.state import Limits, Move, Save, Session, Wake, arrival_epoch
from sojourn.model import MovePhase, SavePhase, SessionStatus, WakePhase


@dataclass(frozen=True)
class Moment:
    now: float
    limits: Limits = field(default_factory=Limits)

    def after(self, seconds: float) -> float:
        return self.now + seconds


def waiting(s: Session, at: Moment) -> Session:
    """The session with the deadline of what it waits for now; None: for a node to return or to be declared dead."""
    if s.moving:
        return replace(s, deadline=_move_deadline(s, s.moving, at))
    if s.saving:
        return replace(s, deadline=_save_deadline(s, s.saving, at))
    return replace(s, deadline=_wake_deadline(s, s.waking, at)) if s.waking else s


def _move_deadline(s: Session, move: Move, at: Moment) -> float | None:
    limits = at.limits
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


def _save_deadline(s: Session, save: Save, at: Moment) -> float | None:
    if save.phase is SavePhase.RELEASING:
        return at.after(at.limits.answer_s)
    if save.node in s.away:
        return None
    return at.after(at.limits.answer_s if save.phase is SavePhase.ROLLING_BACK else at.limits.save_s)


def _wake_deadline(s: Session, wake: Wake, at: Moment) -> float | None:
    away, limits = wake.node in s.away, at.limits
    if wake.phase is WakePhase.FILLING:
        # It runs, and may be well: to give it up would cost what was done since.
        return None if away else at.after(limits.fill_s)
    if away:
        return at.after(limits.fence_s)
    return at.after(limits.answer_s if wake.phase is WakePhase.ABANDONING else limits.wake_s)


def end(s: Session, status: SessionStatus, at: Moment, reason: str = "") -> Session:
    ended = replace(s, status=status, reason=reason or s.reason, deadline=None, ended_at=at.now)
    return replace(ended, away=frozenset(), stopping=frozenset(), checkpoint=None, exact=False)


def with_move(s: Session, **changes: Any) -> Session:
    assert s.move
    return replace(s, move=replace(s.move, **changes))


def with_save(s: Session, **changes: Any) -> Session:
    assert s.save
    return replace(s, save=replace(s.save, **changes))


def with_wake(s: Session, **changes: Any) -> Session:
    assert s.wake
    return replace(s, wake=replace(s.wake, **changes))


def move_of(s: Session, move: str, node: str, side: Literal["source", "target"] | None = None) -> Move | None:
    """The move under way, if it is this one and the node has that part in it."""
    now = s.moving
    if now is None or now.id != move:
        return None
    sides = {"source": now.source, "target": now.target}
    return now if node in ([sides[side]] if side else sides.values()) else None


def failed_move(move: Move, at: Moment, error: SojournError) -> Move:
    return replace(move, phase=MovePhase.FAILED, error=move.error or error.to_wire(), ended_at=at.now)


def failed_save(save: Save, at: Moment, error: SojournError) -> Save:
    """Over without a checkpoint; one that is whole all the same stays so."""
    phase = SavePhase.DONE if save.saved else SavePhase.FAILED
    return replace(save, phase=phase, error=save.error or error.to_wire(), ended_at=at.now)


def failed_wake(wake: Wake, at: Moment, error: SojournError) -> Wake:
    return replace(wake, phase=WakePhase.FAILED, error=wake.error or error.to_wire(), ended_at=at.now)


def from_error(error: dict[str, str] | None) -> SojournError:
    """The error as a MoveFailed that keeps what was said; that a node won't do stays what it is, so that another one is
    tried."""
    error = error or {}
    said = from_wire(error)
    kind = type(said) if isinstance(said, DoesNotFit | Incompatible) else MoveFailed
    return kind(error.get("message", "The move failed."), error.get("hint", ""))


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
        epoch=arrival_epoch(s, move),
        strategy=move.strategy,
        spec=s.spec,
    )
    return Tell(move.target, arrival)


def depart(s: Session, move: Move) -> Tell:
    may_lose = move.report.may_lose
    return Tell(move.source, DepartTo(move.id, s.id, move.incarnation, move.strategy, move.target, may_lose))


def abandon_arrival(s: Session, move: str, node: str) -> Tell:
    return Tell(node, wire.AbandonArrival(move=move, session=s.id))


def go_on_at_source(s: Session) -> Tell:
    assert s.move
    return go_on(s, s.move.id, s.move.source)


def go_on(s: Session, move: str, node: str) -> Tell:
    """To whoever stands frozen for this move or save."""
    return Tell(node, wire.RollBackMove(move=move, session=s.id, incarnation=s.incarnation, epoch=s.epoch))


def commit(s: Session, move: str, node: str) -> Tell:
    return Tell(node, wire.CommitMove(move=move, session=s.id))


def save_to(s: Session, save: Save) -> Tell:
    return Tell(save.node, SaveTo(save.id, s.id, save.incarnation, save.keep))


def wake_from(s: Session, wake: Wake) -> Tell:
    return Tell(wake.node, WakeFrom(wake.id, s.id, wake.incarnation, s.epoch, wake.checkpoint, s.spec))
