"""What the law knows of a session and its move, and where clients find it."""

from __future__ import annotations

from dataclasses import dataclass

from sojourn.model import (
    MovePhase,
    MoveReport,
    MoveView,
    SandboxKind,
    SessionSpec,
    SessionStatus,
    SessionView,
    Strategy,
)

ENDED = frozenset({SessionStatus.STOPPED, SessionStatus.FAILED, SessionStatus.LOST})
NOTHING_YET = MoveReport()
_OVER = frozenset({MovePhase.DONE, MovePhase.FAILED})


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds, before a silence counts as an answer."""

    start_s: float = 300.0
    prepare_s: float = 300.0
    send_s: float = 300.0
    """Without progress, from the end of the preparation until the source has sent everything."""
    thaw_s: float = 60.0
    fill_s: float = 60.0
    """Without progress."""
    fence_s: float = 20.0
    """How long a target that can't be reached is waited for before the source goes on instead."""
    answer_s: float = 60.0
    """For an answer to commit, abandon and stop."""


@dataclass(frozen=True)
class Move:
    """One try to bring the session to another node; the last one stays here when it is over."""

    id: str
    source: str
    target: str
    strategy: Strategy
    source_incarnation: int
    incarnation: int
    """The one reserved for the target."""
    started_at: float
    phase: MovePhase = MovePhase.PREPARING
    sent: bool = False
    """The source has let go: from here only the law may say which of the two lives."""
    abandoned: bool = False
    """While rolling back: the target is gone or fenced, and the source has been told to go on."""
    scathed: bool = False
    """The source has lost something of what its connections carried: it goes on in a new epoch only."""
    source_lost: str = ""
    """Why the frozen source is gone; the target goes on if it has every page, or nothing does."""
    done_bytes: int = 0
    total_bytes: int = 0
    thawed_at: float | None = None
    report: MoveReport = NOTHING_YET
    error: dict[str, str] | None = None
    ended_at: float | None = None

    @property
    def over(self) -> bool:
        return self.phase in _OVER

    def eta_s(self, now: float) -> float | None:
        """Seconds until the last page is in, judged by the pace so far."""
        if self.thawed_at is None or not self.done_bytes or now <= self.thawed_at:
            return None
        return (self.total_bytes - self.done_bytes) * (now - self.thawed_at) / self.done_bytes

    def view(self, session: str) -> MoveView:
        known = {name: getattr(self, name) for name in MoveView.model_fields if name != "session"}
        return MoveView(session=session, **known)


@dataclass(frozen=True)
class Session:
    """Everything the law knows of one session."""

    id: str
    name: str
    owner: str
    spec: SessionSpec
    created_at: float
    node: str
    """Where the copy in charge lives."""
    status: SessionStatus = SessionStatus.PENDING
    incarnation: int = 1
    """That of the copy in charge."""
    issued: int = 1
    """The greatest ever given out."""
    epoch: int = 1
    sandbox: SandboxKind | None = None
    reason: str = ""
    deadline: float | None = None
    away: frozenset[str] = frozenset()
    """Nodes of this session that can't be reached just now."""
    stopping: frozenset[str] = frozenset()
    """Nodes that have not yet said that nothing of it is left."""
    move: Move | None = None
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def moving(self) -> Move | None:
        """The move under way."""
        return self.move if self.move and not self.move.over else None

    @property
    def nodes(self) -> frozenset[str]:
        """Where something of it may be."""
        return frozenset({self.node, self.move.source, self.move.target} if self.move else {self.node})

    def view(self) -> SessionView:
        known = {name: getattr(self, name) for name in SessionView.model_fields if name != "move"}
        return SessionView(move=self.moving.id if self.moving else None, **known)


@dataclass(frozen=True)
class Berth:
    """A place as the law knows it: without address and ticket."""

    node: str
    incarnation: int
    epoch: int


def place(session: Session) -> Berth | None:
    """Where clients find the session; None while it is nowhere."""
    status, move = session.status, session.moving
    if status not in (SessionStatus.RUNNING, SessionStatus.MOVING, SessionStatus.FILLING):
        return None
    if move and move.phase is MovePhase.ROLLING_BACK:
        return None
    return Berth(session.node, session.incarnation, session.epoch)


def next_place(session: Session) -> Berth | None:
    """Where clients may already knock and wait: the target, once prepared."""
    move = session.moving
    if move is None or move.phase is not MovePhase.DEPARTING:
        return None
    return Berth(move.target, move.incarnation, session.epoch)
