"""What became of each name, by comparing what was seen of it before with what is seen after; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Said = Iterable[tuple[str, str]]
"""What a way said that it does not carry: name, why."""
Names = Mapping[str, Mapping[str, Any]]
"""As `inside.stage.look` answers: name -> digest, kind, alias, why."""
_ROOT = re.compile(r"[^\W\d]\w*")
"""What a loss speaks of: `config["db"].conn` is of config."""


class Verdict(StrEnum):
    KEPT = "kept"
    TOLD = "told"
    """Gone, or not what it was, and the way said so."""
    CHANGED = "changed"
    """Not what it was, without a word."""
    SILENT = "silent"
    """Gone, without a word."""
    UNEXAMINED = "unexamined"
    """Nothing could be seen of it before."""


@dataclass(frozen=True)
class Fate:
    """What became of one name. `kind`: as "ndarray (1000, 3)"."""

    name: str
    verdict: Verdict
    kind: str
    why: str = ""
    """As the way said, or what is otherwise."""


def judge(before: Names, after: Names, said: Said) -> list[Fate]:
    """The fate of every name that was there before. An alias counts as changed if it is another object now."""
    told = {found[0]: why.removeprefix(f"{name}: ") for name, why in said if (found := _ROOT.match(name))}
    return [_fate(name, seen, after, told) for name, seen in before.items()]


def all_told(before: Names, why: str) -> list[Fate]:
    """Of a way that failed, with an error, as a whole."""
    return [Fate(name, Verdict.TOLD, seen["kind"], why) for name, seen in before.items()]


def _fate(name: str, seen: Mapping[str, Any], after: Names, told: Mapping[str, str]) -> Fate:
    now, kind = after.get(name), seen["kind"]
    if not seen["digest"]:
        return Fate(name, Verdict.UNEXAMINED, kind, seen["why"])
    otherwise = _otherwise(seen, now, after)
    if not otherwise:
        return Fate(name, Verdict.KEPT, kind)
    if name in told:
        return Fate(name, Verdict.TOLD, kind, told[name])
    return Fate(name, Verdict.CHANGED if now else Verdict.SILENT, kind, otherwise)


def _otherwise(seen: Mapping[str, Any], now: Mapping[str, Any] | None, after: Names) -> str:
    """In which way it is not what it was; empty: in none."""
    if now is None:
        return "it is not there"
    if now["digest"] != seen["digest"]:
        return now["why"] or (f"it is {now['kind']}" if now["kind"] != seen["kind"] else "it has another value")
    if seen["alias"] in after and now["alias"] != seen["alias"]:
        return f"it is no longer the same object as {seen['alias']}"
    if "globals" in seen and "globals" not in now:
        return "it has global names of its own, and won't see what later cells assign"
    return ""
