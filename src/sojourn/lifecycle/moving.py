"""A move: as it should go, and what becomes of it when it goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sojourn import wire
from sojourn.errors import SessionLost, SojournError
from sojourn.lifecycle.checkpoints import fall_back
from sojourn.lifecycle.events import Decision, Tell
from sojourn.lifecycle.state import Move, Session, arrival_epoch
from sojourn.lifecycle.steps import (
    Moment,
    abandon_arrival,
    commit,
    depart,
    failed_move,
    from_error,
    go_on_at_source,
    move_of,
    told,
    waiting,
    with_move,
)
from sojourn.model import MovePhase, MoveReport, SessionStatus


def _prepared(s: Session, node: str, e: wire.ArrivalPrepared, at: Moment) -> Decision:
    move = move_of(s, e.move, node, "target")
    if move is None:
        return s, _dismiss_arrival(s, e.move, node)
    if move.phase is not MovePhase.PREPARING:
        return s, []
    s = waiting(with_move(s, phase=MovePhase.DEPARTING), at)
    return s, [depart(s, move)]


def _frozen(s: Session, node: str, e: wire.SessionFrozen, at: Moment) -> Decision:
    move = move_of(s, e.move, node, "source")
    if move is None:
        return s, []
    return waiting(with_move(s, report=move.report.model_copy(update={"froze": True})), at), []


def _sent(s: Session, node: str, e: wire.SessionSent, at: Moment) -> Decision:
    move = move_of(s, e.move, node, "source")
    if move and move.phase in (MovePhase.PREPARING, MovePhase.DEPARTING):
        return waiting(with_move(s, sent=True), at), []
    if move is None and s.move and s.move.id == e.move and _stands_frozen(s, s.move, node):
        return roll_back(s, at, from_error(s.move.error))
    return s, []


def _stands_frozen(s: Session, move: Move, node: str) -> bool:
    """It departed although the move had failed: nobody else would tell it to go on."""
    failed = move.phase is MovePhase.FAILED and s.incarnation == move.source_incarnation
    return failed and s.status is SessionStatus.RUNNING and node == s.node


def thawed(s: Session, node: str, e: wire.SessionThawed, at: Moment) -> Decision:
    move = move_of(s, e.move, node, "target")
    if move is None or e.incarnation != move.incarnation:
        return s, _dismiss_arrival(s, e.move, node)
    if move.phase is MovePhase.ROLLING_BACK:
        return with_move(s, thawed_at=at.now), []
    if move.phase not in (MovePhase.PREPARING, MovePhase.DEPARTING):
        return s, []
    epoch = arrival_epoch(s, move)
    s = replace(s, status=SessionStatus.FILLING, node=node, incarnation=e.incarnation, epoch=epoch)
    s = with_move(s, phase=MovePhase.FILLING, sent=True, thawed_at=at.now, report=_joined(move.report, e.report))
    return waiting(s, at), []


def _dismiss_arrival(s: Session, move: str, node: str) -> list[Tell]:
    """For news of a move that is over: never where the session lives, which may have come there by that very move."""
    return [] if node == s.node else [abandon_arrival(s, move, node)]


def _progressed(s: Session, node: str, e: wire.FillProgressed, at: Moment) -> Decision:
    move = move_of(s, e.move, node)
    if move is None or move.phase not in (MovePhase.DEPARTING, MovePhase.FILLING):
        return s, []
    return waiting(with_move(s, done_bytes=e.done_bytes, total_bytes=e.total_bytes), at), []


def _shipped(s: Session, node: str, e: wire.ShipmentProgressed, at: Moment) -> Decision:
    """On its way; the session runs on, for as long as that takes."""
    move = move_of(s, e.move, node, "source")
    if move is None or move.phase is not MovePhase.DEPARTING:
        return s, []
    others = tuple(one for one in move.report.shipments if one.what != e.shipment.what)
    report = move.report.model_copy(update={"shipments": (*others, e.shipment)})
    return waiting(with_move(s, report=report), at), []


def filled(s: Session, node: str, e: wire.SessionFilled, at: Moment) -> Decision:
    s, tells = thawed(s, node, wire.SessionThawed(**e.model_dump(exclude={"event"})), at)
    move = s.moving
    if move is None or move.id != e.move or move.phase is not MovePhase.FILLING or node != move.target:
        return s, tells
    s = replace(s, status=SessionStatus.RUNNING, reason="")
    s = with_move(s, phase=MovePhase.COMMITTING, report=_joined(move.report, e.report), done_bytes=move.total_bytes)
    if move.source_lost:
        return done(s, at), tells
    return waiting(s, at), [*tells, commit(s, move.id, move.source)]


def _committed(s: Session, node: str, e: wire.MoveCommitted, at: Moment) -> Decision:
    move = move_of(s, e.move, node, "source")
    return (done(s, at) if move and move.phase is MovePhase.COMMITTING else s), []


def done(s: Session, at: Moment) -> Session:
    return replace(with_move(s, phase=MovePhase.DONE, ended_at=at.now), deadline=None, away=s.away & {s.node})


# ── when it goes wrong ───────────────────────────────────────────────────────────────────────────────────────


def _stumbled(s: Session, node: str, e: wire.MoveStumbled, at: Moment) -> Decision:
    move = move_of(s, e.move, node)
    if move is None and e.scathed and s.move and s.move.id == e.move and _stands_frozen(s, s.move, node):
        return roll_back(with_move(s, scathed=True), at, from_error(e.error))
    if move is None or move.phase is MovePhase.COMMITTING:
        return s, []
    if e.side == "target" and node == move.target:
        return target_failed(s, at, from_error(e.error))
    if e.side == "source" and node == move.source:
        if e.scathed:
            return _source_scathed(s, at, from_error(e.error))
        resumed = e.resumed and not move.sent and not move.abandoned
        return stays(s, at, from_error(e.error)) if resumed else _source_failed(s, at, from_error(e.error))
    return s, []


def target_failed(s: Session, at: Moment, error: SojournError) -> Decision:
    move = s.moving
    assert move
    if move.phase is MovePhase.PREPARING:
        return stays(s, at, error)
    return (s, []) if move.phase is MovePhase.ROLLING_BACK else roll_back(s, at, error)


def _source_failed(s: Session, at: Moment, error: SojournError) -> Decision:
    """The source can neither send the rest nor go on by itself."""
    assert s.moving
    return (s, []) if s.moving.phase is MovePhase.ROLLING_BACK else roll_back(s, at, error)


def _source_scathed(s: Session, at: Moment, error: SojournError) -> Decision:
    """It is whole but for what its connections carried: it goes on here, and every client hears of a reset."""
    move = s.moving
    assert move
    known, s = move.scathed, with_move(s, scathed=True)
    if move.phase is not MovePhase.ROLLING_BACK:
        # What has not been sent can't thaw at the target: nobody has to be waited for.
        return roll_back(s, at, error, target_gone=not move.sent)
    # Scathed only when it was let go, under an epoch that was to keep its streams.
    return release_source(s, at) if move.abandoned and not known else (s, [])


def stays(s: Session, at: Moment, error: SojournError) -> Decision:
    """The source runs as if nothing had happened: it never let go."""
    move = s.moving
    assert move
    failed = failed_move(move, at, error)
    s = replace(s, status=SessionStatus.RUNNING, node=move.source, incarnation=move.source_incarnation, deadline=None)
    s = replace(s, reason=told(move, error), move=failed, away=s.away & {move.source})
    return s, [abandon_arrival(s, move.id, move.target)]


def roll_back(s: Session, at: Moment, error: SojournError, target_gone: bool = False) -> Decision:
    """The target must be gone before the source may go on."""
    move = s.move
    assert move
    if move.source_lost:
        return lose(s, at, f"{told(move, error)} {move.source_lost}")
    s = replace(s, status=SessionStatus.MOVING, node=move.source, reason=told(move, error))
    s = with_move(s, phase=MovePhase.ROLLING_BACK, abandoned=False, error=error.to_wire(), ended_at=None)
    abandon = abandon_arrival(s, move.id, move.target)
    if target_gone:
        s, tells = release_source(s, at)
        return s, [abandon, *tells]
    return waiting(s, at), [abandon]


def release_source(s: Session, at: Moment, never_thawed: bool = False) -> Decision:
    """Nothing of the target counts any more: the source goes on under an incarnation of its own. `never_thawed`: the
    target has said so, and a source that was not scathed has lost nothing: the clients' streams go on."""
    s = replace(s, incarnation=s.issued + 1, issued=s.issued + 1, epoch=s.epoch + (not never_thawed))
    s = waiting(with_move(s, abandoned=True), at)
    return s, [go_on_at_source(s)]


