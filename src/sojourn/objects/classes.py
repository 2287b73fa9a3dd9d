"""Classes that can't be imported, by value: first the bare class, then, once it can be referred to, all it holds.

Nothing of the user's runs on the way: not their metaclass's `__new__` and `__init__`, not their `__init_subclass__`,
not `__set_name__`. What those did when the class was made is part of its state.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import enum
import types
from collections.abc import Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from .graph import CannotTravel, Grapher, Reduction, family, importable, ways

_SINGLETONS = (type(None), type(...), type(NotImplemented))
HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: the class was made while the program ran."""
_MADE_FIRST = ("__module__", "__qualname__", "__slots__", "__orig_bases__")
_MADE_ANEW = ("__dict__", "__weakref__", "__module__", "__slots__", "_abc_impl")
_ENUM_MAKES = ("_member_names_", "_member_map_", "_member_type_", "_value2member_map_")


@family(lambda kind: issubclass(kind, type))
def reduce_class(graph: Grapher, found: type) -> Reduction:
    if found in _SINGLETONS:
        return NotImplemented
    if importable(found):
        graph.modules.add(found.__module__)
        return NotImplemented
    if not found.__flags__ & HEAP_TYPE:
        return _nameless(found)
    if issubclass(found, enum.Enum) and found.__members__:
        return make_enum, _enum_arguments(found), (_enum_state(found), []), None, None, fill_enum
    arguments = (type(found), found.__name__, found.__bases__, _beginning(found))
    return make_class, arguments, (class_state(found), _registry(found)), None, None, fill_class


def _nameless(found: type) -> Reduction:
    """The types of functions, cells and the like go by their names in `types`."""
    for name, value in vars(types).items():
        if value is found:
            return getattr, (types, name)
    raise CannotTravel(found, f"the built-in type {found.__qualname__}, which no module has by that name")


def _beginning(found: type) -> dict[str, Any]:
    held = {"__qualname__": found.__qualname__, **vars(found)}
    return {name: held[name] for name in _MADE_FIRST if name in held}


def class_state(found: type) -> dict[str, Any]:
    """What it holds, without what is made with every class."""
    return {name: value for name, value in vars(found).items() if name not in _MADE_ANEW and not _is_slot(found, value)}


def _is_slot(found: type, value: Any) -> bool:
    return isinstance(value, MemberDescriptorType | GetSetDescriptorType) and value.__objclass__ is found


def _registry(found: type) -> list[type]:
    """The virtual subclasses that were registered with an abstract base class."""
    if not isinstance(found, abc.ABCMeta):
        return []
    references = abc._get_dump(found)[0]  # type: ignore[attr-defined]
    return [kind for kind in (reference() for reference in references) if kind is not None]


def make_class(kind: type, name: str, bases: tuple[type, ...], beginning: dict[str, Any]) -> type:
    """The bare class, made by the first of its metaclasses that is not the user's own."""
    with _quiet(bases):
        made: type = _maker(kind).__new__(kind, name, bases, dict(beginning))
    return made


def _maker(kind: type) -> Any:
    maker = next(meta for meta in kind.__mro__ if importable(meta))
    return type if maker.__name__ == "_TypedDictMeta" else maker  # that one wants to see what the class was written as


@contextlib.contextmanager
def _quiet(bases: tuple[type, ...]) -> Iterator[None]:
    """While `__init_subclass__` of the user's own classes does nothing."""
    ancestors = {ancestor for base in bases for ancestor in base.__mro__ if "__init_subclass__" in vars(ancestor)}
    hooks = {ancestor: vars(ancestor)["__init_subclass__"] for ancestor in ancestors if not importable(ancestor)}
    for ancestor in hooks:
        type.__setattr__(ancestor, "__init_subclass__", classmethod(lambda cls, **_: None))
    try:
        yield
    finally:
        for ancestor, hook in hooks.items():
            type.__setattr__(ancestor, "__init_subclass__", hook)


def fill_class(made: type, filling: tuple[dict[str, Any], list[type]]) -> None:
    state, registry = filling
    for name, value in state.items():
        type.__setattr__(made, name, value)
    for subclass in registry:
        abc.ABCMeta.register(made, subclass)  # type: ignore[arg-type]


# ── enums: their members are made with them ──────────────────────────────────────────────────────────────────


def _enum_arguments(found: type[enum.Enum]) -> tuple[Any, ...]:
    values = {name: member._value_ for name, member in found.__members__.items()}
    return type(found), found.__name__, found.__bases__, _beginning(found), values


def _enum_state(found: type[enum.Enum]) -> dict[str, Any]:
    members = found.__members__
    made = {*_ENUM_MAKES, *members}
    state = {name: value for name, value in class_state(found).items() if name not in made and not _redirects(value)}
    state["members"] = {name: vars(member) for name, member in members.items() if member._name_ == name}
    return state


def _redirects(value: Any) -> bool:
    """What Enum puts in the place of members (`enum.property`, from Python 3.11 on)."""
    return type(value).__module__ == "enum" and type(value).__name__ in ("property", "nonmember", "member")


def make_enum(kind: Any, name: str, bases: tuple[type, ...], beginning: dict[str, Any], values: dict[str, Any]) -> type:
    maker = next(meta for meta in kind.__mro__ if importable(meta))
    body = maker.__prepare__(name, bases)
    for attribute, value in {**beginning, **values}.items():
        body[attribute] = value
    with _quiet(bases):
        made: type = maker.__new__(kind, name, bases, body)
    return made


def fill_enum(made: Any, filling: tuple[dict[str, Any], list[type]]) -> None:
    state = dict(filling[0])
    for name, held in state.pop("members").items():
        vars(made._member_map_[name]).update(held)
    fill_class(made, (state, filling[1]))


@family(lambda kind: issubclass(kind, enum.Enum))
def reduce_member(graph: Grapher, member: enum.Enum) -> Reduction:
    """By its name: of a value alone, an enum with a `__new__` of its own does not find it."""
    kind = type(member)
    if member._name_ is None or kind.__members__.get(member._name_) is not member:
        return NotImplemented
    return getattr, (kind, member._name_)


# ── dataclasses: sentinels that are told apart by identity ───────────────────────────────────────────────────


def _sentinels() -> Iterator[tuple[type, str]]:
    for name in ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR"):
        if hasattr(dataclasses, name):
            yield type(getattr(dataclasses, name)), name


def reduce_sentinel(graph: Grapher, sentinel: Any) -> Reduction:
    name = next(name for _, name in _sentinels() if getattr(dataclasses, name) is sentinel)
    return getattr, (dataclasses, name)


for _kind, _ in _sentinels():
    ways[_kind] = reduce_sentinel
