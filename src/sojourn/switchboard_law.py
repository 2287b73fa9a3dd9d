"""The switchboard's law: what becomes of each request while a kernel moves, or is about to.

Events go in, past tense; instructions come out, imperative; time is an argument. The law sees requests and replies
of the shell channel and the few control messages that matter. iopub, stdin and everything else pass it by.

- A cell with a directive waits until all executes that came before it, from whomever, have finished. Then the session
  is moved, then the cell goes to the kernel. What the same client sends after it on the same (sub)shell, a **lane**,
  queues behind it, in order. Other lanes go on.
- A kernel aborts only what is in its own queue. What is held here is aborted here: after an error with
  `stop_on_error` (all clients' later cells on that subshell), and by an interrupt, which also cancels the move.
- Silent executes, questions (completions and the like) and comm messages never cause a move. While a session moves,
  questions wait at most a second and then get an empty answer; the kernel's own, should it still come, is dropped.
- After a reset of the streams, or a crash of the front, answers are lost: what was pending gets an explicit error,
  once, from here, and no cell is run again by itself. Only what changes nothing is asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from sojourn.directive import Directive
from sojourn.errors import SojournError

PATIENCE_SECONDS = 1.0
"""How long a question or a silent execute may wait for a session that moves."""


class Kind(Enum):
    EXECUTE = auto()
    QUESTION = auto()
    """Has an empty answer: completions, inspection, is_complete, history."""
    OTHER = auto()
    """Gets a reply that nobody but the kernel can give, and changes nothing: kernel_info and comm_info."""
    NOTICE = auto()
    """Gets no reply: comm messages."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A request on the shell channel, as much of it as the law needs."""

    id: str
    client: bytes
    subshell: str | None
    kind: Kind
    silent: bool = False
    stops_on_error: bool = True
    directive: Directive | None = None
    fault: SojournError | None = None
    """What is wrong with its directive; told when its turn comes, as a kernel would."""
    message: Any = None
    """What the switchboard needs to forward or answer it; the law does not look."""


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RequestCame:
    request: Request


@dataclass(frozen=True, slots=True)
class ReplyCame:
    """The kernel answered the request `id` on shell."""

    id: str
    failed: bool
    message: Any = None


@dataclass(frozen=True, slots=True)
class InterruptCame:
    """`message`: the client's interrupt_request; None when it came as a signal."""

    message: Any = None


@dataclass(frozen=True, slots=True)
class ShutdownCame:
    """The program is about to be ended or restarted by its owner."""


@dataclass(frozen=True, slots=True)
class ProgramExited:
    """The kernel's process ended: what it had been asked will never be answered."""


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """`moving`: a move is under way. `frozen`: nothing of the session runs."""

    node: str | None
    moving: bool
    frozen: bool


@dataclass(frozen=True, slots=True)
class MoveEnded:
    """The move the law asked for. `moved` is False when the session was at the place already."""

    moved: bool
    error: SojournError | None = None


@dataclass(frozen=True, slots=True)
class DebtsFound:
    """These went to the kernel in an earlier life of the front; it may have answered them since."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class AnswersLost:
    """What is still pending of these will not be answered any more. None: of all; the streams were reset because the
    session went on from an older state, or is gone."""

    error: SojournError
    requests: tuple[Request, ...] | None = None


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline of `next_deadline` may have come."""


Event = (
    RequestCame
    | ReplyCame
    | InterruptCame
    | ShutdownCame
    | ProgramExited
    | SessionChanged
    | MoveEnded
    | DebtsFound
    | AnswersLost
    | TimePassed
)

# ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Forward:
    """Send it to the kernel."""

    request: Request


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the kernel's reply to its client."""

    message: Any


@dataclass(frozen=True, slots=True)
class Abort:
    """Answer with `aborted`, and busy/idle, as the kernel would have."""

    request: Request


@dataclass(frozen=True, slots=True)
class Fail:
    """Answer with an error, as the kernel would have."""

    request: Request
    name: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AnswerEmpty:
    request: Request


@dataclass(frozen=True, slots=True)
class Tell:
    """Write to the cell's stderr."""

    request: Request
    text: str


@dataclass(frozen=True, slots=True)
class Move:
    """Ask for the session to be moved; MoveEnded must follow."""

    place: str


@dataclass(frozen=True, slots=True)
class CancelMove:
    """Take back the last Move if that is still possible; MoveEnded follows all the same."""


