"""A save: a session's state on its way into a checkpoint, with the session going on or falling asleep in it.

Until the node says `SessionSaved`, it alone decides: a failure means that the session goes on. From then on a session
that was to be suspended sleeps, and what stands frozen is told to go. A copy that can't go on by itself is told to,
under an incarnation of its own; its streams go on, for nothing else has run, unless it was scathed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sojourn import wire
from sojourn.errors import SaveFailed, SojournError, from_wire
from sojourn.lifecycle.checkpoints import fall_back, nearest, second
from sojourn.lifecycle.events import CheckpointFound, Decision
from sojourn.lifecycle.state import Kept, Save, Session
from sojourn.lifecycle.steps import Moment, commit, failed_save, go_on, save_to, waiting, with_save
from sojourn.model import SavePhase, SessionStatus
from sojourn.wire import Held


def begin(s: Session, save: Save, at: Moment) -> Decision:
    if not save.keep:
        s = replace(s, status=SessionStatus.SUSPENDING, reason="")
    s = waiting(replace(s, save=save), at)
    return s, [save_to(s, save)]


def _saving_at(s: Session, node: str, phase: SavePhase) -> Save | None:
    save = s.saving
    return save if save and save.node == node and save.phase is phase else None


def _frozen(s: Session, node: str, _: wire.SessionFrozen, at: Moment) -> Decision:
    return (waiting(s, at) if _saving_at(s, node, SavePhase.SAVING) else s), []


def _progressed(s: Session, node: str, e: wire.FillProgressed, at: Moment) -> Decision:
    if not _saving_at(s, node, SavePhase.SAVING):
        return s, []
    return waiting(with_save(s, done_bytes=e.done_bytes, total_bytes=e.total_bytes), at), []


def _saved(s: Session, node: str, e: wire.SessionSaved, at: Moment) -> Decision:
    save = s.save
    assert save
    if save.saved or (node, e.incarnation) != (save.node, save.incarnation):
        return s, []
    s = with_save(s, saved=True, report=e.report, done_bytes=save.total_bytes)
    checkpoint = Kept(save.id, save.started_at)
    if save.phase is SavePhase.SAVING:
        s = nearest(s, checkpoint)
        return (released(s, at), []) if save.keep else _suspended(s, save, at)
    if save.phase is SavePhase.ROLLING_BACK:
        return nearest(s, checkpoint), []
    return _saved_after_all(s, save, checkpoint, at), []


def _suspended(s: Session, save: Save, at: Moment) -> Decision:
    s = replace(s, status=SessionStatus.SUSPENDED, checkpoint=save.id, exact=True, reason="")
    s = waiting(with_save(s, phase=SavePhase.RELEASING), at)
    return s, [commit(s, save.id, save.node)]


def _saved_after_all(s: Session, save: Save, checkpoint: Kept, at: Moment) -> Session:
    """The session was given up before this was heard."""
    s = with_save(s, phase=SavePhase.DONE)
    if s.status in (SessionStatus.LOST, SessionStatus.SUSPENDED) and not s.exact:
        return fall_back(nearest(s, checkpoint), at, f"It was lost on {save.node}, which had just saved it.")
    return second(s, checkpoint)


def _found(s: Session, e: CheckpointFound, at: Moment) -> Decision:
    """Whoever saved it can't say so any more."""
    save = s.save
    if save is None or save.id != e.checkpoint or save.saved or not save.over:
        return s, []
    return _saved_after_all(with_save(s, saved=True), save, Kept(save.id, save.started_at), at), []


def _committed(s: Session, node: str, _: wire.MoveCommitted, at: Moment) -> Decision:
    return (released(s, at) if _saving_at(s, node, SavePhase.RELEASING) else s), []


def released(s: Session, at: Moment) -> Session:
    """Nothing stands frozen for this save any more, or whoever has it is told at its next hello."""
    return replace(with_save(s, phase=SavePhase.DONE, ended_at=at.now), deadline=None)


# ── when it goes wrong ───────────────────────────────────────────────────────────────────────────────────────


