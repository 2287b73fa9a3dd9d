"""What the law knows of a session and its move, and where clients find it."""

from __future__ import annotations

from dataclasses import dataclass

from sojourn.model import (
    CheckpointKind,
    MovePhase,
    MoveReport,
    MoveView,
    SandboxKind,
    SavePhase,
    SaveReport,
    SaveView,
    SessionSpec,
    SessionStatus,
    SessionView,
    Strategy,
    WakePhase,
    WakeView,
)

ENDED = frozenset({SessionStatus.STOPPED, SessionStatus.FAILED, SessionStatus.LOST})
ASLEEP = frozenset({SessionStatus.SUSPENDED, SessionStatus.WAKING})
"""Nothing of it runs, as far as anybody is to know."""
NOTHING_YET = MoveReport()
NOTHING_SAVED = SaveReport()
_OVER = frozenset({MovePhase.DONE, MovePhase.FAILED})
_SAVE_OVER = frozenset({SavePhase.DONE, SavePhase.FAILED})
_WAKE_OVER = frozenset({WakePhase.DONE, WakePhase.FAILED})


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
    save_s: float = 300.0
    """Without progress, until a checkpoint is whole."""
    wake_s: float = 300.0
    """Without progress, until a checkpoint is thawed."""


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
        return None if self.thawed_at is None else _eta_s(self.done_bytes, self.total_bytes, now - self.thawed_at)

    def view(self, session: str) -> MoveView:
        known = {name: getattr(self, name) for name in MoveView.model_fields if name != "session"}
        return MoveView(session=session, **known)


@dataclass(frozen=True)
class Save:
    """One try to write the session's state into the store; the last one stays here when it is over."""

    id: str
    """The checkpoint's, too."""
    kind: CheckpointKind
    name: str
    node: str
    incarnation: int
    """Of the copy that is saved."""
    keep: bool
    """The session goes on as soon as its state is copied; else it is suspended."""
    started_at: float
    phase: SavePhase = SavePhase.SAVING
    saved: bool = False
    """The checkpoint is whole."""
    abandoned: bool = False
    """The node has been told to let the session go on: what stands frozen there does not sleep in this checkpoint."""
    scathed: bool = False
    """The session has lost something of what its connections carried: it goes on in a new epoch only."""
    done_bytes: int = 0
    total_bytes: int = 0
    report: SaveReport = NOTHING_SAVED
    error: dict[str, str] | None = None
    ended_at: float | None = None

    @property
    def over(self) -> bool:
        return self.phase in _SAVE_OVER

    def eta_s(self, now: float) -> float | None:
        """Seconds until the checkpoint is whole, judged by the pace so far."""
        return _eta_s(self.done_bytes, self.total_bytes, now - self.started_at)

    def view(self, session: str) -> SaveView:
        known = {name: getattr(self, name) for name in SaveView.model_fields if name != "session"}
        return SaveView(session=session, **known)


@dataclass(frozen=True)
class Wake:
    """One try to bring the session back from a checkpoint; the last one stays here when it is over."""

    id: str
    checkpoint: str
    node: str
    incarnation: int
    exact: bool
    """Clients have seen nothing since the state it wakes in: their streams go on."""
    started_at: float
    phase: WakePhase = WakePhase.WAKING
    abandoned: bool = False
    """Nothing that this wake brought counts any more."""
    thawed_at: float | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    error: dict[str, str] | None = None
    ended_at: float | None = None

    @property
    def over(self) -> bool:
        return self.phase in _WAKE_OVER

    def eta_s(self, now: float) -> float | None:
        """Seconds until the last page is in, judged by the pace so far."""
        return None if self.thawed_at is None else _eta_s(self.done_bytes, self.total_bytes, now - self.thawed_at)

    def view(self, session: str) -> WakeView:
        known = {name: getattr(self, name) for name in WakeView.model_fields if name != "session"}
        return WakeView(session=session, **known)


def _eta_s(done_bytes: int, total_bytes: int, seconds: float) -> float | None:
    return (total_bytes - done_bytes) * seconds / done_bytes if done_bytes and seconds > 0 else None


@dataclass(frozen=True)
class Kept:
    """A whole checkpoint that the session can go back to."""

    id: str
    saved_at: float
    """Seconds since the epoch: nothing done after it is in it."""


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
    save: Save | None = None
    wake: Wake | None = None
    checkpoint: str | None = None
    """What it sleeps in, or is waking from; always the first of `checkpoints`, while that is whole."""
    exact: bool = False
    """While it sleeps: clients have seen nothing since the state it sleeps in."""
    checkpoints: tuple[Kept, ...] = ()
    """The whole ones. First the one nearest to its state: the newest, or what it was last taken back to."""
    origin: str | None = None
    """The session that it was forked from."""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def asleep(self) -> bool:
        """Suspended or waking: no copy is in charge."""
        return self.status in ASLEEP

    @property
    def moving(self) -> Move | None:
        """The move under way."""
        return self.move if self.move and not self.move.over else None

    @property
    def saving(self) -> Save | None:
        """The save under way; once the session is suspended, as long as a frozen copy is still being removed."""
        return self.save if self.save and not self.save.over else None

    @property
    def waking(self) -> Wake | None:
        """The wake under way, until its last page is in, or nothing of it is left."""
        return self.wake if self.wake and not self.wake.over else None

    @property
    def nodes(self) -> frozenset[str]:
        """Where something of it may be."""
        moved = {self.move.source, self.move.target} if self.move else set()
        slept = {one.node for one in (self.save, self.wake) if one}
        return frozenset({self.node} | moved | slept)

    def view(self) -> SessionView:
        # What stands frozen of a session that sleeps is its node's affair.
        saving = self.saving if self.status is not SessionStatus.SUSPENDED else None
        under_way = {"move": self.moving.id if self.moving else None, "save": saving.id if saving else None}
        known = {name: getattr(self, name) for name in SessionView.model_fields if name not in under_way}
        return SessionView(**known, **under_way)


@dataclass(frozen=True)
class Berth:
    """A place as the law knows it: without address and ticket."""

    node: str
    incarnation: int
    epoch: int


def place(session: Session) -> Berth | None:
    """Where clients find the session, be it frozen: then they wait there. None while it is nowhere."""
    move, save = session.moving, session.saving
    if session.status not in _SOMEWHERE:
        return None
    if move and move.phase is MovePhase.ROLLING_BACK:
        return None
    if save and save.phase is SavePhase.ROLLING_BACK:
        return None
    return Berth(session.node, session.incarnation, session.epoch)


_SOMEWHERE = frozenset(
    {SessionStatus.RUNNING, SessionStatus.MOVING, SessionStatus.FILLING, SessionStatus.SUSPENDING},
)


def arrival_epoch(session: Session, move: Move) -> int:
    """That of the session at the target: objects come into another kernel, with which streams begin anew."""
    return session.epoch + (move.strategy == "objects")


def next_place(session: Session) -> Berth | None:
    """Where clients may already knock and wait: the target, once prepared, or where it wakes."""
    move, wake = session.moving, session.waking
    if move and move.phase is MovePhase.DEPARTING:
        return Berth(move.target, move.incarnation, arrival_epoch(session, move))
    if wake and wake.phase is WakePhase.WAKING:
        return Berth(wake.node, wake.incarnation, session.epoch)
    return None
