"""What people see: tables, amounts, ages, errors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 240
"""Columns where nobody looks: a pipe or a file gets whole words, not words cut for a screen."""

STYLES = {
    "ok": "green", "running": "green", "online": "green", "done": "green",
    "moving": "cyan", "filling": "cyan", "preparing": "cyan", "departing": "cyan", "committing": "cyan",
    "degraded": "yellow", "starting": "yellow", "pending": "yellow", "stopping": "yellow", "rolling_back": "yellow",
    "suspended": "blue", "suspending": "cyan", "waking": "cyan", "draining": "yellow", "whole": "green",
    "damaged": "red", "missing": "red", "failed": "red", "lost": "red", "offline": "red", "stopped": "dim",
    "✓": "green",
}  # fmt: skip


def console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else WIDE, highlight=False)


def print_error(message: str, hint: str = "") -> None:
    """One red line with what happened, and one with what to do next."""
    screen = console(stderr=True)
    screen.print(Text(f"Error: {message}", style="bold red"), soft_wrap=True)
    if hint:
        screen.print(Text(f"Hint: {hint}"), soft_wrap=True)


def print_json(value: Any) -> None:
    """A model, or anything JSON knows, or a list of either."""
    print(json.dumps(value, default=_plain, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str, *, prose: bool = False) -> None:
    """A table without lines; states get their colours. `empty` is said instead of a table without rows. With `prose`
    the last column holds sentences, which are wrapped on a narrow screen; all else is cut."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=not (prose and column == columns[-1]), overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    if table.row_count:
        console().print(table)
    else:
        print(empty)


def amount(size: float) -> str:
    """Bytes as people say them: 0 B, 3.4 MB, 12 GB (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.14 s, 12 s, 5 min, 3 h, 2 d."""
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds:.2f} s" if seconds < 10 else f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def age(since: float) -> str:
    """How long ago, from seconds since the epoch."""
    return duration(max(0.0, round(time.time() - since)) + 0.0) if time.time() - since >= 10 else "now"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")
