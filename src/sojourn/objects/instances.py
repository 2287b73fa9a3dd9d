"""Instances that pickle's own way would bring over wrong, or not at all, though nothing is wrong with them."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from .graph import PROTOCOL, Grapher, Reduction, family

_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})
_IMMUTABLE = (str, int, float, complex, bytes, tuple, frozenset)


def _is_plain(kind: type) -> bool:
    """Whether its instances say nothing of how to be pickled."""
    said = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")
    return not any(isinstance(getattr(kind, name, None), FunctionType) for name in said)


# ── hashes that depend on attributes ─────────────────────────────────────────────────────────────────────────


def _hashes_itself(kind: Any) -> bool:
    return isinstance(kind.__hash__, FunctionType) and kind.__new__ is object.__new__


@family(lambda kind: _hashes_itself(kind) and _is_plain(kind))
def reduce_hashable(graph: Grapher, value: Any) -> Reduction:
    """One that stands in a set that it holds itself is put there before it has its attributes, and would be found there
    no more. So it is made with those that hold nothing themselves: hashes are made of such."""
    held = getattr(value, "__dict__", {})
    if _ATOMS.issuperset(map(type, held.values())) or hasattr(type(value), "__slots__"):
        return NotImplemented
    first = {name: each for name, each in held.items() if _is_atomic(each)}
    return make_hashable, (type(value), first), held, None, None, fill_hashable


def _is_atomic(value: object) -> bool:
    return type(value) in _ATOMS or (type(value) in (tuple, frozenset) and all(map(_is_atomic, value)))  # type: ignore[call-overload]


def make_hashable(kind: type, first: dict[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    vars(made).update(first)
    return made


def fill_hashable(made: Any, held: dict[str, Any]) -> None:
    vars(made).update(held)


# ── a `__new__`, an `__init__` with other arguments than what pickle knows of ────────────────────────────────


def _is_made_its_own_way(kind: type) -> bool:
    return issubclass(kind, _IMMUTABLE) and isinstance(kind.__new__, FunctionType) and _is_plain(kind)


@family(_is_made_its_own_way)
def reduce_immutable(graph: Grapher, value: Any) -> Reduction:
    base = next(base for base in _IMMUTABLE if isinstance(value, base))
    return make_immutable, (base, type(value), base(value)), getattr(value, "__dict__", None) or None


def make_immutable(base: Any, kind: type, value: Any) -> Any:
    """Without calling the user's `__new__`."""
    return base.__new__(kind, value)


@family(lambda kind: issubclass(kind, BaseException))
def reduce_exception(graph: Grapher, error: BaseException) -> Reduction:
    """With what it came from. A traceback leads to frames, which stay behind."""
    reduced = error.__reduce_ex__(PROTOCOL)
    if isinstance(reduced, str):
        return NotImplemented
    make, arguments, *more = reduced
    if make is type(error) and isinstance(type(error).__init__, FunctionType):
        make, arguments = make_exception, (make, *arguments)
    if error.__traceback__ is not None:
        graph.notes.append(f"{graph.at}: the traceback of {type(error).__name__} stays behind")
    circumstances = (error.__cause__, error.__context__, error.__suppress_context__)
    return make, arguments, (more[0] if more else None, circumstances), None, None, fill_exception


def make_exception(kind: type[BaseException], *arguments: Any) -> BaseException:
    """Without calling the user's `__init__`."""
    made = kind.__new__(kind, *arguments)
    made.args = arguments
    return made


def fill_exception(error: BaseException, state: tuple[Any, tuple[Any, Any, bool]]) -> None:
    if state[0] is not None:
        error.__setstate__(state[0])
    error.__cause__, error.__context__, error.__suppress_context__ = state[1]
