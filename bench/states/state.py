"""What a notebook state is: cells as people write them, and probes by which what they made is examined."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

CELL_BREAK = re.compile(r"^# %%.*\n", re.MULTILINE)


@dataclass(frozen=True)
class State:
    """One notebook, run from top to bottom in an IPython shell, the same in every run.

    `cells` is its source, cells parted by lines `# %%`. Every name that the cells leave is examined by its value; then
    `probes`, one expression a line, examine what no single name shows: aliases, what calls return, what an iterator
    yields next, the state of modules. `unexamined` says of a name why its value is not looked at. `needs` are the
    modules that must be importable, `largest_mb` is the size of the largest single buffer, where it is a large one."""

    name: str
    cells: str
    probes: str = ""
    needs: tuple[str, ...] = ()
    unexamined: Mapping[str, str] = field(default_factory=dict)
    largest_mb: float = 0.0

    @property
    def sources(self) -> list[str]:
        return [cell.strip("\n") for cell in CELL_BREAK.split(self.cells) if cell.strip()]

    @property
    def expressions(self) -> list[str]:
        return [line.strip() for line in self.probes.splitlines() if line.strip()]

    def missing(self) -> list[str]:
        """The needed modules that are not installed here."""
        return [module for module in self.needs if find_spec(module) is None]


def names_in(expression: str) -> set[str]:
    """The names that an expression mentions, in whatever scope: `[f(x) for x in xs]` → f, x, xs."""
    return {node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)}
