"""The whole checkpoints of a session, and what becomes of it when they are all that is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sojourn.errors import Refused, SaveFailed, WakeFailed
from sojourn.lifecycle.events import CheckpointDamaged, CheckpointsDropped, Decision
from sojourn.lifecycle.state import Kept, Session
from sojourn.lifecycle.steps import Moment, end, failed_save, failed_wake
from sojourn.model import SessionStatus


def fall_back(s: Session, at: Moment, reason: str) -> Session:
    """No copy is left that could go on: it sleeps in the nearest of its checkpoints, or is lost if it has none.

    What clients have seen since is gone, so they will be told: its streams are reset when it wakes.
    """
    s = _nothing_under_way(s, at, reason)
    if not s.checkpoints:
        return end(s, SessionStatus.LOST, at, reason)
    nearest = s.checkpoints[0]
    told = f"{reason} It sleeps in a checkpoint that is {old(at.now - nearest.saved_at)} old; what came later is lost."
    s = replace(s, status=SessionStatus.SUSPENDED, checkpoint=nearest.id, exact=False, reason=told)
    return replace(s, deadline=None, away=frozenset(), ended_at=None)


def _nothing_under_way(s: Session, at: Moment, reason: str) -> Session:
    save = failed_save(s.saving, at, SaveFailed(reason)) if s.saving else s.save
    wake = failed_wake(s.waking, at, WakeFailed(reason)) if s.waking else s.wake
    return replace(s, save=save, wake=wake)


def fell_back(s: Session) -> bool:
    """Its copy was given up, and nothing was woken since: if the node brings it back, it is the session again."""
    if s.wake and s.wake.abandoned and s.wake.incarnation == s.incarnation:
        return False
    return s.status is SessionStatus.LOST or (s.status is SessionStatus.SUSPENDED and not s.exact)


def nearest(s: Session, checkpoint: Kept) -> Session:
    """The session with this as the checkpoint that it falls back to."""
    return replace(s, checkpoints=(checkpoint, *_others(s, checkpoint.id)))


def second(s: Session, checkpoint: Kept) -> Session:
    """The session with a checkpoint that is whole, but not of the life it leads now."""
    others = _others(s, checkpoint.id)
    return replace(s, checkpoints=(*others[:1], checkpoint, *others[1:]))


def without(s: Session, checkpoint: str) -> Session:
    return replace(s, checkpoints=_others(s, checkpoint))


def find(s: Session, checkpoint: str) -> Kept | None:
    return next((one for one in s.checkpoints if one.id == checkpoint), None)


def _others(s: Session, checkpoint: str) -> tuple[Kept, ...]:
    return tuple(one for one in s.checkpoints if one.id != checkpoint)


def _damaged(s: Session, e: CheckpointDamaged, at: Moment) -> Decision:
    """A session that is waking from it finds out by itself; one that sleeps in it sleeps in the next one."""
    s = without(s, e.checkpoint)
    if s.status is SessionStatus.SUSPENDED and s.checkpoint == e.checkpoint:
        return fall_back(s, at, f"Checkpoint {e.checkpoint} can't be used: {e.problem}"), []
    return s, []


def _dropped(s: Session, e: CheckpointsDropped, at: Moment) -> Decision:
    if s.checkpoint in e.ids:
        raise Refused(
            f"Session {s.name or s.id} sleeps in checkpoint {s.checkpoint}, or is waking from it.",
            "Resume the session first, or stop it.",
        )
    for identity in e.ids:
        s = without(s, identity)
    return s, []


def old(seconds: float) -> str:
    """An age in words, of one unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


EVENTS: dict[type, Callable[..., Decision]] = {
    CheckpointDamaged: _damaged,
    CheckpointsDropped: _dropped,
}
