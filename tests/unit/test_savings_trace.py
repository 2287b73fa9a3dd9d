"""Traces come back as they were written, and what is wrong with one is said with its line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from sojourn.errors import Invalid
from sojourn.savings import Event, Habits, invent, read_trace, write_trace

GOOD = """session,user,event,at,memory
a,ada,start,100,1000
b,bob,start,90.5,
a,ada,busy,110,
a,ada,idle,115,5000
"""


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_a_trace_is_read_in_order_of_time(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, GOOD)) == [
        Event("b", "bob", "start", 90.5, 0),
        Event("a", "ada", "start", 100, 1000),
        Event("a", "ada", "busy", 110, 1000),
        Event("a", "ada", "idle", 115, 5000),
    ]


def test_json_lines_say_the_same_and_times_may_be_dates(tmp_path: Path) -> None:
    lines = '{"session": "a", "event": "start", "at": "2026-01-05T00:00:00+01:00"}\n\n'
    assert read_trace(written(tmp_path, lines, "trace.jsonl")) == [Event("a", "a", "start", 1767567600.0, 0)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    events = invent(Habits(), 5, 7, seed=3)
    text = io.StringIO()
    write_trace(events, text)
    read = read_trace(written(tmp_path, text.getvalue()))
    assert [(one.session, one.kind, one.memory_bytes) for one in read] == [
        (one.session, one.kind, one.memory_bytes) for one in events
    ]
    assert all(abs(one.at - other.at) < 0.06 for one, other in zip(read, events, strict=True))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("a,ada,busy,50,", "back in time"),
        ("a,ada,idle,200,", "can't idle after start"),
        ("c,ada,busy,200,", "before it starts"),
        ("a,ada,dance,200,", "'dance' is no event"),
        ("a,ada,busy,noon,", "'noon' is no time"),
        ("a,ada,busy,200,much", "'much' is no memory"),
        ("a,ada,busy,200,-1", "negative"),
        (",ada,busy,200,", "names no session"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    head = "session,user,event,at,memory\na,ada,start,100,\n"
    with pytest.raises(Invalid, match="line 3") as wrong:
        read_trace(written(tmp_path, head + line + "\n"))
    assert what in wrong.value.message


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="line 1: the header lacks at, event, memory, session, user"):
        read_trace(written(tmp_path, "time,who\n1,ada\n"))
    with pytest.raises(Invalid, match="line 2: this is not JSON"):
        read_trace(written(tmp_path, '{"session": "a", "event": "start", "at": 1}\nhm\n', "trace.jsonl"))
    with pytest.raises(Invalid, match="no events"):
        read_trace(written(tmp_path, "session,user,event,at,memory\n"))
    with pytest.raises(Invalid, match="can't be read"):
        read_trace(tmp_path / "missing.csv")
