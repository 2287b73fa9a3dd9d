"""Which names can't travel, where in them it stands, and why: looked for only once something could not be written."""

from __future__ import annotations

import copyreg
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

from . import history
from .graph import PROTOCOL, CannotTravel, Grapher, Reduction, deeply
from .refusals import Lost

_MOST_OBJECTS = 2_000_000
"""A path is looked for among so many at most."""
_ATOMS = (type(None), bool, int, float, complex, str, bytes, types.ModuleType)


class _Nowhere:
    """What is written here is gone."""

    def write(self, data: Any) -> int:
        return len(data)


class _Prober(Grapher):
    """Asks every object itself how it is reduced, so as to know which one it is that refuses."""

    def __init__(self, home: dict[str, Any]) -> None:
        super().__init__(_Nowhere(), home, lambda buffer: True)
        self.begin()

    def reducer_override(self, value: Any) -> Reduction:
        reduction = super().reducer_override(value)
        if reduction is not NotImplemented or isinstance(value, type | types.FunctionType):
            return reduction
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduce(value) if reduce else value.__reduce_ex__(PROTOCOL)
        except Exception as error:
            raise CannotTravel(value, _said(value, error)) from error
        return NotImplemented


def _said(value: object, error: Exception) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}: {error}"


def refuses(home: dict[str, Any], root: object) -> Exception | None:
    """What is said where something in `root` can't travel."""
    return _refusal(_quick(home), root)


def _quick(home: dict[str, Any]) -> Grapher:
    grapher = Grapher(_Nowhere(), home, lambda buffer: True)
    grapher.begin()
    return grapher


def _refusal(grapher: Grapher, root: object) -> Exception | None:
    try:
        grapher.dump(root)
    except RecursionError:
        return _deep_refusal(grapher, root)
    except Exception as refusal:
        return refusal
    return None


def _deep_refusal(grapher: Grapher, root: object) -> Exception | None:
    try:
        deeply(partial(grapher.dump, root))
    except Exception as refusal:
        return refusal
    return None


def _explained(home: dict[str, Any], root: object, refusal: Exception) -> Exception:
    """Which object it is that refuses, if that was not said: to ask each is slow."""
    if isinstance(refusal, CannotTravel):
        return refusal
    return _deep_refusal(_Prober(home), root) or refusal


def lost_among(home: dict[str, Any], roots: dict[str, Any], first: str, error: Exception) -> list[Lost]:
    """All that can't travel among `roots`, of which `first` is known; those before it can."""
    names = list(roots)
    lost = []
    grapher = _quick(home)
    for name in names[names.index(first) :]:
        refusal = _refusal(grapher, roots[name])
        if refusal is not None:
            lost.append(_lost(home, name, roots[name], _explained(home, roots[name], refusal)))
            grapher = _quick(home)
    return lost or [Lost(first, first, str(error))]


def _lost(home: dict[str, Any], name: str, root: object, refusal: Exception) -> Lost:
    why = refusal.why if isinstance(refusal, CannotTravel) else f"{type(refusal).__name__}: {refusal}"
    path = _path(home, name, root, refusal.value) if isinstance(refusal, CannotTravel) else name
    cell = history.cell_of(home, name)
    return Lost(name, path, f"{why}, created in cell {cell}" if cell else why)


# ── paths ────────────────────────────────────────────────────────────────────────────────────────────────────


def _path(home: dict[str, Any], name: str, root: object, wanted: object) -> str:
    """The shortest way from `root` to `wanted`, as one would write it; `name` where there is none."""
    ways: list[tuple[str, Any]] = [(name, root)]
    seen = {id(home), id(root)}
    for path, value in ways:
        if value is wanted:
            return path
        if len(ways) > _MOST_OBJECTS:
            break
        for suffix, child in _children(value):
            if id(child) not in seen and not isinstance(child, _ATOMS):
                seen.add(id(child))
                ways.append((path + suffix, child))
    return name


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, and how one gets at it. No code of the object's own runs."""
    if isinstance(value, dict):
        for key, child in list(dict.items(value)):
            yield f"[{_key(key)}]", child
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", child) for index, child in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("{…}", child) for child in value)
    elif isinstance(value, types.FunctionType):
        yield from _around(value)
    if isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    yield from _attributes(value)


def _key(key: object) -> str:
    return f'"{key}"' if isinstance(key, str) and '"' not in key else repr(key)


def _around(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"’s {name}", cell.cell_contents
        except ValueError:
            continue
    yield from ((f".__defaults__[{index}]", each) for index, each in enumerate(function.__defaults__ or ()))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, type):
        held = dict(vars(value))
    else:
        try:
            held = object.__getattribute__(value, "__dict__")
        except AttributeError:
            held = {}
    yield from ((f".{name}", child) for name, child in held.items())
    for kind in type(value).__mro__:
        for name, descriptor in vars(kind).items():
            if isinstance(descriptor, types.MemberDescriptorType) and name != "__dict__":
                try:
                    yield f".{name}", descriptor.__get__(value)
                except AttributeError:
                    continue
