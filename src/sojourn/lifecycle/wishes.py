"""What people, and sessions themselves, want."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sojourn import wire
from sojourn.errors import Busy, MoveFailed, Refused, SessionLost, Unknown, Unreachable
from sojourn.lifecycle import sleeping, waking
from sojourn.lifecycle.checkpoints import find, nearest
from sojourn.lifecycle.ends import stop
from sojourn.lifecycle.events import (
    CheckpointWanted,
    Decision,
    MoveCancelled,
    MoveWanted,
    RestoreWanted,
    ResumeWanted,
    SessionWanted,
    StopWanted,
    SuspendWanted,
    Tell,
)
from sojourn.lifecycle.moving import roll_back, stays
from sojourn.lifecycle.state import Move, Save, Session
from sojourn.lifecycle.steps import Moment, end, prepare_arrival, start_sandbox, waiting
from sojourn.model import MovePhase, MoveReport, SavePhase, SessionSpec, SessionStatus, WakePhase


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
        report=MoveReport(connections_reset=e.connections_reset, shipments=e.shipments, may_lose=e.may_lose),
    )
    spec = _roomier(s.spec, e.memory_bytes)
    s = replace(s, status=SessionStatus.MOVING, reason="", issued=s.issued + 1, move=move, spec=spec)
    return waiting(s, at), [prepare_arrival(s, move)]


def _roomier(spec: SessionSpec, memory_bytes: int) -> SessionSpec:
    """A limit that the session was given may only grow; one that it was not given stays away."""
    if not 0 < spec.needs.memory_bytes < memory_bytes:
        return spec
    return spec.model_copy(update={"needs": spec.needs.model_copy(update={"memory_bytes": memory_bytes})})


def raise_unless_at_rest(s: Session, now: float, wanted: str) -> None:
    """It runs where it can be reached, and nothing is under way. `wanted`: a participle, "moved".

    Raises SessionLost, Refused, Unreachable or Busy (with the time to wait, where it is known).
    """
    name = s.name or s.id
    if s.status is SessionStatus.SUSPENDED:
        raise Refused(f"Session {name} sleeps; it can't be {wanted}.", f"`sojourn resume {name}` wakes it.")
    raise_unless_free(s, now, wanted)
    if s.status is not SessionStatus.RUNNING:
        raise Busy(f"Session {name} is still {s.status}.", "Wait until it runs.")
    if s.away:
        raise Unreachable(f"Node {s.node}, which holds session {name}, does not answer.", "Wait until it is back.")


def raise_unless_free(s: Session, now: float, wanted: str) -> None:
    """It has not ended, and nothing is under way. Raises SessionLost, Refused or Busy."""
    name = s.name or s.id
    if s.status is SessionStatus.LOST:
        raise SessionLost(f"Session {name} is lost: {s.reason}", "Start a new one.")
    if s.ended or s.status is SessionStatus.STOPPING:
        raise Refused(f"Session {name} is {s.status}; there is nothing to be {wanted}.", "Start a new one.")
    if move := s.moving:
        doing = "still receives its last pages from" if s.status is SessionStatus.FILLING else "is on its way from"
        raise Busy(f"Session {name} {doing} {move.source} to {move.target}.", _wait(move.eta_s(now), "that move"))
    if (save := s.saving) and save.phase is not SavePhase.RELEASING:
        raise Busy(f"Session {name} is being saved on {save.node}.", _wait(save.eta_s(now), "that save"))
    if wake := s.waking:
        doing = "still receives its last pages on" if wake.phase is WakePhase.FILLING else "is being woken on"
        raise Busy(f"Session {name} {doing} {wake.node}.", _wait(wake.eta_s(now), "that wake"))


def _wait(eta_s: float | None, what: str) -> str:
    return f"Try again in about {max(eta_s, 1):.0f} s." if eta_s is not None else f"Wait until {what} has ended."


def raise_unless_movable(s: Session, now: float) -> None:
    """Raises SessionLost, Refused, Unreachable or Busy (with the time to wait, where it is known)."""
    raise_unless_at_rest(s, now, "moved")


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


# ── sleep ────────────────────────────────────────────────────────────────────────────────────────────────────


def _suspend_wanted(s: Session, e: SuspendWanted, at: Moment) -> Decision:
    if s.status is SessionStatus.SUSPENDED:
        return s, []
    raise_unless_at_rest(s, at.now, "suspended")
    save = Save(e.save, "suspend", "", s.node, s.incarnation, keep=False, started_at=at.now)
    return sleeping.begin(s, save, at)


def _checkpoint_wanted(s: Session, e: CheckpointWanted, at: Moment) -> Decision:
    raise_unless_at_rest(s, at.now, "saved")
    save = Save(e.save, e.kind, e.name, s.node, s.incarnation, keep=True, started_at=at.now)
    return sleeping.begin(s, save, at)


def _resume_wanted(s: Session, e: ResumeWanted, at: Moment) -> Decision:
    """Whoever is awake already, or about to be, has been given what was wanted."""
    if s.status in _AWAKE or (s.waking and s.waking.phase is WakePhase.WAKING):
        return s, []
    raise_unless_free(s, at.now, "resumed")
    assert s.checkpoint
    return waking.begin(s, e.wake, s.checkpoint, e.node, s.exact, at)


_AWAKE = frozenset(
    {
        SessionStatus.PENDING,
        SessionStatus.STARTING,
        SessionStatus.RUNNING,
        SessionStatus.MOVING,
        SessionStatus.FILLING,
    }
)


def _restore_wanted(s: Session, e: RestoreWanted, at: Moment) -> Decision:
    if s.status is SessionStatus.SUSPENDED:
        raise_unless_free(s, at.now, "restored")
    else:
        raise_unless_at_rest(s, at.now, "restored")
    kept = find(s, e.checkpoint)
    if kept is None:
        raise Unknown(
            f"Session {s.name or s.id} has no checkpoint {e.checkpoint}.", "`sojourn checkpoints` lists them."
        )
    running = [] if s.asleep else [Tell(s.node, wire.StopSandbox(session=s.id, incarnation=s.incarnation))]
    s, tells = waking.begin(nearest(s, kept), e.wake, e.checkpoint, e.node, False, at)
    return s, [*running, *tells]


EVENTS: dict[type, Callable[..., Decision]] = {
    SessionWanted: _wanted,
    StopWanted: _stop_wanted,
    MoveWanted: _move_wanted,
    MoveCancelled: _move_cancelled,
    SuspendWanted: _suspend_wanted,
    CheckpointWanted: _checkpoint_wanted,
    ResumeWanted: _resume_wanted,
    RestoreWanted: _restore_wanted,
}
