"""Names that share objects, as they stand together: what of the namespace can be replaced without the rest noticing."""

from __future__ import annotations

from typing import Any

from .walk import Walk

Roots = dict[str, Any]
"""Names, and what they refer to; `Out[3]` is a name, too."""


def components(roots: Roots, home: dict[str, Any]) -> list[Roots]:
    """The connected components of the object graph, by the names that lead into them; names in their order.

    Two names are in one component if any object can be reached from both. Functions don't reach their globals: those
    are looked up by name when they run.
    """
    walk = Walk(home)
    names = list(roots)
    joined = list(range(len(names)))
    for mark, name in enumerate(names):
        met: set[int] = set()
        for _ in walk.reach(roots[name], mark, met):
            pass
        for other in met:
            _join(joined, mark, other)
    found: dict[int, Roots] = {}
    for mark in sorted(range(len(names)), key=names.__getitem__):
        found.setdefault(_leader(joined, mark), {})[names[mark]] = roots[names[mark]]
    return list(found.values())


def _join(joined: list[int], one: int, other: int) -> None:
    joined[_leader(joined, one)] = _leader(joined, other)


def _leader(joined: list[int], mark: int) -> int:
    while joined[mark] != mark:
        joined[mark] = joined[joined[mark]]
        mark = joined[mark]
    return mark
