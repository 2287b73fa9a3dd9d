"""What a survey has found, kept in a file: whoever has changed one way tries that one again, and keeps the others'."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter

from bench.states.survey import Row

_ROWS = TypeAdapter(dict[str, Row])


def remembered(path: Path) -> dict[str, Row]:
    """The rows in the file, by the names of their states; none if it is not there."""
    return _ROWS.validate_json(path.read_bytes()) if path.exists() else {}


def remember(path: Path, rows: Iterable[Row]) -> None:
    """Add these to the file."""
    known = remembered(path)
    for row in rows:
        known[row.state.name] = joined(known.get(row.state.name), row)
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_bytes(_ROWS.dump_json(known, indent=1))
    scratch.rename(path)


def joined(before: Row | None, now: Row) -> Row:
    """What is known now, with what was known before of other ways, if the state is still the same."""
    if before is None or before.state != now.state or now.skipped:
        return now
    return Row(now.state, now.before, "", {**before.outcomes, **now.outcomes}, {**before.times, **now.times})
