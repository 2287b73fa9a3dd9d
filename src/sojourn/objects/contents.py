"""What is in an object, apart from the object itself: taken out here, and put into the one that stands for it there.

So whoever holds that one, under whatever name, sees what has become of it. What has no such way is built anew, and so
is a tuple that holds one of those.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import EnumMeta
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

from .classes import HEAP_TYPE, class_state
from .graph import importable, ways


@dataclass(frozen=True)
class Vessel:
    """How objects of a type are emptied and filled."""

    take: Callable[[Any], Any]
    """Contents, as something that a graph can hold; the object does not notice."""
    give: Callable[[Any, Any], object]
    """To an object, contents that were taken of such a one."""
    hashes: bool = False
    """Asks what it holds for its hash, so it is filled when that is there."""


def vessel(value: Any) -> Vessel | None:
    """How to fill it, or None: if it never changes, or has to be built anew."""
    kind = type(value)
    if kind in _VESSELS:
        return _VESSELS[kind]
    if is_array(value):
        return (_OBJECTS if value.ndim else None) if value.dtype.hasobject else (_NUMBERS if _own(value) else None)
    if isinstance(value, FunctionType):
        return None if importable(value) else _FUNCTION
    if isinstance(value, type):
        made_here = value.__flags__ & HEAP_TYPE and not isinstance(value, EnumMeta) and not importable(value)
        return _CLASS if made_here else None
    return _instance(kind) if _is_plain(kind) else None


class Staying:
    """Which objects stay what they are, if what they hold is replaced. To be asked while nobody changes them."""

    def __init__(self, apart: set[int]) -> None:
        """`apart`: arrays that are to be built anew."""
        self._apart = apart
        self._told: dict[int, bool] = {}

    def __call__(self, value: Any) -> bool:
        kind = type(value)
        if kind in _NEVER_CHANGE or id(value) in self._told:
            return self._told.get(id(value), True)
        if kind is tuple or kind is frozenset:
            found = all(map(self, value))
        elif is_array(value):
            found = id(value) not in self._apart and (vessel(value) is not None or not value.dtype.hasobject)
        else:
            found = isinstance(value, FunctionType | type) or vessel(value) is not None
        self._told[id(value)] = found
        return found


_NEVER_CHANGE = frozenset(
    {int, float, complex, bool, str, bytes, range, type(None), type(...), type(NotImplemented)}
    | {ModuleType, CodeType, BuiltinFunctionType}
)


# ── containers: by the type's own methods, for a class of the user's may have others by those names ──────────


def _in_dict(held: dict[Any, Any]) -> list[Any]:
    """Flat, so that no key is asked for its hash before it is what it is to be."""
    return [each for pair in held.items() for each in pair]


def _fill_dict(target: Any, flat: list[Any]) -> None:
    dict.clear(target)
    dict.update(target, zip(flat[::2], flat[1::2], strict=True))


def _fill_ordered(target: OrderedDict[Any, Any], flat: list[Any]) -> None:
    target.clear()
    target.update(zip(flat[::2], flat[1::2], strict=True))


def _fill_default(target: defaultdict[Any, Any], held: list[Any]) -> None:
    target.default_factory = held[0]
    _fill_dict(target, held[1:])


def _fill_list(target: list[Any], held: list[Any]) -> None:
    list.__setitem__(target, slice(None), held)


def _fill_bytes(target: bytearray, held: bytes) -> None:
    target[:] = held


def _fill_set(target: set[Any], held: list[Any]) -> None:
    set.clear(target)
    set.update(target, held)


def _fill_deque(target: deque[Any], held: list[Any]) -> None:
    target.clear()
    target.extend(held)


def _in_cell(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _fill_cell(cell: CellType, held: list[Any]) -> None:
    if held:
        cell.cell_contents = held[0]
    elif _in_cell(cell):
        del cell.cell_contents


_VESSELS: dict[type, Vessel] = {
    list: Vessel(lambda held: held[:], _fill_list),
    dict: Vessel(_in_dict, _fill_dict, hashes=True),
    OrderedDict: Vessel(_in_dict, _fill_ordered, hashes=True),
    defaultdict: Vessel(lambda held: [held.default_factory, *_in_dict(held)], _fill_default, hashes=True),
    set: Vessel(list, _fill_set, hashes=True),
    deque: Vessel(list, _fill_deque),
    bytearray: Vessel(bytes, _fill_bytes),
    CellType: Vessel(_in_cell, _fill_cell),
}


# ── functions and classes of the notebook ────────────────────────────────────────────────────────────────────

_OF_A_FUNCTION = ("__code__", "__defaults__", "__kwdefaults__", "__doc__")


def _in_function(function: FunctionType) -> Any:
    return [getattr(function, name) for name in _OF_A_FUNCTION], dict(vars(function))


def _fill_function(function: FunctionType, state: tuple[list[Any], dict[str, Any]]) -> None:
    for name, value in zip(_OF_A_FUNCTION, state[0], strict=True):
        setattr(function, name, value)
    _fill_attributes(vars(function), state[1])


def _fill_attributes(held: dict[str, Any], attributes: dict[str, Any]) -> None:
    held.clear()
    held.update(attributes)


def _fill_class(found: type, state: dict[str, Any]) -> None:
    before = class_state(found)
    for name in before.keys() - state.keys():
        type.__delattr__(found, name)
    for name, value in state.items():
        if name not in before or before[name] is not value:
            type.__setattr__(found, name, value)


_FUNCTION = Vessel(_in_function, _fill_function)
_CLASS = Vessel(class_state, _fill_class)


# ── instances that say nothing of how to be pickled ──────────────────────────────────────────────────────────

_BASES: tuple[type, ...] = (list, dict, set)
_SAYS_NOTHING = tuple((name, getattr(object, name, None)) for name in ("__reduce_ex__", "__reduce__", "__getstate__"))


def _is_plain(kind: type) -> bool:
    """Made by a `class` statement, from nothing but such classes and the plain containers."""
    if kind in ways or kind in copyreg.dispatch_table or hasattr(kind, "__setstate__"):
        return False
    says_nothing = all(getattr(kind, name, None) is known for name, known in _SAYS_NOTHING)
    return says_nothing and all(base.__flags__ & HEAP_TYPE or base in (object, *_BASES) for base in kind.__mro__)


def _instance(kind: type) -> Vessel:
    base = next((base for base in _BASES if issubclass(kind, base)), None)
    return _INSTANCES[base]


def _instances(base: type | None) -> Vessel:
    within = _VESSELS[base] if base else Vessel(lambda value: None, lambda value, held: None)

    def take(value: Any) -> Any:
        held = base.__iter__(value) if base in (list, set) else base.items(value) if base else ()  # type: ignore[attr-defined]
        flat = [each for pair in held for each in pair] if base is dict else list(held)
        return type(value), flat, dict(_attributes(value)), dict(_slots(value))

    def give(value: Any, state: Any) -> None:
        kind, held, attributes, slots = state
        if type(value) is not kind:
            object.__setattr__(value, "__class__", kind)
        _fill_attributes(_attributes(value), attributes)
        _fill_slots(value, slots)
        within.give(value, held)

    return Vessel(take, give, hashes=within.hashes)


_INSTANCES = {base: _instances(base) for base in (None, *_BASES)}


def _attributes(value: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found


def _members(kind: type) -> Iterator[tuple[str, MemberDescriptorType]]:
    for base in kind.__mro__:
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType):
                yield f"{base.__qualname__}.{name}", member


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for name, member in _members(type(value)):
        try:
            yield name, member.__get__(value)
        except AttributeError:
            continue


def _fill_slots(value: Any, slots: dict[str, Any]) -> None:
    for name, member in _members(type(value)):
        if name in slots:
            member.__set__(value, slots[name])
        elif name in dict(_slots(value)):
            member.__delete__(value)


# ── arrays ───────────────────────────────────────────────────────────────────────────────────────────────────


def is_array(value: Any) -> bool:
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__qualname__ == "ndarray"


def _own(array: Any) -> bool:
    """Whether its numbers are its own to change."""
    return bool(array.flags.writeable)


def layout(array: Any) -> tuple[Any, ...]:
    """What has to be as it was for its numbers to be put where they were."""
    return array.dtype, array.shape, array.flags.writeable


def numbers(array: Any) -> Any:
    """Its bytes, row by row; a copy only where they do not lie like that."""
    numpy = sys.modules["numpy"]
    return numpy.ascontiguousarray(array).reshape(-1).view("u1") if array.nbytes else numpy.empty(0, "u1")


def _fill_numbers(array: Any, flat: Any) -> None:
    numpy = sys.modules["numpy"]
    if array.nbytes:
        numpy.copyto(array, numpy.frombuffer(flat, array.dtype).reshape(array.shape), casting="no")


def _in_objects(array: Any) -> list[Any]:
    return [array[index] for index in sys.modules["numpy"].ndindex(array.shape)]


def _fill_objects(array: Any, held: list[Any]) -> None:
    for index, value in zip(sys.modules["numpy"].ndindex(array.shape), held, strict=True):
        array[index] = value


_NUMBERS = Vessel(lambda array: pickle.PickleBuffer(numbers(array)), _fill_numbers)
_OBJECTS = Vessel(_in_objects, _fill_objects)
