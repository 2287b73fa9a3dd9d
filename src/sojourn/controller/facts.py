"""What the policies are told, gathered from what nodes, fronts and the law say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from sojourn.controller.activity import Activities
from sojourn.controller.fitness import unfit
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.roster import Roster
from sojourn.lifecycle import Move, Session
from sojourn.model import MovePhase, NodeStatus, NodeView, SessionStatus
from sojourn.model.nodes import SessionLoad
from sojourn.placement import free_memory, why_not
from sojourn.policies import SCHEDULED, Facts, History, NodeFacts, Rules, Sample, SessionFacts

TAKEN = "takes it away"
"""How the reason ends why an evicted node is drained."""
_TELLING_BYTES = 64 * 2**20
"""Moves of less say nothing of a link's bandwidth."""
_AWAKE = frozenset(set(SessionStatus) - {SessionStatus.PENDING, SessionStatus.SUSPENDED, SessionStatus.STOPPING})
PLAIN = "it is a plain process, which can be neither moved nor saved"


class Lookout:
    """Keeps what can't be asked for: how memory has grown, when a cell last ran, how fast links were."""

    def __init__(
        self, roster: Roster, reconciler: Reconciler, activities: Activities, clock: Callable[[], float]
    ) -> None:
        self._roster, self._reconciler, self._activities, self._clock = roster, reconciler, activities, clock
        self.begin()
        self._histories: dict[str, History] = {}
        self._executed_at: dict[str, float] = {}
        self._measured: dict[str, tuple[str, float]] = {}
        """Node -> the last move that left it, and its bytes per second."""

    def begin(self) -> None:
        """Nothing is known from before this moment, so nothing counts as idle since before."""
        self._began_at = self._clock()

    def look(
        self, rules: Rules, drain_by: dict[str, float], setbacks: Callable[[str], tuple[str, Collection[str]]]
    ) -> Facts:
        """`drain_by`: node -> when it is to be empty. `setbacks`: session -> why nothing can be done with it, and the
        nodes that have lately refused it."""
        views = {view.name: view for view in self._roster.views()}
        sessions = [one for one in self._reconciler.living() if one.status in _AWAKE]
        loads = _loads(views.values())
        self._remember(sessions, views, loads)
        coming = _coming(sessions, loads)
        nodes = (self._node(view, rules, drain_by.get(view.name), coming[view.name]) for view in views.values())
        return Facts(
            tuple(nodes),
            tuple(
                self._session(one, views, loads.get((one.node, one.id)), rules, setbacks(one.id)) for one in sessions
            ),
        )

    # ── remembering ──────────────────────────────────────────────────────────────────────────────────────────

    def _remember(
        self, sessions: list[Session], views: dict[str, NodeView], loads: dict[tuple[str, str], SessionLoad]
    ) -> None:
        living = {session.id for session in sessions}
        self._histories = {one: history for one, history in self._histories.items() if one in living}
        self._executed_at = {one: at for one, at in self._executed_at.items() if one in living}
        for session in sessions:
            activity = self._activities.of(session.id)
            if activity and activity.executing:
                self._executed_at[session.id] = self._clock()
            if session.move:
                self._measure(session.move)
            if _busy(session, self._clock()):
                self._history(session).interrupt(self._clock())
            elif load := loads.get((session.node, session.id)):
                sample = Sample(views[session.node].seen_at, load.memory_bytes, load.cpu_seconds, load.network_bytes)
                self._history(session).add(sample)

    def _history(self, session: Session) -> History:
        found = self._histories.get(session.id)
        if found is None or found.node != session.node:
            found = self._histories[session.id] = History(session.node)
        return found

    def _measure(self, move: Move) -> None:
        if move.phase is not MovePhase.DONE or self._measured.get(move.source, ("", 0.0))[0] == move.id:
            return
        seconds = move.report.filled_s or move.report.frozen_s
        if move.report.page_bytes >= _TELLING_BYTES and seconds > 0:
            self._measured[move.source] = (move.id, move.report.page_bytes / seconds)

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────────

    def _node(self, view: NodeView, rules: Rules, drain_by: float | None, coming: int) -> NodeFacts:
        rule = rules.node(view.name, view.labels)
        return NodeFacts(
            name=view.name,
            memory_bytes=view.capacity.memory_bytes,
            free_bytes=free_memory(view) - coming,
            cores=view.capacity.cores,
            labels=view.labels,
            machine=view.capabilities.machine_id,
            online=view.status is NodeStatus.ONLINE,
            price=rule.price,
            spot=rule.spot,
            eviction=view.load.eviction,
            draining="" if temporary(view.draining) else view.draining,
            drain_by=drain_by if view.draining else None,
            save_bytes_per_s=view.load.save_bytes_per_s,
            link_bytes_per_s=self._measured.get(view.name, ("", float(rule.link)))[1],
        )

    def _session(
        self,
        session: Session,
        views: dict[str, NodeView],
        load: SessionLoad | None,
        rules: Rules,
        setback: tuple[str, Collection[str]],
    ) -> SessionFacts:
        history = self._history(session)
        activity = self._activities.of(session.id)
        executing = activity.executing if activity else None
        blocked, shunned = setback
        return SessionFacts(
            id=session.id,
            node=session.node,
            owner=session.owner,
            name=session.name,
            status=session.status,
            busy=_busy(session, self._clock()),
            precious=rules.of(session.owner, session.name or session.id).precious,
            born_at=session.created_at,
            memory_bytes=load.memory_bytes if load else 0,
            needs_bytes=session.spec.needs.memory_bytes,
            limit_bytes=load.memory_limit_bytes if load else None,
            growth_bytes_per_s=history.growth_bytes_per_s,
            peak_bytes=history.peak_bytes,
            pressure=load.memory_pressure if load else 0.0,
            cores_used=history.cores_used,
            busiest_cores=history.busiest_cores,
            watched_s=history.watched_s,
            executing=executing,
            idle_since=self._idle_since(session, activity.at, executing, history) if activity else None,
            saved_at=max((kept.saved_at for kept in session.checkpoints), default=None),
            can_move_to=() if blocked else tuple(_havens(session, views, shunned)),
            blocked=blocked or (PLAIN if session.sandbox == "process" else ""),
        )

    def _idle_since(self, session: Session, at: float, executing: bool | None, history: History) -> float:
        """While a cell runs, what it computes does not count: only that somebody does something."""
        woken = session.wake.thawed_at if session.wake and session.wake.thawed_at else session.created_at
        worked = 0.0 if executing else history.active_at or 0.0
        return max(at, woken, worked, self._executed_at.get(session.id, 0.0) if not executing else 0.0, self._began_at)


