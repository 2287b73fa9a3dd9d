"""What names of the namespace a piece of code reads and writes: of itself, and through the functions that it reaches.

Both answers err on the side of more: a name may be read in a branch that is never taken.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType
from typing import Any

from .walk import functions_in

_READ = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"}
_WRITTEN = {"STORE_NAME", "DELETE_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"}
_WRITTEN_FROM_WITHIN = {"STORE_GLOBAL", "DELETE_GLOBAL"}
_SEES_ALL = {"globals", "locals", "vars", "dir", "eval", "exec", "get_ipython"}
"""Who calls one of these may read whatever there is."""


def reads(code: CodeType, namespace: dict[str, Any]) -> set[str]:
    """The names in `namespace` that running `code` there may read; all of them, if it may look at it as a whole."""
    found: set[str] = set()
    ahead = [code]
    while ahead:
        new = _read_by(ahead.pop()) - found
        found |= new
        if new & _SEES_ALL - {name for name in new if name in namespace and name != "get_ipython"}:
            return set(namespace)
        held = [namespace[name] for name in new if name in namespace]
        ahead += [function.__code__ for function in functions_in(held, namespace)]
    return found & namespace.keys()


def writes(code: CodeType) -> set[str]:
    """The names that running `code` in a namespace may assign or delete there. What it changes in an object that it
    has only read (`items.append(1)`) is not among them."""
    within = [name for inner in _inner(code) for name in _named(inner, _WRITTEN_FROM_WITHIN)]
    return {*_named(code, _WRITTEN), *within}


def _read_by(code: CodeType) -> set[str]:
    return {name for each in (code, *_inner(code)) for name in _named(each, _READ)}


def _inner(code: CodeType) -> Iterator[CodeType]:
    """The code of functions and classes that stand in it, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inner(constant)


def _named(code: CodeType, operations: set[str]) -> Iterator[str]:
    return (step.argval for step in dis.get_instructions(code) if step.opname in operations)
