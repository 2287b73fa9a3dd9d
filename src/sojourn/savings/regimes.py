"""Ways to run the same sessions: never ending them, culling them, or Sojourn's own policies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from sojourn.policies import Decision, Facts, Rules, decide

HOUR = 3600.0


class Regime(Protocol):
    """What is done with sessions, and when."""

    name: str
    keeps_state: bool
    """A session that was suspended comes back as it was; else its kernel starts anew, and its cells are run again."""

    def due(self, user: str, session: str, idle_since: float) -> float:
        """When it may want to do something with a session that stays idle; infinite: never."""

    def decide(self, facts: Callable[[], Facts], now: float) -> list[Decision]: ...


class AlwaysOn:
    """A session runs until somebody shuts it down."""

    name = "always on"
    keeps_state = True

    def due(self, user: str, session: str, idle_since: float) -> float:
        return math.inf

    def decide(self, facts: Callable[[], Facts], now: float) -> list[Decision]:
        return []


class Cull:
    """Idle sessions are ended and their state is lost, as Zero to JupyterHub does by default."""

    name = "cull"
    keeps_state = False

    def __init__(self, after_s: float = HOUR, every_s: float = 600.0) -> None:
        """Zero to JupyterHub's `cull.timeout` and `cull.every`."""
        self._after_s, self._every_s = after_s, every_s

    def due(self, user: str, session: str, idle_since: float) -> float:
        return math.ceil((idle_since + self._after_s) / self._every_s) * self._every_s

    def decide(self, facts: Callable[[], Facts], now: float) -> list[Decision]:
        return [
            Decision("suspend", one.id, one.node, None, "cull", "nobody uses it")
            for one in facts().sessions
            if one.at_rest and not one.executing and self.due("", "", one.idle_since or 0.0) <= now
        ]


class Policies:
    """Sojourn's: the code that the controller runs."""

    keeps_state = True

    def __init__(self, name: str, rules: Rules) -> None:
        self.name, self._rules = name, rules

    def due(self, user: str, session: str, idle_since: float) -> float:
        chosen = self._rules.of(user, session)
        after = [rule.after for rule in (chosen.idle, chosen.schedule) if rule.on and not rule.dry_run]
        return idle_since + min(after, default=math.inf)

    def decide(self, facts: Callable[[], Facts], now: float) -> list[Decision]:
        return [decision for decision in decide(facts(), self._rules, now) if not decision.dry_run]
