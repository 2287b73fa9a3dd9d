"""Names that may stay behind at a move, because a cell makes what they refer to again: `%sojourn recomputable NAME`."""

from __future__ import annotations

from typing import Any

MARKED = "_sojourn_recomputable"
"""The list of them, a name of the namespace itself: so it travels, and `%who` does not tell of it."""


def marks(namespace: dict[str, Any]) -> tuple[str, ...]:
    """The marked names that refer to something."""
    marked = namespace.get(MARKED, ())
    return tuple(name for name in marked if name in namespace) if isinstance(marked, list) else ()
