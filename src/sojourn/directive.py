"""Where a cell, or a move, is to go: the expression of a place and the directive `%%on`.

A place is written as terms separated by blanks, all of which must hold: a node's name or a label (`there`, `gpu`),
or a need (`mem>=64G`, `cores>=8`, `gpu>=1`). Whether a bare word is a node or a label is for the placement to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sojourn.errors import Invalid
from sojourn.model.resources import Needs

_NEED = re.compile(
    r"(?P<what>mem|memory|cores|cpus|gpu|gpus)>=(?P<amount>\d+(?:\.\d+)?)(?P<unit>[KMGT]?)(?:i?B)?", re.I
)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class PlaceExpression:
    """A parsed place: bare words (nodes or labels) and needs."""

    words: tuple[str, ...]
    needs: Needs


def parse_place(text: str) -> PlaceExpression:
    """Parse the expression of a place; raises Invalid naming the term that means nothing."""
    words: list[str] = []
    needs = Needs()
    for term in text.split():
        if found := _NEED.fullmatch(term):
            needs = needs.model_copy(update=_need(term, found))
        elif _WORD.fullmatch(term):
            words.append(term)
        else:
            raise Invalid(
                f"{term!r} is not a place.", "Write a node, a label, or a need such as mem>=64G, cores>=8 or gpu>=1."
            )
    if not words and needs == Needs():
        raise Invalid("No place was given.", "Write a node, a label, or a need such as mem>=64G.")
    return PlaceExpression(tuple(words), needs)


def _need(term: str, found: re.Match[str]) -> dict[str, float | int]:
    what, amount, unit = found["what"].lower(), float(found["amount"]), found["unit"].upper()
    if what.startswith("mem"):
        return {"memory_bytes": int(amount * _SCALE[unit])}
    if unit:
        raise Invalid(f"{term!r} counts something that has no unit.", "Write it as a plain number.")
    if what.startswith("gpu"):
        return {"gpus": int(amount)}
    return {"cores": amount}


@dataclass(frozen=True)
class Directive:
    """Where a cell asks to run: `place` is a valid expression; `returns` brings the session back after the cell."""

    place: str
    returns: bool = False


_FIRST_LINE = re.compile(r"[ \t]*%%on(?:[ \t]+(?P<rest>.*?))?\s*")
_COMMENTS = {"python": "#", "r": "#", "julia": "#", "bash": "#", "sh": "#", "ruby": "#", "perl": "#"}


def find_directive(code: str, metadata: Mapping[str, Any]) -> Directive | None:
    """The directive of a cell, from its first line or else from its metadata; raises Invalid when it means nothing."""
    line = _directive_line(code)
    if line is not None:
        return _parse_line(code.split("\n")[line])
    return _parse_metadata(metadata)


def blank_directive(code: str, language: str) -> str:
    """The cell as its kernel is to see it: no directive, and every other line where it was.

    IPython drops empty lines at the head of a cell, which would shift the numbers of the others, so the directive
    becomes a comment, indented as what follows (IPython removes a common indent). A cell magic below must stay the
    first thing in its cell: there the line becomes empty.
    """
    found = _directive_line(code)
    if found is None:
        return code
    lines = code.split("\n")
    follower = next((line for line in lines[found + 1 :] if line.strip()), "")
    comment = _COMMENTS.get(language.lower(), "")
    if comment and not follower.lstrip().startswith("%%"):
        lines[found] = f"{_indent(follower)}{comment} {lines[found].strip()}"
    else:
        lines[found] = ""
    return "\n".join(lines)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _directive_line(code: str) -> int | None:
    """The index of the first line that is not blank, if it is a directive."""
    for number, line in enumerate(code.split("\n")):
        if line.strip():
            return number if _FIRST_LINE.fullmatch(line) else None
    return None


def _parse_line(line: str) -> Directive:
    found = _FIRST_LINE.fullmatch(line)
    terms = ((found and found["rest"]) or "").split()
    options = [term for term in terms if term.startswith("--")]
    if unknown := [option for option in options if option != "--return"]:
        raise Invalid(f"%%on knows no option {unknown[0]}.", "Write %%on PLACE, or %%on PLACE --return.")
    return _directive(" ".join(term for term in terms if not term.startswith("--")), bool(options))


def _parse_metadata(metadata: Mapping[str, Any]) -> Directive | None:
    own = metadata.get("sojourn")
    own = own if isinstance(own, Mapping) else {}
    place = own.get("node") or metadata.get("sojourn.node")
    return _directive(str(place), own.get("return") is True) if place else None


def _directive(place: str, returns: bool) -> Directive:
    parse_place(place)
    return Directive(place, returns)
