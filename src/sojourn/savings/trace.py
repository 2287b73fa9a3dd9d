"""A trace: what people did with their sessions, and when. Read from and written to CSV or JSON lines.

CSV with the header `session,user,event,at,memory`, or one JSON object with these keys a line. `at` is in seconds since
the epoch, or ISO 8601; `memory` in bytes, empty or left out where it has not changed. Events of a session, in order:

    start   its kernel starts
    busy    it begins to execute a cell
    idle    it has executed it
    stop    somebody shuts it down for good
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from sojourn.errors import Invalid

Kind = Literal["start", "busy", "idle", "stop"]
COLUMNS = ("session", "user", "event", "at", "memory")
FOLLOWS: dict[Kind | None, tuple[Kind, ...]] = {
    None: ("start",),
    "start": ("busy", "stop"),
    "busy": ("idle", "stop"),
    "idle": ("busy", "stop"),
    "stop": (),
}
"""Which events may come after which."""


@dataclass(frozen=True, slots=True)
class Event:
    """`at` in seconds, `memory_bytes` is what the session holds from then on."""

    session: str
    user: str
    kind: Kind
    at: float
    memory_bytes: int


def read_trace(path: Path) -> list[Event]:
    """All events, in order of time. Raises Invalid, naming the line, for whatever is not as this module says."""
    try:
        with path.open(newline="") as file:
            events = [event for _, event in _checked(path, _rows(path, file))]
    except (OSError, UnicodeDecodeError) as wrong:
        raise Invalid(f"{path} can't be read: {wrong}", "`sojourn savings generate` makes a trace.") from wrong
    if not events:
        raise Invalid(f"{path} has no events.", "`sojourn savings generate` makes a trace.")
    return sorted(events, key=lambda event: event.at)


def write_trace(events: Iterable[Event], file: TextIO) -> None:
    """CSV; a memory that has not changed is left out."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(COLUMNS)
    known: dict[str, int] = {}
    for event in events:
        memory = "" if known.get(event.session) == event.memory_bytes else event.memory_bytes
        known[event.session] = event.memory_bytes
        rows.writerow((event.session, event.user, event.kind, f"{event.at:.1f}", memory))


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with the number of its line."""
    if path.suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _json_object(path, number, line)
        return
    table = csv.DictReader(file)
    missing = set(COLUMNS) - set(table.fieldnames or ())
    if missing:
        raise _wrong(path, 1, f"the header lacks {', '.join(sorted(missing))}")
    for row in table:
        yield table.line_num, row


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as wrong:
        raise _wrong(path, number, f"this is not JSON ({wrong.msg})") from wrong
    if not isinstance(row, dict):
        raise _wrong(path, number, "this is not a JSON object")
    return row


def _checked(path: Path, rows: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, Event]]:
    """Each row as an event that may follow the one before it of the same session."""
    last: dict[str, Event] = {}
    for number, row in rows:
        try:
            event = _event(row, last.get(str(row.get("session"))))
        except ValueError as wrong:
            raise _wrong(path, number, str(wrong)) from wrong
        last[event.session] = event
        yield number, event


def _event(row: dict[str, Any], before: Event | None) -> Event:
    """Raises ValueError, in the words of an error message."""
    session, kind, at = str(row.get("session") or ""), str(row.get("event") or ""), _seconds(row.get("at"))
    if not session:
        raise ValueError("it names no session")
    if kind not in get_args(Kind):
        raise ValueError(f"{kind!r} is no event; there are {', '.join(get_args(Kind))}")
    if kind not in FOLLOWS[before.kind if before else None]:
        raise ValueError(f"session {session} can't {kind} {f'after {before.kind}' if before else 'before it starts'}")
    if before and at < before.at:
        raise ValueError(f"session {session} goes back in time")
    memory = _bytes(row.get("memory"), before.memory_bytes if before else 0)
    return Event(session, str(row.get("user") or session), kind, at, memory)


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is no time: seconds, or ISO 8601") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _bytes(value: Any, unchanged: int) -> int:
    if value is None or value == "":
        return unchanged
    try:
        count = int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is no memory: a number of bytes") from None
    if count < 0:
        raise ValueError("its memory is negative")
    return count


def _wrong(path: Path, number: int, what: str) -> Invalid:
    return Invalid(f"{path}, line {number}: {what}.", "docs/savings.md describes a trace.")
