"""What nodes and storage cost, from a table that a person may edit."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sojourn.errors import Invalid, Unknown

SHIPPED = Path(__file__).with_name("prices.toml")
HOURS_PER_MONTH = 730.0
GIBI = 2**30


@dataclass(frozen=True)
class NodeKind:
    """A kind of node; prices per hour."""

    name: str
    cores: float
    memory_bytes: int
    on_demand: float
    spot: float
    evictions_per_s: float
    """Of a spot node."""


@dataclass(frozen=True)
class Prices:
    currency: str
    as_of: str
    source: str
    per_gb_month: float
    put_per_1000: float
    get_per_1000: float
    nodes: tuple[NodeKind, ...]

    def kind(self, name: str | None) -> NodeKind:
        """The kind of that name, or the first. Raises Unknown."""
        for kind in self.nodes:
            if name in (None, kind.name):
                return kind
        known = ", ".join(kind.name for kind in self.nodes)
        raise Unknown(f"The prices have no node {name!r}.", f"They have {known}.")


def read_prices(path: Path = SHIPPED) -> Prices:
    """Raises Invalid, naming what is missing or no number."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as wrong:
        raise Invalid(f"{path} can't be read as prices: {wrong}", f"{SHIPPED} is an example.") from wrong
    amount = partial(_amount, path, table.get("storage"), "storage")
    kinds = table.get("node")
    if not isinstance(kinds, list) or not kinds:
        raise Invalid(f"{path} has no [[node]].", f"{SHIPPED} is an example.")
    return Prices(
        currency=str(table.get("currency", "")),
        as_of=str(table.get("as_of", "")),
        source=str(table.get("source", "")),
        per_gb_month=amount("per_gb_month"),
        put_per_1000=amount("put_per_1000"),
        get_per_1000=amount("get_per_1000"),
        nodes=tuple(_kind(path, number, row) for number, row in enumerate(kinds, 1)),
    )


def _kind(path: Path, number: int, row: Any) -> NodeKind:
    where = f"node {number}"
    amount = partial(_amount, path, row, where)
    evicted_per_month = amount("evicted_per_month")
    if evicted_per_month >= 1:
        raise Invalid(f"{path}: {where}: evicted_per_month is {evicted_per_month:g}.", "It is a share, below 1.")
    return NodeKind(
        name=str(row.get("kind") or where) if isinstance(row, dict) else where,
        cores=amount("cores"),
        memory_bytes=int(amount("memory_gib") * GIBI),
        on_demand=amount("on_demand"),
        spot=amount("spot"),
        evictions_per_s=-math.log1p(-evicted_per_month) / HOURS_PER_MONTH / 3600,
    )


def _amount(path: Path, row: Any, where: str, key: str) -> float:
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        what = "is missing" if value is None else f"= {value!r} is no amount"
        raise Invalid(f"{path}: {where}: {key} {what}.", f"{SHIPPED} is an example.")
    return float(value)