def _arrival_abandoned(s: Session, node: str, e: wire.ArrivalAbandoned, at: Moment) -> Decision:
    move = move_of(s, e.move, node, "target")
    if move is None or move.phase is not MovePhase.ROLLING_BACK or move.abandoned or node != move.target:
        return s, []
    return release_source(s, at, never_thawed=move.thawed_at is None and not move.scathed)


def rolled_back(s: Session, node: str, e: wire.MoveRolledBack, at: Moment) -> Decision:
    move = move_of(s, e.move, node, "source")
    if move is None or not move.abandoned or (node, e.incarnation) != (move.source, s.incarnation):
        return s, []
    failed = replace(move, phase=MovePhase.FAILED, ended_at=at.now)
    return replace(s, status=SessionStatus.RUNNING, deadline=None, move=failed, away=s.away & {s.node}), []


def source_gone(s: Session, at: Moment, reason: str) -> Decision:
    """The copy at the source is dead. If the target has every page, it says so soon, and all is well."""
    move = s.moving
    assert move
    if move.phase is MovePhase.COMMITTING:
        return done(s, at), []
    if move.source_lost:
        return s, []
    s = with_move(s, source_lost=reason)
    if move.phase is MovePhase.ROLLING_BACK or not (move.sent or move.phase is MovePhase.DEPARTING):
        return lose(s, at, reason)
    return waiting(s, at), []


