"""Nodes that leave and return, deadlines that pass, and a controller that was away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from sojourn import wire
from sojourn.errors import MoveFailed, SessionLost, Unreachable
from sojourn.lifecycle import sleeping, waking
from sojourn.lifecycle.checkpoints import fell_back
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
from sojourn.lifecycle.state import Move, Save, Session
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
from sojourn.model import MovePhase, MoveReport, SavePhase, SessionStatus
from sojourn.wire import Held


def _controller_started(s: Session, _: ControllerStarted, at: Moment) -> Decision:
    if s.ended:
        return s, []
    s = replace(s, away=_needed(s))
    if s.status is SessionStatus.STARTING:
        return replace(s, deadline=at.after(at.limits.start_s)), []
    if s.status is SessionStatus.STOPPING:
        return replace(s, deadline=at.after(at.limits.answer_s)), []
    return waiting(s, at), []


def _needed(s: Session) -> frozenset[str]:
    """The nodes whose silence means something just now."""
    if s.moving:
        return frozenset({s.node, s.moving.source, s.moving.target})
    if s.saving:
        return frozenset({s.saving.node})
    if s.waking:
        return frozenset({s.waking.node})
    return frozenset() if s.asleep else frozenset({s.node})


def _left(s: Session, e: NodeLeft, at: Moment) -> Decision:
    if s.ended or e.node not in _needed(s):
        return s, []
    move = s.moving
    if s.saving and s.saving.phase is SavePhase.RELEASING:
        return sleeping.released(s, at), []
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
    if s.waking and e.node == s.waking.node:
        return waking.node_died(s, s.waking, at, reason)
    return lose(s, at, reason) if e.node == s.node and not s.asleep else (s, [])


def _returned(s: Session, e: NodeReturned, at: Moment) -> Decision:
    """Set what the node holds against what the law knows; each case ends as if nothing had been lost between."""
    s = replace(s, away=s.away - {e.node})
    held = {one.incarnation: one for one in e.held}
    if s.status is SessionStatus.STOPPING and not held:
        return stopped(s, e.node, wire.SandboxStopped(session=s.id, incarnation=s.incarnation), at)
    if fell_back(s):
        s, tells = _back_from_the_dead(s, e.node, held, at)
    elif s.moving and e.node == s.moving.target:
        s, tells = _target_returned(s, s.moving, held.pop(s.moving.incarnation, None), at)
    elif s.moving and e.node == s.moving.source:
        newest = held.pop(max(held, default=0), None)
        s, tells = _source_returned(s, s.moving, newest, at)
    elif s.waking and e.node == s.waking.node:
        s, tells = waking.returned(s, s.waking, held.pop(s.waking.incarnation, None), at)
    elif s.saving and e.node == s.saving.node:
        one = held.pop(s.incarnation, None) or held.pop(s.saving.incarnation, None)
        s, tells = _saver_returned(s, s.saving, one, at)
    elif e.node == s.node and not s.ended and not s.asleep and s.status is not SessionStatus.STOPPING:
        s, tells = _home_returned(s, held.pop(s.incarnation, None), at)
    else:
        tells = []
    return s, [*tells, *dismissals(e.node, held.values())]


def dismissals(node: str, held: Iterable[Held]) -> list[Tell]:
    """What to tell a node that holds copies which no longer count."""
    return [Tell(node, _dismissal(one)) for one in held]


def _dismissal(one: Held) -> wire.SessionInstruction:
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


def _saver_returned(s: Session, save: Save, one: Held | None, at: Moment) -> Decision:
    if one:
        return sleeping.returned(s, save, one, at)
    if save.phase is SavePhase.RELEASING:
        return sleeping.released(s, at), []
    return lose(s, at, f"Node {save.node} came back without it.")


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
    if move.source_lost:
        s = with_move(s, source_lost="")  # it had been given up too early
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
    """The session was given up with its node, and nothing of it was woken since."""
    numbers = (s.incarnation, s.move and s.move.source_incarnation, s.save and s.save.incarnation)
    one = next((held[number] for number in numbers if number in held), None)
    if node != s.node or one is None:
        return s, []
    if found := _alive_after_all(s, one, at):
        held.pop(one.incarnation)
        return found
    return s, []


def _alive_after_all(s: Session, one: Held, at: Moment) -> Decision | None:
    if found := sleeping.back_from_the_dead(s, one, at) or waking.back_from_the_dead(s, one, at):
        return found
    if one.state == "running" and one.incarnation == s.incarnation:
        return replace(s, status=SessionStatus.RUNNING, checkpoint=None, reason="", ended_at=None), []
    if s.move and one.move == s.move.id and one.state in ("departing", "departed", "running"):
        s = replace(with_move(s, source_lost=""), checkpoint=None, ended_at=None)
        return roll_back(s, at, from_error(s.move.error if s.move else None))
    return None


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
    if move:
        return _move_late(s, move, at)
    if s.saving:
        return sleeping.late(s, s.saving, at)
    return waking.late(s, s.waking, at) if s.waking else (replace(s, deadline=None), [])


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
