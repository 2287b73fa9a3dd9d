"""The state of the law, and what each event does to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sojourn.directive import Directive
from sojourn.errors import SojournError
from sojourn.switchboard_law.events import (
    AnswersLost,
    CellBegan,
    DebtsFound,
    Event,
    GoneOn,
    InputCame,
    InterruptCame,
    KernelHeard,
    MoveEnded,
    ProgramExited,
    ReplyCame,
    RequestCame,
    SessionChanged,
    ShutdownCame,
    TimePassed,
    WakeEnded,
    YieldAsked,
)
from sojourn.switchboard_law.instructions import (
    Abort,
    AnswerEmpty,
    CancelMove,
    ConfirmInterrupt,
    Deliver,
    Discard,
    Fail,
    Forward,
    Instruction,
    Move,
    PassInterrupt,
    PassShutdown,
    Probe,
    Recall,
    SayYielded,
    Tell,
    Wake,
)
from sojourn.switchboard_law.kinds import Kind, Request

PATIENCE_SECONDS = 1.0
"""How long a question or a silent execute may wait for a session that moves or wakes."""

Lane = tuple[bytes, str | None, str]


@dataclass(slots=True, eq=False)
class _Entry:
    number: int
    """Counts up with each arrival."""
    request: Request
    since: float
    begun: bool = False
    """The kernel said so."""
    excused: bool = False
    """It could not be woken for this one, which waits for whoever comes next."""
    arrived: bool = False
    """Its move has brought the session to its place."""
    origin: str | None = None
    """Where the session is to return to after it."""

    @property
    def lane(self) -> Lane:
        return (self.request.client, self.request.subshell, self.request.channel)

    @property
    def executes(self) -> bool:
        return self.request.kind is Kind.EXECUTE

    @property
    def travels(self) -> bool:
        """Whether the session must be elsewhere before it can run, or it can't run at all."""
        return not self.arrived and (self.request.directive is not None or self.request.fault is not None)


@dataclass(slots=True)
class _Errand:
    """A move under way on behalf of a cell. `entry` is None once that cell was cancelled."""

    entry: _Entry | None
    origin: str | None
    homeward: bool = False


@dataclass(slots=True)
class _Call:
    """A wake that was asked for. `entry`: the cell whose place it is to wake at."""

    entry: _Entry | None


@dataclass(slots=True)
class _Visit:
    """A cell with `--return` that runs, or has run, away from `origin`."""

    entry: _Entry
    origin: str


@dataclass(slots=True)
class _Yield:
    """The clients' yielding, from when it is asked until the kernel, this or another one, is theirs again."""

    heard: bool = False
    """All that the kernel had to say."""
    said: bool = False


