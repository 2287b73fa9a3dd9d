"""What survives a state's being carried as objects, beside other ways, and how quick each way is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.states import return_trip, visiting
from bench.states.notebooks import STATES, THEMES
from bench.states.page import page
from bench.states.rows import joined, remember, remembered
from bench.states.survey import in_a_line, summary, survey
from sojourn.compare.inside.ways import WAYS, installed
from sojourn.errors import Invalid


def measure(
    only: Sequence[str] = (),
    ways: Sequence[str] = (),
    rounds: int = 5,
    second_gb: float = 2.0,
    rows: Path | None = None,
    table: Path | None = None,
) -> dict[str, Any]:
    """One JSON-ready object.

    `only`: words of the names of states, else all; `ways`: those, else all installed; `rounds` of the races, and GiB of
    the namespace that moves twice and that a cell visits from: 0 leaves them out. What is in the file `rows` counts,
    too, and it is added to it."""
    if unknown := set(ways) - WAYS.keys():
        raise Invalid(f"no such way: {', '.join(sorted(unknown))}", f"The ways: {', '.join(WAYS)}.")
    chosen = [state for name, state in STATES.items() if not only or any(word in name for word in only)]
    if not chosen:
        raise Invalid(f"no state's name has any of: {', '.join(only)}", "bench/states/notebooks/ has them all.")
    known = remembered(rows) if rows else {}
    for row in survey(chosen, ways or installed(), rounds):
        print(in_a_line(row), file=sys.stderr, flush=True)
        known[row.state.name] = joined(known.get(row.state.name), row)
        if rows:
            remember(rows, [row])
    if table:
        table.write_text(page(THEMES, known.values()))
    return {**summary(list(known.values())), **(_back_and_forth(second_gb) if second_gb else {})}


def _back_and_forth(gigabytes: float) -> dict[str, Any]:
    return {"second_move": return_trip.measure(gigabytes), "visit_ms": round(visiting.measure(gigabytes), 1)}
