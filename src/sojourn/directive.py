"""Where a cell, or a move, is to go: the expression of a place and the directive `%%on`.

A place is written as terms separated by blanks, all of which must hold: a node's name or a label (`there`, `gpu`),
or a need (`mem>=64G`, `cores>=8`, `gpu>=1`). Whether a bare word is a node or a label is for the placement to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
