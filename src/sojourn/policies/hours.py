"""Times of the week, as people write them: "mon-fri 8:00-19:00", "sat 10:00-14:00", "daily 22:00-6:00"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sojourn.policies.quantities import Quantity

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?P<days>[a-z]{3,5}(?:-[a-z]{3})?)\s+(?P<begin>\d{1,2}:\d\d)\s*-\s*(?P<end>\d{1,2}:\d\d)")
_MIDNIGHT = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """The same minutes on several days of the week, by the clock on the wall. One that ends before it begins goes on
    over midnight, and belongs to the day on which it begins."""

    said: str
    days: frozenset[int]
    begin: int
    """Minutes after midnight."""
    end: int

    def holds(self, weekday: int, minute: int) -> bool:
        if self.begin < self.end:
            return weekday in self.days and self.begin <= minute < self.end
        late = weekday in self.days and minute >= self.begin
        return late or ((weekday - 1) % 7 in self.days and minute < self.end)


Week = tuple[Window, ...]


def within(week: Week, now: float, zone: ZoneInfo) -> bool:
    """Whether one of the windows is open; `now` in seconds since the epoch."""
    local = datetime.fromtimestamp(now, zone)
    return any(window.holds(local.weekday(), local.hour * 60 + local.minute) for window in week)


def read_window(text: str) -> Window:
    found = _WINDOW.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(text)
    begin, end = _minutes(found["begin"]), _minutes(found["end"])
    if begin in (end, _MIDNIGHT):
        raise ValueError(text)
    return Window(text.strip(), _days(found["days"]), begin, end)


def read_week(value: Any) -> Week:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(value)
    return tuple(read_window(text) for text in texts)


def read_zone(value: Any) -> ZoneInfo:
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, TypeError, OSError) as unknown:
        raise ValueError(value) from unknown


def said(week: Week) -> str:
    return ", ".join(window.said for window in week)


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    first, _, last = text.partition("-")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return frozenset((begin + step) % 7 for step in range((end - begin) % 7 + 1))


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _MIDNIGHT:
        raise ValueError(text)
    return hours * 60 + minutes


def _write_week(week: Week) -> list[str]:
    return [window.said for window in week]


WEEK: Quantity[Week] = Quantity(read_week, _write_week, 'times such as ["mon-fri 8:00-19:00", "sat 10:00-14:00"]')
ZONE = Quantity(read_zone, str, 'a time zone such as "Europe/Berlin"')
