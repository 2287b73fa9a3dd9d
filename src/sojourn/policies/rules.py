"""The rules in force, as `[policies]` of config.toml gives them: for everybody, for users, for sessions by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self, TypeVar
from zoneinfo import ZoneInfo

from sojourn.errors import Invalid
from sojourn.policies.hours import WEEK, ZONE, Week
from sojourn.policies.quantities import DURATION, NUMBER, SHARE, SIZE, SWITCH, Quantity

Table = Mapping[str, Any]
_NOTHING: Table = {}


UTC = ZoneInfo("UTC")


def _setting(quantity: Quantity[Any], default: Any) -> Any:
    return field(default=default, metadata={"quantity": quantity})


@dataclass(frozen=True, slots=True)
class Rule:
    """A table that is there is on, unless it says `on = false`."""

    on: bool = _setting(SWITCH, False)
    dry_run: bool = _setting(SWITCH, False)
    """Only say what would be done."""


@dataclass(frozen=True, slots=True)
class IdleRule(Rule):
    """Suspend what nobody uses."""

    after: float = _setting(DURATION, 1800.0)
    in_cells: bool = _setting(SWITCH, False)
    """Also in the middle of a cell, when nothing was heard of it for so long."""


@dataclass(frozen=True, slots=True)
class SpotRule(Rule):
    """Leave a node that is taken away before it is; until then, bound what its loss would cost."""

    on: bool = _setting(SWITCH, True)
    checkpoint_every: float = _setting(DURATION, math.inf)
    """On spot nodes: no session's newest checkpoint gets older, while it changes."""
    overhead: float = _setting(DURATION, 1.0)
    """What a move or a save takes beside its bytes."""
    bandwidth: int = _setting(SIZE, 100 * 2**20)
    """Taken for a node that has measured nothing yet, in bytes per second."""


@dataclass(frozen=True, slots=True)
class RightSizeRule(Rule):
    """Move a session before its memory ends; propose a cheaper node for one that needs less."""

    safety: float = _setting(NUMBER, 3.0)
    """How many times the duration of a move the memory must still last."""
    at_least: float = _setting(DURATION, 60.0)
    """A move is begun no later than this before the memory ends."""
    grow: float = _setting(NUMBER, 2.0)
    """How many times what it uses now there must be room for where it goes."""
    most: int = _setting(SIZE, 2**50)
    """No session is given more memory than this."""
    pressure: float = _setting(SHARE, 0.3)
    """Waiting for memory so much of the time, close to its limit, counts as having reached it."""
    low_for: float = _setting(DURATION, 6 * 3600.0)
    """A session is proposed a cheaper node after so long of little use."""
    saving: float = _setting(SHARE, 0.3)
    """By how much cheaper it must be."""
    act: bool = _setting(SWITCH, False)
    """Move it there rather than propose it."""


@dataclass(frozen=True, slots=True)
class ScheduleRule(Rule):
    """Outside working hours, suspend sooner."""

    hours: Week = _setting(WEEK, ())  # noqa: RUF009
    zone: ZoneInfo = _setting(ZONE, UTC)  # noqa: RUF009
    after: float = _setting(DURATION, 300.0)


@dataclass(frozen=True, slots=True)
class DrainRule(Rule):
    """Empty a node that is being drained."""

    on: bool = _setting(SWITCH, True)


@dataclass(frozen=True, slots=True)
class NodeRule:
    """What is known of a node that its agent can't tell. A pattern is one of names or labels."""

    price: float | None = _setting(NUMBER, None)
    spot: bool = _setting(SWITCH, False)
    drain: Week = _setting(WEEK, ())  # noqa: RUF009
    """When it is to be empty; in the time zone of `[policies.schedule]`."""
    link: int = _setting(SIZE, 0)
    """Its bandwidth to other nodes, where nothing was measured yet; bytes per second."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rules for one session."""

    idle: IdleRule = field(default_factory=IdleRule)
    spot: SpotRule = field(default_factory=SpotRule)
    right_size: RightSizeRule = field(default_factory=RightSizeRule)
    schedule: ScheduleRule = field(default_factory=ScheduleRule)
    drain: DrainRule = field(default_factory=DrainRule)
    precious: float = 1.0

    def each(self) -> Iterator[tuple[str, Rule]]:
        return ((name, getattr(self, name)) for name in RULES)


RULES: dict[str, type[Rule]] = {
    "idle": IdleRule,
    "spot": SpotRule,
    "right_size": RightSizeRule,
    "schedule": ScheduleRule,
    "drain": DrainRule,
}
_OWN = (*RULES, "precious")
"""What may be said for a user or a session."""
_ALL = ("dry_run", *_OWN, "users", "sessions", "nodes")