@dataclass(frozen=True, slots=True)
class PassInterrupt:
    message: Any


@dataclass(frozen=True, slots=True)
class ConfirmInterrupt:
    """It hit held cells only: tell the client it is done, and spare the kernel."""

    message: Any


Instruction = (
    Forward | Deliver | Abort | Fail | AnswerEmpty | Tell | Move | CancelMove | PassInterrupt | ConfirmInterrupt
)

# ── the law ──────────────────────────────────────────────────────────────────────────────────────────────────

Lane = tuple[bytes, str | None]


@dataclass(slots=True, eq=False)
class _Entry:
    number: int
    """Counts up with each arrival."""
    request: Request
    since: float

    @property
    def lane(self) -> Lane:
        return (self.request.client, self.request.subshell)

    @property
    def executes(self) -> bool:
        return self.request.kind is Kind.EXECUTE


@dataclass(slots=True)
class _Errand:
    """A move under way on behalf of a cell. `entry` is None once that cell was cancelled."""

    entry: _Entry | None
    origin: str | None
    homeward: bool = False


@dataclass(slots=True)
class _Visit:
    """A cell with `--return` that runs, or has run, away from `origin`."""

    entry: _Entry
    origin: str


@dataclass(slots=True)
class SwitchboardLaw:
    """The state; `handle` is the whole of its interface, with `next_deadline` and `current`."""

    _node: str | None = None
    _moving_since: float | None = None
    _frozen: bool = False
    _count: int = 0
    _pending: dict[str, _Entry] = field(default_factory=dict)
    """With the kernel, not yet answered, in order of arrival there."""
    _lanes: dict[Lane, deque[_Entry]] = field(default_factory=dict)
    """Held requests; a lane with nothing to hold is not here."""
    _answered: set[str] = field(default_factory=set)
    """Answered here although the kernel may still answer."""
    _errand: _Errand | None = None
    _visit: _Visit | None = None

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event in; `now` is in seconds of any clock that only grows."""
        instructions = list(_HANDLERS[type(event)](self, event, now))
        if self._lanes:
            instructions.extend(self._advance(now))
        return instructions

    def next_deadline(self) -> float | None:
        """When TimePassed is due; None: not before another event."""
        if self._moving_since is None:
            return None
        since = min((entry.since for entry in self._impatient()), default=None)
        return None if since is None else max(since, self._moving_since) + PATIENCE_SECONDS

    @property
    def current(self) -> Request | None:
        """The execute that runs, or will next: whose output is on its way."""
        return next((entry.request for entry in self._pending.values() if entry.executes), None)

    # requests and replies

    def _request_came(self, event: RequestCame, now: float) -> Iterator[Instruction]:
        self._count += 1
        entry = _Entry(self._count, event.request, now)
        if entry.lane in self._lanes or self._blocks(entry) or self._is_away(entry.lane):
            self._lanes.setdefault(entry.lane, deque()).append(entry)
        else:
            yield self._forward(entry)

    def _forward(self, entry: _Entry) -> Forward:
        if entry.request.kind is not Kind.NOTICE:
            self._pending[entry.request.id] = entry
        return Forward(entry.request)

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
        return _travels(entry.request) or (entry.executes and entry.request.silent and self._frozen)

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
                yield self._forward(queue.popleft())
            if not queue:
                del self._lanes[lane]

    def _next_traveller(self) -> _Entry | None:
        """The held cell whose turn it is to have the session moved."""
        if self._errand:
            return None
        heads = (queue[0] for queue in self._lanes.values())
        return next((entry for entry in heads if _travels(entry.request) and self._has_turn(entry)), None)

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
        if self._moving_since is None:
            self._moving_since = now
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
        self._moving_since = now if self._frozen else None
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
        if event.error:
            yield from self._refuse(entry, event.error)
            return
        yield from self._drop(entry)
        directive = entry.request.directive
        if directive and directive.returns and event.moved and origin:
            self._visit = _Visit(entry, origin)
        yield self._forward(entry)

    def _refuse(self, entry: _Entry, error: SojournError) -> Iterator[Instruction]:
        yield from self._drop(entry)
        yield Fail(entry.request, type(error).__name__, error.message, f"{error.hint} The cell did not run.".lstrip())
        yield from self._abort_after(entry)

    def _session_changed(self, event: SessionChanged, now: float) -> Iterator[Instruction]:
        self._node, self._frozen = event.node, event.frozen
        if not event.moving and not self._errand:
            self._moving_since = None
        elif self._moving_since is None:
            self._moving_since = now
        yield from ()

    # patience

    def _impatient(self) -> Iterator[_Entry]:
        """Those that wait only so long while the session moves."""
        for entry in self._pending.values():
            if entry.request.kind is Kind.QUESTION:
                yield entry
        for entry in self._held():
            if entry.request.kind is Kind.QUESTION or (entry.executes and entry.request.silent):
                yield entry

    def _time_passed(self, event: TimePassed, now: float) -> Iterator[Instruction]:
        if self._moving_since is None or now < self._moving_since + PATIENCE_SECONDS:
            return
        due = [entry for entry in self._impatient() if now >= entry.since + PATIENCE_SECONDS]
        for entry in due:
            yield from self._give_up(entry)

    def _give_up(self, entry: _Entry) -> Iterator[Instruction]:
        if self._pending.pop(entry.request.id, None):
            self._answered.add(entry.request.id)
        else:
            yield from self._drop(entry)
        yield Abort(entry.request) if entry.executes else AnswerEmpty(entry.request)

    # what cuts across

    def _interrupt_came(self, event: InterruptCame, now: float) -> Iterator[Instruction]:
        held = self._held_executes()
        traveller = self._errand.entry if self._errand and not self._errand.homeward else None
        if held:
            yield from self._call_off()
        for entry in held:
            yield from self._drop(entry)
            if entry is traveller:
                yield Fail(entry.request, "KeyboardInterrupt", "The cell was interrupted before it ran.")
            else:
                yield Abort(entry.request)
        runs = self.current is not None
        yield PassInterrupt(event.message) if runs or not held else ConfirmInterrupt(event.message)

    def _clear_hold(self) -> Iterator[Instruction]:
        yield from self._call_off()
        self._visit = None
        for entry in self._held():
            yield from self._drop(entry)
            if entry.executes:
                yield Abort(entry.request)
            elif entry.request.kind is Kind.QUESTION:
                yield AnswerEmpty(entry.request)
            else:
                yield self._forward(entry)

    def _shutdown_came(self, event: ShutdownCame, now: float) -> Iterator[Instruction]:
        yield from self._clear_hold()

    def _program_exited(self, event: ProgramExited, now: float) -> Iterator[Instruction]:
        self._pending.clear()
        self._answered.clear()
        yield from self._clear_hold()

    def _debts_found(self, event: DebtsFound, now: float) -> Iterator[Instruction]:
        for request in event.requests:
            self._count += 1
            self._pending[request.id] = _Entry(self._count, request, now)
        yield from ()

    def _answers_lost(self, event: AnswersLost, now: float) -> Iterator[Instruction]:
        lost = list(self._pending) if event.requests is None else [request.id for request in event.requests]
        for entry in [self._pending.pop(name) for name in lost if name in self._pending]:
            if self._visit and self._visit.entry is entry:
                self._visit = None
            yield from self._do_without(entry, event.error)

    def _do_without(self, entry: _Entry, error: SojournError) -> Iterator[Instruction]:
        if entry.request.kind is Kind.OTHER:
            yield self._forward(entry)
            return
        self._answered.add(entry.request.id)
        if entry.executes:
            yield Fail(entry.request, type(error).__name__, error.message, error.hint)
            yield from self._abort_after(entry)
        else:
            yield AnswerEmpty(entry.request)


def _travels(request: Request) -> bool:
    return request.directive is not None or request.fault is not None


_HANDLERS: dict[type, Callable[[SwitchboardLaw, Any, float], Iterator[Instruction]]] = {
    RequestCame: SwitchboardLaw._request_came,
    ReplyCame: SwitchboardLaw._reply_came,
    InterruptCame: SwitchboardLaw._interrupt_came,
    ShutdownCame: SwitchboardLaw._shutdown_came,
    ProgramExited: SwitchboardLaw._program_exited,
    SessionChanged: SwitchboardLaw._session_changed,
    MoveEnded: SwitchboardLaw._move_ended,
    DebtsFound: SwitchboardLaw._debts_found,
    AnswersLost: SwitchboardLaw._answers_lost,
    TimePassed: SwitchboardLaw._time_passed,
}