def temporary(reason: str) -> bool:
    """Whether a node is drained for as long as a policy says so, and not until a person ends it."""
    return reason.startswith(SCHEDULED) or reason.endswith(TAKEN)


def _loads(views: Iterable[NodeView]) -> dict[tuple[str, str], SessionLoad]:
    """(node, session) -> what it uses there."""
    return {(view.name, load.session): load for view in views for load in view.load.used}


def _coming(sessions: list[Session], loads: dict[tuple[str, str], SessionLoad]) -> defaultdict[str, int]:
    """Node -> bytes of the sessions on their way there that its free memory does not show yet."""
    coming: defaultdict[str, int] = defaultdict(int)
    for session in sessions:
        if move := session.moving:
            load = loads.get((move.source, session.id))
            whole = move.total_bytes or (load.memory_bytes if load else session.spec.needs.memory_bytes)
            coming[move.target] += max(0, whole - move.done_bytes)
        elif wake := session.waking:
            coming[wake.node] += max(0, wake.total_bytes - wake.done_bytes)
    return coming


def _havens(session: Session, views: dict[str, NodeView], shunned: Collection[str]) -> Iterable[str]:
    """Where it could go, room apart."""
    home = views.get(session.node)
    needs = session.spec.needs.model_copy(update={"node": None, "memory_bytes": 0})
    for name, node in views.items():
        if home is None or name == session.node or name in shunned:
            continue
        if not why_not(node, needs) and not unfit(session, home, node):
            yield name


def _busy(session: Session, now: float) -> str:
    """What it is in the middle of; empty: something can be done with it."""
    if session.away:
        return f"{session.node} does not answer"
    if move := session.moving:
        return _with_eta(f"it is on its way from {move.source} to {move.target}", move.eta_s(now))
    if save := session.saving:
        return _with_eta("it is being saved", save.eta_s(now))
    if wake := session.waking:
        return _with_eta("it is waking", wake.eta_s(now))
    return "" if session.status is SessionStatus.RUNNING else f"it is {session.status}"


def _with_eta(doing: str, seconds: float | None) -> str:
    return doing if seconds is None else f"{doing}, for about {max(seconds, 1):.0f} s more"