def lose(s: Session, at: Moment, reason: str) -> Decision:
    """Nothing of it is left that could go on, but for its checkpoints; a node that was only away may still bring it
    back."""
    move = s.moving
    if move is None or move.phase is MovePhase.COMMITTING:
        return fall_back(replace(s, move=closed(move, at)), at, reason), []
    if not move.abandoned:
        s = replace(s, incarnation=move.source_incarnation)
    s = replace(s, node=move.source, move=failed_move(move, at, SessionLost(reason)))
    return fall_back(s, at, reason), [abandon_arrival(s, move.id, move.target)]


def _joined(known: MoveReport, new: MoveReport) -> MoveReport:
    """The later report wins where it says anything; connections are gathered from both."""
    said = {name: value for name, value in new.model_dump().items() if value}
    reset = tuple(dict.fromkeys((*known.connections_reset, *new.connections_reset)))
    return known.model_copy(update={**said, "connections_reset": reset})


def closed(move: Move | None, at: Moment) -> Move | None:
    return replace(move, phase=MovePhase.DONE, ended_at=at.now) if move and not move.over else move


REPORTS: dict[type, Callable[..., Decision]] = {
    wire.ArrivalPrepared: _prepared,
    wire.SessionFrozen: _frozen,
    wire.SessionSent: _sent,
    wire.SessionThawed: thawed,
    wire.FillProgressed: _progressed,
    wire.ShipmentProgressed: _shipped,
    wire.SessionFilled: filled,
    wire.MoveCommitted: _committed,
    wire.MoveStumbled: _stumbled,
    wire.MoveRolledBack: rolled_back,
    wire.ArrivalAbandoned: _arrival_abandoned,
}
