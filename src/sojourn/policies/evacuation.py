"""Emptying a node: in which order, each session which way, and whether the time is enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sojourn.policies.decisions import Decision, Kind
from sojourn.policies.facts import NodeFacts, SessionFacts
from sojourn.policies.quantities import write_size
from sojourn.policies.round import Room, Round
from sojourn.policies.rules import SpotRule


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast sessions leave a node. Seconds, and bytes per second."""

    overhead_s: float
    save: float
    link: float
    assumed: bool = False
    """Nothing was measured there yet."""

    @classmethod
    def of(cls, node: NodeFacts, rule: SpotRule) -> Pace:
        measured = node.save_bytes_per_s or node.link_bytes_per_s
        save = measured or float(rule.bandwidth)
        return cls(rule.overhead, save, node.link_bytes_per_s or save, assumed=not measured)

    def seconds(self, session: SessionFacts, moves: bool) -> float:
        return self.overhead_s + session.travel_bytes / max(self.link if moves else self.save, 1.0)


@dataclass(frozen=True, slots=True)
class Leg:
    """One session's way out."""

    session: SessionFacts
    target: str | None
    """None: into the store."""
    seconds: float
    ends_s: float
    """From now on, the ones before it included."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Whether a node would be empty in time: seconds_needed = Σ (overhead + bytes / bandwidth), one session after the
    other, for they share its bandwidth. Doing several at once hides overheads, so it errs on the safe side."""

    node: str
    seconds_left: float | None
    """None: no hurry."""
    legs: tuple[Leg, ...]
    pace: Pace

    @property
    def seconds_needed(self) -> float:
        return sum(leg.seconds for leg in self.legs)

    @property
    def late(self) -> tuple[Leg, ...]:
        if self.seconds_left is None:
            return ()
        return tuple(leg for leg in self.legs if leg.ends_s > self.seconds_left)

    @property
    def makes_it(self) -> bool:
        return not self.late

    def formula(self) -> str:
        """The sum in words, with its numbers."""
        ways = [("moved live", self.pace.link, [leg for leg in self.legs if leg.target]),
                ("into the store", self.pace.save, [leg for leg in self.legs if not leg.target])]  # fmt: skip
        terms = [self._term(name, rate, legs) for name, rate, legs in ways if legs]
        return f"{self.seconds_needed:.1f} s = {' + '.join(terms) or 'nothing to do'}"

    def said(self) -> str:
        """For people: the formula, and what it comes to."""
        text = f"{self.node}: {self.formula()}"
        if self.seconds_left is None:
            return text
        verdict = "it makes it" if self.makes_it else f"{len(self.late)} of {len(self.legs)} come too late"
        return f"{text}; {max(self.seconds_left, 0):.0f} s are left: {verdict}"

    def _term(self, name: str, rate: float, legs: Sequence[Leg]) -> str:
        total = sum(leg.session.travel_bytes for leg in legs)
        how = f"{name}, assumed" if self.pace.assumed else name
        return f"{len(legs)} × {self.pace.overhead_s:g} s + {write_size(total)}B / {write_size(rate)}B/s ({how})"


def order(sessions: Iterable[SessionFacts]) -> list[SessionFacts]:
    """The most precious first; of equals, those with most to lose since their newest checkpoint, then the smallest."""
    return sorted(sessions, key=lambda one: (-one.precious, one.saved_at or one.born_at, one.travel_bytes, one.id))


def plan(
    node: NodeFacts, sessions: Iterable[SessionFacts], room: Room, pace: Pace, seconds_left: float | None
) -> Forecast:
    """Move live what finds room elsewhere, suspend the rest; where the time is short, whatever is quicker.

    What comes too late all the same is tried last, so that it costs nobody else the time, and is suspended: a session
    that has thawed elsewhere with half of its pages could not go back.
    """
    queue, room = order(sessions), room.copy()
    targets = {session.id: _reserve(session, room) for session in queue}
    ways = _ways(queue, targets, pace, seconds_left)
    on_time: list[Leg] = []
    late: list[SessionFacts] = []
    for session in queue:
        seconds = pace.seconds(session, ways[session.id] is not None)
        ends = seconds + (on_time[-1].ends_s if on_time else 0.0)
        if seconds_left is not None and ends > seconds_left:
            late.append(session)
        else:
            on_time.append(Leg(session, ways[session.id], seconds, ends))
    return Forecast(node.name, seconds_left, (*on_time, *_last(late, on_time, pace)), pace)


def evacuate(
    round_: Round, node: NodeFacts, sessions: list[SessionFacts], rule: str, why: str, until: float | None
) -> Iterator[Decision]:
    """Decide on all of them, those that can't be helped now included."""
    leaving = [session for session in sessions if session.at_rest and not session.blocked]
    for session in sessions:
        if session not in leaving:
            reason = session.blocked or session.busy or f"it is {session.status}"
            yield Decision("wait", session.id, node.name, None, rule, f"{why}; {reason}", urgent=until is not None)
    pace = Pace.of(node, round_.rules.everybody.spot)
    forecast = plan(node, leaving, round_.room, pace, None if until is None else until - round_.now)
    for leg in forecast.legs:
        kind: Kind = "move" if leg.target else "suspend"
        way = f"to {leg.target}" if leg.target else "into the store"
        late = ", too late as it seems" if leg in forecast.late else ""
        text = f"{why}; {way} in {leg.ends_s:.1f} s{late}"
        yield Decision(kind, leg.session.id, node.name, leg.target, rule, text, urgent=until is not None)


def _reserve(session: SessionFacts, room: Room) -> str | None:
    target = room.best(session, session.can_move_to)
    if target:
        room.take(target, session.room_bytes)
    return target


def _ways(
    queue: list[SessionFacts], targets: dict[str, str | None], pace: Pace, seconds_left: float | None
) -> dict[str, str | None]:
    """Which of those that could move do: all; where saving is quicker and time short, those there is time for."""
    if seconds_left is None or pace.link >= pace.save:
        return targets
    slack = seconds_left - sum(pace.seconds(session, moves=False) for session in queue)
    ways = dict(targets)
    for session in queue:
        if ways[session.id] is None:
            continue
        more = pace.seconds(session, moves=True) - pace.seconds(session, moves=False)
        if more > slack:
            ways[session.id] = None
        else:
            slack -= more
    return ways


def _last(late: list[SessionFacts], before: list[Leg], pace: Pace) -> Iterator[Leg]:
    ends = before[-1].ends_s if before else 0.0
    for session in late:
        seconds = pace.seconds(session, moves=False)
        ends += seconds
        yield Leg(session, None, seconds, ends)
