"""How people write the values of settings, and how they are said back to them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_DURATION_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*(ms|min|d|h|m|s)\s*)+")
_TERM = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|d|h|m|s)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?(?:/s)?", re.I)
_SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Quantity(Generic[T]):
    """One kind of value. `read` raises ValueError for what is not `like` that; `write` gives what `read` takes."""

    read: Callable[[Any], T]
    write: Callable[[T], Any]
    like: str


def read_duration(value: Any) -> float:
    """Seconds: "30m", "1h30m", "90s", "never"."""
    if value == "never":
        return math.inf
    if not isinstance(value, str) or not _DURATION.fullmatch(value.strip()):
        raise ValueError(value)
    return sum(float(amount) * _DURATION_UNITS[unit] for amount, unit in _TERM.findall(value))


def write_duration(seconds: float) -> str:
    if math.isinf(seconds):
        return "never"
    parts, left = [], seconds
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, left = divmod(left, size)
        parts += [f"{count:g}{unit}"] if count else []
    return "".join([*parts, f"{left:.3g}s"] if left or not parts else parts)


def read_size(value: Any) -> int:
    """Bytes, in powers of 1024 as in `mem>=64G`: "4G", "512M"."""
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(value)
    return int(float(found[1]) * _SIZE_UNITS[found[2].upper()])


def write_size(count: float) -> str:
    for unit in ("T", "G", "M", "K"):
        if count >= _SIZE_UNITS[unit]:
            return f"{count / _SIZE_UNITS[unit]:.4g}{unit}"
    return f"{count:.0f}"


def read_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(value)
    return float(value)


def read_share(value: Any) -> float:
    if (share := read_number(value)) > 1:
        raise ValueError(value)
    return share


def read_switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _as_it_is(value: T) -> T:
    return value


DURATION = Quantity(read_duration, write_duration, 'a duration such as "30m", "1h30m" or "never"')
SIZE: Quantity[int] = Quantity(read_size, write_size, 'a size such as "4G" or "512M"')
NUMBER = Quantity(read_number, _as_it_is, "a number, 0 or more")
SHARE = Quantity(read_share, _as_it_is, "a share from 0 to 1")
SWITCH = Quantity(read_switch, _as_it_is, "true or false")