@dataclass(slots=True)
class SwitchboardLaw:
    """The state; `handle` is the whole of its interface, with `next_deadline` and `current`."""

    _node: str | None = None
    _still_since: float | None = None
    """Since when the session may not answer: it moves, sleeps, or its clients yield."""
    _frozen: bool = False
    _asleep: bool = False
    _count: int = 0
    _pending: dict[str, _Entry] = field(default_factory=dict)
    """With the kernel, not yet answered, in order of arrival there."""
    _lanes: dict[Lane, deque[_Entry]] = field(default_factory=dict)
    """Held requests; a lane with nothing to hold is not here."""
    _answered: set[str] = field(default_factory=set)
    """Answered here although the kernel may still answer."""
    _errand: _Errand | None = None
    _visit: _Visit | None = None
    _call: _Call | None = None
    _yield: _Yield | None = None
    _interrupted: bool = False
    """A cell that was frozen while it ran has been interrupted since."""
    _rewound: str = ""
    """What the next cell is to be told."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event in; `now` is in seconds of any clock that only grows."""
        instructions = list(_HANDLERS[type(event)](self, event, now))
        if self._yield:
            instructions.extend(self._conclude(self._yield))
        elif self._lanes and not self._asleep:
            instructions.extend(self._advance(now))
        return instructions

    def next_deadline(self) -> float | None:
        """When TimePassed is due; None: not before another event."""
        if self._still_since is None:
            return None
        since = min((entry.since for entry in self._impatient()), default=None)
        return None if since is None else max(since, self._still_since) + PATIENCE_SECONDS

    @property
    def asleep(self) -> bool:
        return self._asleep

    @property
    def yielding(self) -> bool:
        return self._yield is not None

    @property
    def current(self) -> Request | None:
        """The execute that runs, or will next: whose output is on its way."""
        return next((entry.request for entry in self._pending.values() if entry.executes), None)

    # requests and replies

    def _request_came(self, event: RequestCame, now: float) -> Iterator[Instruction]:
        self._count += 1
        entry = _Entry(self._count, event.request, now)
        if self._asleep:
            yield from self._came_asleep(entry)
        elif self._yield or entry.lane in self._lanes or self._blocks(entry) or self._is_away(entry.lane):
            self._hold(entry)
        else:
            yield from self._forward(entry)

    def _hold(self, entry: _Entry) -> None:
        """In the order in which they came, also of what the kernel was asked once already."""
        queue = self._lanes.setdefault(entry.lane, deque())
        queue.insert(sum(other.number < entry.number for other in queue), entry)

    def _forward(self, entry: _Entry) -> Iterator[Instruction]:
        if self._rewound and entry.executes and not entry.request.silent:
            yield Tell(entry.request, self._rewound)
            self._rewound = ""
        if entry.origin:
            self._visit = _Visit(entry, entry.origin)
        if entry.request.kind not in (Kind.ACT, Kind.FORMALITY):
            self._pending[entry.request.id] = entry
        yield Forward(entry.request)

    def _reply_came(self, event: ReplyCame, now: float) -> Iterator[Instruction]:
        entry = self._pending.pop(event.id, None)
        if event.id in self._answered:
            self._answered.discard(event.id)
            return
        yield Deliver(event.message)
        if entry and entry.executes:
            if event.failed:
                yield from self._abort_after(entry)
            if self._visit and self._visit.entry is entry:
                yield from self._go_home(self._visit)

    def _cell_began(self, event: CellBegan, now: float) -> Iterator[Instruction]:
        if entry := self._pending.get(event.id):
            entry.begun = True
        yield from ()

    def _abort_after(self, failed: _Entry) -> Iterator[Instruction]:
        """As a kernel does: every later execute on that subshell, whoever sent it."""
        if failed.request.silent or not failed.request.stops_on_error:
            return
        for entry in self._held_executes():
            if entry.number > failed.number and entry.request.subshell == failed.request.subshell:
                yield from self._drop(entry)
                yield Abort(entry.request)

    # lanes

    def _blocks(self, entry: _Entry) -> bool:
        """Whether this request holds up its lane, were it the first."""
        return entry.travels or (entry.executes and entry.request.silent and self._frozen)

    def _is_away(self, lane: Lane) -> bool:
        return self._visit is not None and self._visit.entry.lane == lane

    def _advance(self, now: float) -> Iterator[Instruction]:
        """Let go of what nothing holds any more, and begin the next move."""
        yield from self._release()
        while entry := self._next_traveller():
            if entry.request.directive:
                yield self._set_out(entry, entry.request.directive, now)
            elif entry.request.fault:
                yield from self._refuse(entry, entry.request.fault)
                yield from self._release()

    def _release(self) -> Iterator[Instruction]:
        for lane, queue in list(self._lanes.items()):
            while queue and not self._is_away(lane) and not self._blocks(queue[0]):
                yield from self._forward(queue.popleft())
            if not queue:
                del self._lanes[lane]

    def _next_traveller(self) -> _Entry | None:
        """The held cell whose turn it is to have the session moved."""
        if self._errand:
            return None
        heads = (queue[0] for queue in self._lanes.values())
        return next((entry for entry in heads if entry.travels and self._has_turn(entry)), None)

    def _has_turn(self, entry: _Entry) -> bool:
        earlier = (other for other in (*self._pending.values(), *self._held_executes()) if other.executes)
        return all(other.number >= entry.number for other in earlier)

    def _held(self) -> list[_Entry]:
        return sorted((entry for queue in self._lanes.values() for entry in queue), key=lambda entry: entry.number)

    def _held_executes(self) -> list[_Entry]:
        return [entry for entry in self._held() if entry.executes]

    def _drop(self, entry: _Entry) -> Iterator[Instruction]:
        """Take a held request out of its lane; its move, if one is under way for it, is not wanted any more."""
        queue = self._lanes[entry.lane]
        queue.remove(entry)
        if not queue:
            del self._lanes[entry.lane]
        if self._errand and self._errand.entry is entry:
            yield from self._call_off()

    # moves

    def _set_out(self, entry: _Entry, directive: Directive, now: float) -> Move:
        self._errand = _Errand(entry, self._node)
        if self._still_since is None:
            self._still_since = now
        return Move(directive.place)

    def _call_off(self) -> Iterator[Instruction]:
        if self._errand and self._errand.entry:
            self._errand.entry = None
            yield CancelMove()

    def _go_home(self, visit: _Visit) -> Iterator[Instruction]:
        self._errand = _Errand(visit.entry, None, homeward=True)
        yield Move(visit.origin)

    def _move_ended(self, event: MoveEnded, now: float) -> Iterator[Instruction]:
        errand, self._errand = self._errand, None
        self._still_since = now if self._frozen or self._asleep or self._yield else None
        if errand is None:
            return
        if errand.homeward:
            yield from self._came_home(event)
        elif errand.entry:
            yield from self._arrived(errand.entry, errand.origin, event)

    def _came_home(self, event: MoveEnded) -> Iterator[Instruction]:
        visit, self._visit = self._visit, None
        if visit and event.error:
            yield Tell(visit.entry.request, f"The session did not return to {visit.origin}: {event.error}\n")

    def _arrived(self, entry: _Entry, origin: str | None, event: MoveEnded) -> Iterator[Instruction]:
        if self._asleep:
            return  # it fell asleep meanwhile, and is being woken for this cell, whose turn comes once more
        if event.error:
            yield from self._refuse(entry, event.error)
            return
        if self._yield and not event.moved:
            return  # it was there, and leaves for another place: its turn comes once more
        entry.arrived = True
        directive = entry.request.directive
        if directive and directive.returns and event.moved:
            entry.origin = origin
        if not self._yield:
            yield from self._drop(entry)
            yield from self._forward(entry)

    def _refuse(self, entry: _Entry, error: SojournError) -> Iterator[Instruction]:
        yield from self._drop(entry)
        outcome = "The cell did not run." if entry.executes else ""
        yield Fail(entry.request, type(error).__name__, error.message, f"{error.hint} {outcome}".strip())
        if entry.executes:
            yield from self._abort_after(entry)

    def _session_changed(self, event: SessionChanged, now: float) -> Iterator[Instruction]:
        if event.asleep and not self._asleep:
            self._lie_down()
        self._node, self._frozen, self._asleep = event.node, event.frozen, event.asleep
        self._rewound = event.rewound or self._rewound
        if not (event.moving or event.asleep or self._errand or self._yield):
            self._still_since = None
        elif self._still_since is None:
            self._still_since = now
        if event.asleep:
            yield from self._rouse()
        else:
            self._interrupted = False

    # yielding

    def _yield_asked(self, event: YieldAsked, now: float) -> Iterator[Instruction]:
        if self._yield and self._yield.said:
            yield SayYielded()
            return
        self._yield = _Yield()
        if self._still_since is None:
            self._still_since = now
        yield Probe()

    def _kernel_heard(self, event: KernelHeard, now: float) -> Iterator[Instruction]:
        if self._yield:
            self._yield.heard = True
        yield from ()

    def _conclude(self, yielding: _Yield) -> Iterator[Instruction]:
        if yielding.heard and not yielding.said and not self._pending:
            yielding.said = True
            yield SayYielded()

    def _gone_on(self, event: GoneOn, now: float) -> Iterator[Instruction]:
        self._yield = None
        if not (self._frozen or self._asleep or self._errand):
            self._still_since = None
        yield from ()

    # sleep

    def _lie_down(self) -> None:
        """Whoever asked to yield sleeps as well; where it wakes, cells have to travel anew."""
        self._yield = None
        for entry in self._held():
            entry.arrived = False

    def _came_asleep(self, entry: _Entry) -> Iterator[Instruction]:
        request = entry.request
        if request.kind is Kind.FACT:
            yield Recall(request)
        elif self._call is None and not request.rouses and request.kind is not Kind.FORMALITY:
            yield _substitute(request)
        else:
            self._hold(entry)
            yield from self._rouse()

    def _rouse(self) -> Iterator[Instruction]:
        """Have it woken if there is a reason and nobody does so yet. What went to the kernel just before it fell
        asleep, and has not begun, is one; a cell that was frozen while it ran is none: somebody wanted that."""
        held = next((entry for entry in self._held() if entry.request.rouses), None)
        waiting = [entry for entry in self._pending.values() if entry.request.rouses]
        if self._call or not (held or (waiting and not any(entry.begun or entry.excused for entry in waiting))):
            return
        directive = held.request.directive if held else None
        place = directive.place if directive and not directive.returns else None
        self._call = _Call(held if place else None)
        yield Wake(place)

    def _input_came(self, event: InputCame, now: float) -> Iterator[Instruction]:
        if self._asleep and self._call is None:
            self._call = _Call(None)
            yield Wake(None)

    def _wake_ended(self, event: WakeEnded, now: float) -> Iterator[Instruction]:
        call, self._call = self._call, None
        if call is None or event.error is None or not self._asleep:
            return
        if call.entry is None:
            yield from self._sleep_on(event.error)
            return
        if call.entry in self._held():
            yield from self._refuse(call.entry, event.error)
        yield from self._rouse()

    def _sleep_on(self, error: SojournError) -> Iterator[Instruction]:
        wanted = [entry for entry in self._held() if entry.request.rouses]
        for entry in wanted:
            if entry in self._held():
                yield from self._refuse(entry, error)
        if not wanted and self.current:
            yield Tell(self.current, f"The session could not be woken: {error}\n")
        for entry in self._pending.values():
            entry.excused = True

    # patience

    def _impatient(self) -> Iterator[_Entry]:
        """Those that wait only so long while the session moves or sleeps."""
        for entry in self._pending.values():
            if entry.request.kind is Kind.QUESTION or ((self._asleep or self._yield) and _is_fact(entry)):
                yield entry
        for entry in self._held():
            silent = entry.executes and entry.request.silent
            if entry.request.kind is Kind.QUESTION or silent or (self._yield and _is_fact(entry)):
                yield entry

    def _time_passed(self, event: TimePassed, now: float) -> Iterator[Instruction]:
        if self._still_since is None or now < self._still_since + PATIENCE_SECONDS:
            return
        due = [entry for entry in self._impatient() if now >= entry.since + PATIENCE_SECONDS]
        for entry in due:
            yield from self._give_up(entry)

    def _give_up(self, entry: _Entry) -> Iterator[Instruction]:
        if self._pending.pop(entry.request.id, None):
            self._answered.add(entry.request.id)
        else:
            yield from self._drop(entry)
        yield _substitute(entry.request)

    # what cuts across

    def _interrupt_came(self, event: InterruptCame, now: float) -> Iterator[Instruction]:
        held = self._held_executes()
        first = self._errand.entry if self._errand and not self._errand.homeward else None
        if held and (self._asleep or self._yield):
            first = first or held[0]
        if held:
            yield from self._call_off()
        for entry in held:
            yield from self._drop(entry)
            if entry is first:
                yield Fail(entry.request, "KeyboardInterrupt", "The cell was interrupted before it ran.")
            else:
                yield Abort(entry.request)
        yield from self._interrupt_sleeper(event) if self._asleep else self._interrupt_kernel(event, bool(held))

    def _interrupt_kernel(self, event: InterruptCame, hit: bool) -> Iterator[Instruction]:
        if hit and self.current is None:
            yield ConfirmInterrupt(event.message)
        elif self._yield and self._yield.said:  # its answer might be lost with the kernel
            yield PassInterrupt(None)
            yield ConfirmInterrupt(event.message)
        else:
            yield PassInterrupt(event.message)

    def _interrupt_sleeper(self, event: InterruptCame) -> Iterator[Instruction]:
        """It wakes nobody. A cell that was frozen while it ran ends when it wakes; one interrupt is enough for that."""
        if self.current and not self._interrupted:
            self._interrupted = True
            yield PassInterrupt(None)
        yield ConfirmInterrupt(event.message)

    def _clear_hold(self) -> Iterator[Instruction]:
        yield from self._call_off()
        self._visit = None
        for entry in self._held():
            yield from self._drop(entry)
            if entry.executes:
                yield Abort(entry.request)
            elif entry.request.kind is Kind.QUESTION:
                yield AnswerEmpty(entry.request)
            elif not self._asleep:
                yield from self._forward(entry)

    def _shutdown_came(self, event: ShutdownCame, now: float) -> Iterator[Instruction]:
        yield from self._clear_hold()
        if event.message:
            yield Discard(event.message) if self._asleep else PassShutdown(event.message)

    def _program_exited(self, event: ProgramExited, now: float) -> Iterator[Instruction]:
        self._pending.clear()
        self._answered.clear()
        if self._yield:
            self._yield.heard = True
        yield from self._clear_hold()

    def _debts_found(self, event: DebtsFound, now: float) -> Iterator[Instruction]:
        for request in event.requests:
            self._count += 1
            self._pending[request.id] = _Entry(self._count, request, now, begun=True)
        yield from ()

    def _answers_lost(self, event: AnswersLost, now: float) -> Iterator[Instruction]:
        if self._yield and event.requests is None:
            self._yield = _Yield()  # the kernel that was asked is not there any more; what is held waits for the next
        lost = list(self._pending) if event.requests is None else [request.id for request in event.requests]
        for entry in [self._pending.pop(name) for name in lost if name in self._pending]:
            if self._visit and self._visit.entry is entry:
                self._visit = None
            yield from self._do_without(entry, event.error)

    def _do_without(self, entry: _Entry, error: SojournError) -> Iterator[Instruction]:
        if entry.request.kind is Kind.FACT and not self._asleep:
            if self._yield:
                self._hold(entry)
            else:
                yield from self._forward(entry)
            return
        self._answered.add(entry.request.id)
        if entry.executes:
            yield Fail(entry.request, type(error).__name__, error.message, error.hint)
            if not (self._asleep and entry.begun):  # what is held then was asked of a session that was known to sleep
                yield from self._abort_after(entry)
        else:
            yield _substitute(entry.request)