@dataclass(frozen=True)
class Rules:
    """All of `[policies]`. A session's rules are everybody's, with what its owner's and then its own tables change."""

    table: Table = field(default_factory=dict)
    everybody: Chosen = field(default_factory=Chosen)
    nodes: tuple[tuple[str, NodeRule], ...] = ()
    rehearses: bool = False
    """Some rule only says what it would do."""
    _chosen: dict[tuple[str, str], Chosen] = field(default_factory=dict, init=False, compare=False, repr=False)

    NONE: ClassVar[Rules]

    @classmethod
    def read(cls, table: Table) -> Self:
        """Raises Invalid naming the key that means nothing, and what may stand there."""
        _require_known(table, "policies", _ALL)
        everywhere = _value(SWITCH, table.get("dry_run", False), "policies.dry_run")
        everybody = _choose(table, "policies")
        overrides = [
            _choose(_overlaid(table, own), where)
            for kind in ("users", "sessions")
            for pattern, own in _tables(table, kind)
            if _require_known(own, where := f'policies.{kind}."{pattern}"', _OWN)
        ]
        every = [rule for chosen in (everybody, *overrides) for _, rule in chosen.each()]
        nodes = tuple(
            (pattern, _read(NodeRule, own, f'policies.nodes."{pattern}"')) for pattern, own in _tables(table, "nodes")
        )
        return cls(table, everybody, nodes, everywhere or any(rule.dry_run for rule in every))

    def of(self, owner: str, name: str) -> Chosen:
        """The rules for a session; `name` is its id where it has none."""
        found = self._chosen.get((owner, name))
        if found is None:
            found = self._chosen[owner, name] = self._choose(owner, name)
        return found

    def node(self, name: str, labels: tuple[str, ...] = ()) -> NodeRule:
        """What the first pattern says that fits the node's name or a label of its; a node labelled `spot` is one."""
        for pattern, rule in self.nodes:
            if any(fnmatchcase(word, pattern) for word in (name, *labels)):
                return rule
        return NodeRule(spot="spot" in labels)

    def said(self) -> dict[str, Any]:
        """Everything in force as the file could say it, defaults included."""
        written: dict[str, Any] = {name: _said(rule) for name, rule in self.everybody.each()}
        written["nodes"] = {pattern: _said(rule) for pattern, rule in self.nodes}
        return written | {kind: dict(_tables(self.table, kind)) for kind in ("users", "sessions")}

    def _choose(self, owner: str, name: str) -> Chosen:
        table = self.table
        for kind, word in (("users", owner), ("sessions", name)):
            for pattern, own in _tables(self.table, kind):
                if fnmatchcase(word, pattern):
                    table = _overlaid(table, own)
        return self.everybody if table is self.table else _choose(table, "policies")


Rules.NONE = Rules()

R = TypeVar("R", bound=Rule | NodeRule)


def _choose(table: Table, where: str) -> Chosen:
    rules: dict[str, Any] = {
        name: _read(kind, table[name], f"{where}.{name}", on=True, dry_run=table.get("dry_run", False))
        for name, kind in RULES.items()
        if name in table
    }
    if table.get("dry_run") is True:
        rules = {name: rules.get(name) or kind(dry_run=True) for name, kind in RULES.items()}
    return Chosen(**rules, precious=_value(NUMBER, table.get("precious", 1), f"{where}.precious"))


def _read(kind: type[R], table: Any, where: str, **defaults: Any) -> R:
    """A rule from its table, where what the table does not say is as `defaults`."""
    settings = {one.name: one.metadata["quantity"] for one in fields(kind)}
    _require_known(table, where, settings)
    said = {name: _value(settings[name], value, f"{where}.{name}") for name, value in table.items()}
    return kind(**{**defaults, **said})


def _value(quantity: Quantity[Any], value: Any, where: str) -> Any:
    try:
        return quantity.read(value)
    except ValueError as wrong:
        raise Invalid(f"{where} = {value!r} means nothing.", f"Write {quantity.like}.") from wrong


def _require_known(table: Any, where: str, known: Any) -> bool:
    if not isinstance(table, Mapping):
        raise Invalid(f"{where} is not a table.", f"Write [{where}], and below it {', '.join(known)}.")
    for key in table:
        if key not in known:
            raise Invalid(f"{where}.{key} is no setting.", f"There are {', '.join(known)}.")
    return True


def _tables(table: Table, kind: str) -> list[tuple[str, Table]]:
    """Pattern -> its table."""
    found = table.get(kind, _NOTHING)
    if not isinstance(found, Mapping):
        raise Invalid(f"policies.{kind} is not a table.", f'Write [policies.{kind}."PATTERN".…].')
    return list(found.items())


def _overlaid(table: Table, own: Any) -> Table:
    """Key by key, also within a rule's table."""
    merged = dict(table)
    for key, value in own.items() if isinstance(own, Mapping) else ():
        before = table.get(key)
        merged[key] = {**before, **value} if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def _said(rule: Rule | NodeRule) -> dict[str, Any]:
    values = {one.name: (one.metadata["quantity"], getattr(rule, one.name)) for one in fields(rule)}
    return {name: quantity.write(value) for name, (quantity, value) in values.items() if value is not None}
