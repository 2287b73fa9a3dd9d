"""Sessions that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator

from sojourn.policies.decisions import Decision
from sojourn.policies.facts import SessionFacts
from sojourn.policies.hours import said, within
from sojourn.policies.quantities import write_duration
from sojourn.policies.round import Round


def suspend(round_: Round) -> Iterator[Decision]:
    """After so long without execution, network or widget traffic. Who says nothing of a session's cells is not taken to
    say that none runs."""
    for session in round_.resting():
        rule = round_.turn(round_.chosen(session).idle)
        if rule and _idle_s(session, round_.now, rule.in_cells) >= rule.after:
            yield _suspend(session, "idle", f"idle for {_how_long(session, round_.now)}")


def close(round_: Round) -> Iterator[Decision]:
    """Outside working hours the same, sooner."""
    for session in round_.resting():
        rule = round_.turn(round_.chosen(session).schedule)
        if not rule or not rule.hours or _idle_s(session, round_.now) < rule.after:
            continue
        if not within(rule.hours, round_.now, rule.zone):
            hours = f"outside {said(rule.hours)} ({rule.zone})"
            yield _suspend(session, "schedule", f"{hours}, and idle for {_how_long(session, round_.now)}")


def _idle_s(session: SessionFacts, now: float, in_cells: bool = False) -> float:
    """-1: not idle at all, or nobody knows."""
    if session.executing is None or session.idle_since is None or (session.executing and not in_cells):
        return -1.0
    return now - session.idle_since


def _how_long(session: SessionFacts, now: float) -> str:
    since = session.idle_since or now
    return write_duration(max(now - since, 0) // 1)


def _suspend(session: SessionFacts, rule: str, why: str) -> Decision:
    return Decision("suspend", session.id, session.node, None, rule, why)
