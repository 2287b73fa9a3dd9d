"""A wake: a checkpoint brought to life, under an incarnation of its own.

The epoch stays only if clients have seen nothing since the state that is woken: if nobody was ever let near another
copy of it. So a wake that fails is cleared away **first**; and once it has thawed, or may have, the next one resets
every stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sojourn import wire
from sojourn.errors import Damaged, SessionLost, SojournError, Unreachable, WakeFailed, from_wire
from sojourn.lifecycle.checkpoints import fall_back, find, old, without
from sojourn.lifecycle.events import Decision, Tell
from sojourn.lifecycle.sleeping import released
from sojourn.lifecycle.state import Session, Wake
from sojourn.lifecycle.steps import Moment, abandon_arrival, failed_wake, waiting, wake_from, with_wake
from sojourn.model import MoveReport, SavePhase, SessionStatus, WakePhase
from sojourn.wire import Held


def begin(s: Session, wake: str, checkpoint: str, node: str, exact: bool, at: Moment) -> Decision:
    if s.saving and s.saving.phase is SavePhase.RELEASING:
        s = released(s, at)
    s = replace(s, issued=s.issued + 1, epoch=s.epoch + (not exact))
    begun = Wake(wake, checkpoint, node, s.issued, exact, at.now)
    s = replace(s, status=SessionStatus.WAKING, incarnation=s.issued, wake=begun)
    s = replace(s, checkpoint=checkpoint, exact=exact, away=frozenset())
    return waiting(s, at), [wake_from(s, begun)]


def _waking_at(s: Session, node: str) -> Wake | None:
    return s.waking if s.waking and s.waking.node == node else None


def thawed(s: Session, node: str, e: wire.SessionThawed, at: Moment) -> Decision:
    wake = _waking_at(s, node)
    if wake is None or e.incarnation != wake.incarnation:
        return s, _dismissed(s, node)
    if wake.phase is WakePhase.ABANDONING:
        return with_wake(s, thawed_at=at.now), []
    if wake.phase is not WakePhase.WAKING:
        return s, []
    s = replace(s, status=SessionStatus.FILLING, node=node, exact=False, reason=_older(s, wake))
    return waiting(with_wake(s, phase=WakePhase.FILLING, thawed_at=at.now), at), []


def _dismissed(s: Session, node: str) -> list[Tell]:
    """For news of a wake that was given up."""
    return [abandon_arrival(s, s.wake.id, node)] if s.wake and (s.wake.abandoned or s.ended) else []


def _older(s: Session, wake: Wake) -> str:
    """Why its clients find it other than they left it, if they do."""
    kept = find(s, wake.checkpoint)
    if wake.exact or kept is None:
        return ""
    return f"It went on from a checkpoint that was {old(wake.started_at - kept.saved_at)} old."


def _progressed(s: Session, node: str, e: wire.FillProgressed, at: Moment) -> Decision:
    wake = _waking_at(s, node)
    if wake is None or wake.phase is WakePhase.ABANDONING:
        return s, []
    return waiting(with_wake(s, done_bytes=e.done_bytes, total_bytes=e.total_bytes), at), []


def filled(s: Session, node: str, e: wire.SessionFilled, at: Moment) -> Decision:
    s, tells = thawed(s, node, wire.SessionThawed(**e.model_dump(exclude={"event"})), at)
    wake = _waking_at(s, node)
    if wake is None or wake.phase is not WakePhase.FILLING or e.incarnation != wake.incarnation:
        return s, tells
    s = with_wake(s, phase=WakePhase.DONE, done_bytes=wake.total_bytes, ended_at=at.now)
    s = replace(s, status=SessionStatus.RUNNING, checkpoint=None, deadline=None, away=s.away & {node})
    return s, tells


# ── when it goes wrong ───────────────────────────────────────────────────────────────────────────────────────


def _stumbled(s: Session, node: str, e: wire.MoveStumbled, at: Moment) -> Decision:
    wake = _waking_at(s, node)
    if wake is None or wake.phase is WakePhase.ABANDONING:
        return s, []
    return fail(s, at, from_wire(e.error))


def fail(s: Session, at: Moment, error: SojournError, gone: bool = False) -> Decision:
    """What came of it must be gone before the session may sleep again. `gone`: nobody is there to be waited for."""
    wake = s.waking
    assert wake
    if isinstance(error, Damaged):
        s = without(s, wake.checkpoint)
    s = replace(s, status=SessionStatus.WAKING, reason=f"It could not be woken on {wake.node}: {error.message}")
    s = with_wake(s, phase=WakePhase.ABANDONING, abandoned=True, error=error.to_wire())
    s = _sleeps_again(s, at) if gone else waiting(s, at)
    return s, [abandon_arrival(s, wake.id, wake.node)]


def _abandoned(s: Session, node: str, _: wire.ArrivalAbandoned, at: Moment) -> Decision:
    wake = _waking_at(s, node)
    if wake is None or wake.phase is not WakePhase.ABANDONING:
        return s, []
    return _sleeps_again(s, at, never_thawed=wake.thawed_at is None), []


def _sleeps_again(s: Session, at: Moment, never_thawed: bool = False) -> Session:
    """`never_thawed`: the node has said so, and clients still are where they were. A damaged checkpoint is left for an
    older one."""
    wake = s.waking
    assert wake
    s = replace(s, wake=failed_wake(wake, at, WakeFailed("The wake failed.")))
    if find(s, wake.checkpoint) is None:
        return fall_back(s, at, s.reason)
    s = replace(s, status=SessionStatus.SUSPENDED, exact=s.exact and never_thawed)
    return replace(s, deadline=None, away=frozenset())


def died(s: Session, wake: Wake, at: Moment, reason: str) -> Decision:
    """The copy that had come is dead."""
    return (s, []) if wake.phase is WakePhase.ABANDONING else fail(s, at, SessionLost(f"It died: {reason}"))


def node_died(s: Session, wake: Wake, at: Moment, reason: str) -> Decision:
    if wake.phase is WakePhase.FILLING:
        # Others may have used it meanwhile: should the node come back with it, it goes on.
        return fall_back(s, at, reason), []
    if wake.phase is WakePhase.ABANDONING:
        return _sleeps_again(s, at), []
    return fail(s, at, Unreachable(reason), gone=True)


def late(s: Session, wake: Wake, at: Moment) -> Decision:
    if wake.phase is WakePhase.ABANDONING:
        return _sleeps_again(s, at), []
    if wake.node in s.away:
        return fail(s, at, Unreachable(f"Node {wake.node} can't be reached."), gone=True)
    doing = "filled" if wake.phase is WakePhase.FILLING else "thawed"
    return fail(s, at, WakeFailed(f"It was not {doing} in time.", "Look at the log of its agent."))


# ── when its node comes back ─────────────────────────────────────────────────────────────────────────────────


def returned(s: Session, wake: Wake, one: Held | None, at: Moment) -> Decision:
    runs = one is not None and one.state in ("filling", "running")
    if wake.phase is WakePhase.ABANDONING:
        s = with_wake(s, thawed_at=at.now) if runs else s
        return waiting(s, at), [abandon_arrival(s, wake.id, wake.node)]
    if one is None or not runs:
        if wake.phase is WakePhase.WAKING:
            return waiting(s, at), [wake_from(s, wake)]
        return fail(s, at, SessionLost(f"Node {wake.node} came back without what had been woken."))
    return _runs_there(s, wake, one, at)


def _runs_there(s: Session, wake: Wake, one: Held, at: Moment) -> Decision:
    known = {"move": wake.id, "session": s.id, "incarnation": wake.incarnation, "report": MoveReport()}
    if one.state == "running":
        return filled(s, wake.node, wire.SessionFilled.model_validate(known), at)
    s, tells = thawed(s, wake.node, wire.SessionThawed.model_validate(known), at)
    return waiting(s, at), tells


def back_from_the_dead(s: Session, one: Held, at: Moment) -> Decision | None:
    """A copy that was still being filled when its node was given up."""
    wake = s.wake
    if wake is None or wake.phase is not WakePhase.FAILED or one.incarnation != s.incarnation:
        return None
    s = replace(s, status=SessionStatus.FILLING, checkpoint=wake.checkpoint, ended_at=None, reason=_older(s, wake))
    s = with_wake(s, phase=WakePhase.FILLING, error=None, ended_at=None)
    return _runs_there(waiting(s, at), wake, one, at)


REPORTS: dict[type, Callable[..., Decision]] = {
    wire.SessionThawed: thawed,
    wire.FillProgressed: _progressed,
    wire.SessionFilled: filled,
    wire.MoveStumbled: _stumbled,
    wire.ArrivalAbandoned: _abandoned,
}
