"""Carries out what the policies decide: looks every few seconds, does little at a time, backs off when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sojourn.client.words import CheckpointRequest, Decided, MoveRequest, Policies, SuspendRequest
from sojourn.controller.facts import TAKEN, Lookout, temporary
from sojourn.errors import Busy, DoesNotFit, Immovable, Incompatible, Invalid, SojournError, Unknown, Unreachable
from sojourn.model import Needs
from sojourn.policies import Decision, Facts, Rules, decide, forecasts, scheduled
from sojourn.settings import config_folder, file_settings

if TYPE_CHECKING:
    from sojourn.controller.controller import Controller

log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
GLANCE_SECONDS = 0.25
"""Between two looks for an eviction notice, and nothing else."""
AT_ONCE = 2
"""Sessions of one node that something is done with at a time: they share its bandwidth, so more would be no faster."""
FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
URGENT_PAUSE_SECONDS = (1.0, 15.0)
BUSY_PAUSE_SECONDS = 5.0
SHUNNED_SECONDS = 600.0
"""For so long a node that has refused a session is not tried again."""
REMEMBERED = 200


@dataclass
class Setback:
    """What went wrong with one session."""

    until: float = 0.0
    """Nothing is tried before."""
    pause_s: float = 0.0
    blocked: str = ""
    """It holds something that can't be frozen."""
    shunned: dict[str, float] = field(default_factory=dict)
    """Node -> until when it is not tried."""


