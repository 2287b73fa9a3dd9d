"""A session's start and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sojourn import wire
from sojourn.errors import MoveFailed, SaveFailed, SessionLost, WakeFailed
from sojourn.lifecycle import waking
from sojourn.lifecycle.events import Decision, Tell
from sojourn.lifecycle.moving import closed, lose, source_gone, target_failed
from sojourn.lifecycle.sleeping import released
from sojourn.lifecycle.state import Move, Session
from sojourn.lifecycle.steps import Moment, end, failed_move, failed_save, failed_wake
from sojourn.model import MovePhase, SavePhase, SessionStatus


def _started(s: Session, node: str, e: wire.SandboxStarted, at: Moment) -> Decision:
    if s.status is SessionStatus.STARTING and (node, e.incarnation) == (s.node, s.incarnation):
        return replace(s, status=SessionStatus.RUNNING, sandbox=e.sandbox, deadline=None), []
    if s.ended:
        return s, [Tell(node, wire.StopSandbox(session=s.id, incarnation=e.incarnation))]
    return s, []


def _failed_to_start(s: Session, node: str, e: wire.SandboxFailedToStart, at: Moment) -> Decision:
    if s.status is not SessionStatus.STARTING or node != s.node:
        return stopped(s, node, e, at)
    return end(s, SessionStatus.FAILED, at, _sentence(e.error)), []


def stopped(s: Session, node: str, e: wire.SandboxStopped | wire.SandboxFailedToStart, at: Moment) -> Decision:
    if s.status is not SessionStatus.STOPPING:
        return s, []
    s = replace(s, stopping=s.stopping - {node})
    return (s if s.stopping else end(s, SessionStatus.STOPPED, at)), []


def _died(s: Session, node: str, e: wire.SessionDied, at: Moment) -> Decision:
    move = s.moving
    if s.status is SessionStatus.STOPPING:
        return stopped(s, node, wire.SandboxStopped(session=s.id, incarnation=e.incarnation), at)
    if move and node == move.target and e.incarnation == move.incarnation and move.phase is not MovePhase.COMMITTING:
        return target_failed(s, at, SessionLost(f"It died on {node}: {e.reason}"))
    if move and node == move.source and e.incarnation in (move.source_incarnation, s.incarnation):
        return source_gone(s, at, e.reason)
    if s.waking and (node, e.incarnation) == (s.waking.node, s.waking.incarnation):
        return waking.died(s, s.waking, at, e.reason)
    if _is_rolled_back(s, node, e.incarnation):
        return lose(s, at, e.reason)
    if not s.ended and not s.asleep and (node, e.incarnation) == (s.node, s.incarnation):
        return lose(s, at, e.reason)
    return s, []


def _is_rolled_back(s: Session, node: str, incarnation: int) -> bool:
    """What stands frozen for a save, and was told to go on."""
    save = s.saving
    return bool(save and save.phase is SavePhase.ROLLING_BACK and (node, incarnation) == (save.node, save.incarnation))


def stop(s: Session, at: Moment, reason: str = "") -> Decision:
    """Kill every copy. Which of them is in charge no longer matters; of one that sleeps, nothing has to be thawed."""
    copies = _copies(s)
    s = _saved_or_woken_no_more(s, at)
    if not copies:
        return end(s, SessionStatus.STOPPED, at, reason), []
    stopping = replace(
        s,
        status=SessionStatus.STOPPING,
        reason=reason or s.reason,
        stopping=frozenset(copies),
        deadline=at.after(at.limits.answer_s),
        move=_ended_by_stop(s, at),
    )
    tells = [Tell(node, wire.StopSandbox(session=s.id, incarnation=number)) for node, number in copies.items()]
    return stopping, tells


def _copies(s: Session) -> dict[str, int]:
    """Node -> the greatest incarnation that it may hold."""
    if s.moving:
        copies = {s.moving.source: s.moving.source_incarnation, s.moving.target: s.moving.incarnation}
        return {**copies, s.node: s.incarnation} if s.moving.abandoned else copies
    if s.waking:
        return {s.waking.node: s.waking.incarnation}
    return {} if s.asleep else {s.node: s.incarnation}


def _saved_or_woken_no_more(s: Session, at: Moment) -> Session:
    if s.saving and s.saving.phase is SavePhase.RELEASING:
        s = released(s, at)
    if s.saving:
        s = replace(s, save=failed_save(s.saving, at, SaveFailed("The session was stopped while it was saved.")))
    if s.waking:
        s = replace(s, wake=failed_wake(s.waking, at, WakeFailed("The session was stopped while it woke.")))
    return s


def _ended_by_stop(s: Session, at: Moment) -> Move | None:
    if s.moving and s.moving.phase is not MovePhase.COMMITTING:
        return failed_move(s.moving, at, MoveFailed("The session was stopped during the move."))
    return closed(s.move, at)


def _program_exited(s: Session, node: str, e: wire.ProgramExited, at: Moment) -> Decision:
    current = (node, e.incarnation) == (s.node, s.incarnation)
    if not current or not s.spec.ends_with_program or s.ended or s.asleep or s.status is SessionStatus.STOPPING:
        return s, []
    return stop(s, at, f"Its program ended with code {e.code}." if e.code else "")


def _sentence(error: dict[str, str]) -> str:
    return " ".join(part for part in (error.get("message"), error.get("hint")) if part)


REPORTS: dict[type, Callable[..., Decision]] = {
    wire.SandboxStarted: _started,
    wire.SandboxFailedToStart: _failed_to_start,
    wire.SandboxStopped: stopped,
    wire.SessionDied: _died,
    wire.ProgramExited: _program_exited,
}