def _stumbled(s: Session, node: str, e: wire.MoveStumbled, at: Moment) -> Decision:
    error, save = from_wire(e.error), s.saving
    if save is None or node != save.node or save.phase is SavePhase.RELEASING:
        return s, []
    if e.scathed:
        return (s, []) if save.scathed else roll_back(with_save(s, scathed=True), at, error)
    if save.phase is SavePhase.ROLLING_BACK:
        return s, []
    return (_goes_on(s, save, at, error), []) if e.resumed else roll_back(s, at, error)


def _goes_on(s: Session, save: Save, at: Moment, error: SojournError) -> Session:
    """As if nothing had happened."""
    s = replace(s, status=SessionStatus.RUNNING, deadline=None, save=failed_save(save, at, error))
    return s if save.keep else replace(s, reason=_told(error))


def roll_back(s: Session, at: Moment, error: SojournError) -> Decision:
    """What stands frozen goes on under an incarnation of its own: whatever it may still save is not what it is."""
    save = s.save
    assert save
    s = replace(s, incarnation=s.issued + 1, issued=s.issued + 1, epoch=s.epoch + save.scathed)
    if not save.keep:
        s = replace(s, status=SessionStatus.SUSPENDING, reason=_told(error))
    s = with_save(s, phase=SavePhase.ROLLING_BACK, abandoned=True, error=error.to_wire(), ended_at=None)
    s = waiting(s, at)
    return s, [go_on(s, save.id, save.node)]


def _rolled_back(s: Session, node: str, e: wire.MoveRolledBack, at: Moment) -> Decision:
    save = _saving_at(s, node, SavePhase.ROLLING_BACK)
    if save is None or e.incarnation != s.incarnation:
        return s, []
    over = failed_save(save, at, SaveFailed("It was rolled back."))
    return replace(s, status=SessionStatus.RUNNING, deadline=None, save=over), []


def _told(error: SojournError) -> str:
    return f"It could not be suspended: {error.message}"


def late(s: Session, save: Save, at: Moment) -> Decision:
    if save.phase is SavePhase.RELEASING:
        return released(s, at), [commit(s, save.id, save.node)]
    if save.phase is SavePhase.ROLLING_BACK:  # its node is there, and must know
        return waiting(s, at), [go_on(s, save.id, save.node)]
    return roll_back(s, at, SaveFailed("The session was not saved in time.", "Look at the log of its agent."))


# ── when its node comes back ─────────────────────────────────────────────────────────────────────────────────


def returned(s: Session, save: Save, one: Held, at: Moment) -> Decision:
    """`one`: what the node holds of the copy that is, or was to be, saved."""
    if save.phase is SavePhase.ROLLING_BACK:
        back = wire.MoveRolledBack(move=save.id, session=s.id, incarnation=one.incarnation)
        settled, _ = _rolled_back(s, save.node, back, at)
        if settled is not s and one.state == "running":
            return settled, []
        return waiting(s, at), [go_on(s, save.id, save.node)]
    if save.phase is SavePhase.RELEASING:
        return waiting(s, at), [commit(s, save.id, save.node)]
    return waiting(s, at), [save_to(s, save)] if one.state == "running" else []


def back_from_the_dead(s: Session, one: Held, at: Moment) -> Decision | None:
    """What stood frozen for a save is the session again: it is suspended after all, or goes on if that can't be."""
    save = s.save
    if save is None or one.move != save.id or one.state not in ("departing", "departed"):
        return None
    status = SessionStatus.RUNNING if save.keep else SessionStatus.SUSPENDING
    s = replace(s, status=status, checkpoint=None, reason="", ended_at=None)
    if save.saved or save.abandoned:
        unusable = SaveFailed("Its checkpoint can't be used.", "Suspend it again.")
        return roll_back(s, at, from_wire(save.error) if save.error else unusable)
    return waiting(with_save(s, phase=SavePhase.SAVING, error=None, ended_at=None), at), []


EVENTS: dict[type, Callable[..., Decision]] = {CheckpointFound: _found}

REPORTS: dict[type, Callable[..., Decision]] = {
    wire.SessionFrozen: _frozen,
    wire.FillProgressed: _progressed,
    wire.SessionSaved: _saved,
    wire.MoveCommitted: _committed,
    wire.MoveStumbled: _stumbled,
    wire.MoveRolledBack: _rolled_back,
}