class Setbacks:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of: dict[str, Setback] = {}

    def of(self, session: str) -> tuple[str, Collection[str]]:
        """Why nothing can be done with it just now, and the nodes that have refused it."""
        known, now = self._of.get(session), self._clock()
        if known is None:
            return "", ()
        return known.blocked if known.until > now else "", [node for node, end in known.shunned.items() if end > now]

    def allow(self, session: str) -> bool:
        known = self._of.get(session)
        return known is None or known.until <= self._clock()

    def failed(self, decision: Decision, error: SojournError) -> None:
        """Longer each time; not at all where another way may do, and short where the node ends soon."""
        known, now = self._of.setdefault(decision.session, Setback()), self._clock()
        if isinstance(error, Busy):
            known.until = now + BUSY_PAUSE_SECONDS * (0.2 if decision.urgent else 1)
            return
        if decision.target and isinstance(error, DoesNotFit | Incompatible | Unreachable):
            known.shunned[decision.target] = now + SHUNNED_SECONDS
            return
        first, longest = URGENT_PAUSE_SECONDS if decision.urgent else (FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        known.pause_s = min(max(2 * known.pause_s, first), longest)
        known.until = now + known.pause_s
        known.blocked = error.message if isinstance(error, Immovable) else ""

    def succeeded(self, session: str) -> None:
        self._of.pop(session, None)

    def forget_all_but(self, sessions: Collection[str]) -> None:
        self._of = {session: known for session, known in self._of.items() if session in sessions}


class Policing:
    """Of one controller. What it did is kept in memory: what matters of it stands in sessions and checkpoints."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._roster, self._clock = controller.roster, controller.clock
        self._lookout = Lookout(controller.roster, controller.reconciler, controller.activities, controller.clock)
        self._setbacks = Setbacks(controller.clock)
        self._drain_by: dict[str, float] = {}
        self._doing: dict[str, tuple[Decision, asyncio.Task[None]]] = {}
        self._said: dict[str, Decision] = {}
        """What was only said of each session, so that it is not said again."""
        self._done: deque[Decided] = deque(maxlen=REMEMBERED)
        self._looking: asyncio.Task[None] | None = None
        self._hand_free = asyncio.Event()
        """Something has ended, so that the next thing can be begun."""
        self._read_at: int | None = -1
        self.rules, self.problem = Rules.NONE, ""
        self.reread()

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self._looking = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """What is under way is the law's, and goes on; nobody waits for it any more."""
        tasks = [task for _, task in self._doing.values()] + ([self._looking] if self._looking else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reread(self) -> None:
        """The settings, if they have changed. What means nothing leaves the rules as they were."""
        changed_at = _settings_changed_at()
        if changed_at == self._read_at:
            return
        self._read_at = changed_at
        try:
            self.rules, self.problem = Rules.read(file_settings().get("policies", {})), ""
        except Invalid as wrong:
            self.problem = str(wrong)
            log.error("the policies stay as they were: %s", wrong)

    def clock_jumped(self) -> None:
        """The machine has slept, or its clock was set: nobody could have done anything meanwhile."""
        self._lookout.begin()

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────────

    def drain(
        self, node: str, by: str = "", deadline_s: float | None = None, dry_run: bool = False, reason: str = ""
    ) -> list[Decision]:
        """Bring nothing there any more, and everything away, by a deadline if one is given (seconds from now on). What
        is done, or with `dry_run` would be done, with each session there, the first first. Raises Unknown."""
        why = reason or (f"asked by {by}" if by else "asked for")
        until = None if deadline_s is None else self._clock() + deadline_s
        self._roster.node(node)
        if dry_run:
            facts = _draining(self._look(), node, why, until)
            return [one for one in decide(facts, self.rules, self._clock()) if one.node == node]
        self._roster.drain(node, why)
        self._drain_by.pop(node, None)
        if until is not None:
            self._drain_by[node] = until
        return [one for one in self._act() if one.node == node]

    def undrain(self, node: str) -> None:
        """Raises Unknown."""
        self._roster.drain(node, "")
        self._drain_by.pop(node, None)

    def state(self) -> Policies:
        """The rules, what each would do now, and what was done lately, newest first."""
        facts, now = self._look(), self._clock()
        return Policies(
            rules=self.rules.said(),
            decisions=tuple(map(decided, decide(facts, self.rules, now))),
            done=tuple(reversed(self._done)),
            forecasts=tuple(one.said() for one in forecasts(facts, self.rules, now)),
            problem=self.problem,
        )

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        looked_at, notices = -LOOK_SECONDS, self._notices()
        loop = asyncio.get_running_loop()
        while True:
            due = self._hand_free.is_set() or loop.time() - looked_at >= LOOK_SECONDS
            if due or notices != self._notices():
                self._hand_free.clear()
                looked_at, notices = loop.time(), self._notices()
                try:
                    self._act()
                except Exception:
                    log.exception("a defect in the policies")
            with suppress(TimeoutError):
                async with asyncio.timeout(GLANCE_SECONDS):  # `wait_for` may swallow a cancellation
                    await self._hand_free.wait()

    def _notices(self) -> list[Any]:
        return [(view.name, view.load.eviction) for view in self._roster.views() if view.load.eviction]

    def _look(self) -> Facts:
        return self._lookout.look(self.rules, self._drain_by, self._setbacks.of)

    def _act(self) -> list[Decision]:
        """One round: close and open nodes, decide, begin what there is a hand free for. The rest is decided anew next
        time: nothing waits in a queue until it is out of date."""
        self.reread()
        facts = self._look()
        self._close_and_open(facts)
        decisions = decide(facts, self.rules, self._clock())
        self._setbacks.forget_all_but({session.id for session in facts.sessions})
        self._say(decisions)
        hands = Counter(decision.node for decision, _ in self._doing.values())
        for decision in decisions:
            if _acts(decision) and self._free(decision) and hands[decision.node] < AT_ONCE:
                hands[decision.node] += 1
                self._begin(decision)
        return decisions

    def _free(self, decision: Decision) -> bool:
        return decision.session not in self._doing and self._setbacks.allow(decision.session)

    def _close_and_open(self, facts: Facts) -> None:
        """Nothing is to be started on, or woken on, what is taken away or is to be empty."""
        for node in facts.nodes:
            told = self._roster.view(node.name).draining
            wanted = scheduled(node, self.rules, self._clock())
            if node.eviction and self.rules.everybody.spot.on:
                wanted = f"{node.eviction.source} {TAKEN}"
            if told != wanted and (not told or temporary(told)):
                self._roster.drain(node.name, wanted)

    def _say(self, decisions: list[Decision]) -> None:
        """What is not carried out is told once, not every few seconds."""
        said = {one.session: one for one in decisions if one.dry_run or one.kind == "propose"}
        for session, decision in said.items():
            if _key(decision) != _key(self._said.get(session)):
                log.info("%s: %s %s (only said): %s", decision.rule, decision.kind, session, decision.why)
                self._done.append(decided(decision, at=self._clock()))
        self._said = said

    # ── doing ────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, decision: Decision) -> None:
        log.info("%s: %s %s: %s", decision.rule, decision.kind, decision.session, decision.why)
        self._done.append(decided(decision, at=self._clock()))
        task = asyncio.create_task(self._carry_out(decision, self._done[-1]))
        self._doing[decision.session] = (decision, task)
        task.add_done_callback(lambda _: self._end(decision))

    def _end(self, decision: Decision) -> None:
        self._doing.pop(decision.session, None)
        self._hand_free.set()

    async def _carry_out(self, decision: Decision, record: Decided) -> None:
        error: SojournError | None = None
        try:
            await self._deed(decision)
        except Unknown:
            error = None  # it has ended meanwhile
        except SojournError as failed:
            error = failed
        except Exception as defect:
            log.exception("a defect in the policies")
            error = SojournError(f"The controller failed: {defect!r}", "See its log.")
        if error:
            log.warning("%s: could not %s %s: %s", decision.rule, decision.kind, decision.session, error)
            self._setbacks.failed(decision, error)
        else:
            self._setbacks.succeeded(decision.session)
        self._amend(record, error)

    def _deed(self, decision: Decision) -> Awaitable[Any]:
        """Until it is done: a session is safe elsewhere when its last page is."""
        session = self._controller.reconciler.get(decision.session)
        if decision.kind == "move":
            to = Needs(node=decision.target, memory_bytes=decision.memory_bytes)
            return self._controller.moves.move(session, MoveRequest(to=to, carrier="criu", wait="filled"))
        if decision.kind == "checkpoint":
            return self._controller.sleep.checkpoint(session, CheckpointRequest(wait="done"), "background")
        force = decision.rule in ("spot", "drain") or self._in_cells(decision)
        return self._controller.sleep.suspend(session, SuspendRequest(wait="done", force=force))

    def _in_cells(self, decision: Decision) -> bool:
        session = self._controller.reconciler.get(decision.session)
        return self.rules.of(session.owner, session.name or session.id).idle.in_cells and decision.rule == "idle"

    def _amend(self, record: Decided, error: SojournError | None) -> None:
        ended = {"ended_at": self._clock(), "error": error.to_wire() if error else None}
        with suppress(ValueError):
            self._done[self._done.index(record)] = record.model_copy(update=ended)


def _settings_changed_at() -> int | None:
    try:
        return (config_folder() / "config.toml").stat().st_mtime_ns
    except OSError:
        return None


def decided(decision: Decision, at: float | None = None) -> Decided:
    known = {name: getattr(decision, name) for name in Decided.model_fields if hasattr(decision, name)}
    return Decided(**known, at=at)


def _acts(decision: Decision) -> bool:
    return not decision.dry_run and decision.kind in ("suspend", "move", "checkpoint")


def _key(decision: Decision | None) -> tuple[Any, ...] | None:
    return (decision.kind, decision.rule, decision.target, decision.dry_run) if decision else None


def _draining(facts: Facts, node: str, why: str, until: float | None) -> Facts:
    nodes = (replace(one, draining=why, drain_by=until) if one.name == node else one for one in facts.nodes)
    return replace(facts, nodes=tuple(nodes))