def _is_fact(entry: _Entry) -> bool:
    return entry.request.kind is Kind.FACT


def _substitute(request: Request) -> Instruction:
    """The answer of last resort."""
    if request.kind is Kind.FACT:
        return Recall(request)
    return Abort(request) if request.kind is Kind.EXECUTE else AnswerEmpty(request)


_HANDLERS: dict[type, Callable[[SwitchboardLaw, Any, float], Iterator[Instruction]]] = {
    RequestCame: SwitchboardLaw._request_came,
    ReplyCame: SwitchboardLaw._reply_came,
    CellBegan: SwitchboardLaw._cell_began,
    InputCame: SwitchboardLaw._input_came,
    InterruptCame: SwitchboardLaw._interrupt_came,
    ShutdownCame: SwitchboardLaw._shutdown_came,
    ProgramExited: SwitchboardLaw._program_exited,
    SessionChanged: SwitchboardLaw._session_changed,
    MoveEnded: SwitchboardLaw._move_ended,
    WakeEnded: SwitchboardLaw._wake_ended,
    DebtsFound: SwitchboardLaw._debts_found,
    AnswersLost: SwitchboardLaw._answers_lost,
    YieldAsked: SwitchboardLaw._yield_asked,
    KernelHeard: SwitchboardLaw._kernel_heard,
    GoneOn: SwitchboardLaw._gone_on,
    TimePassed: SwitchboardLaw._time_passed,
}
