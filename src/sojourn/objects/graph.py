"""The namespace as one graph: pickle's own C loops, told how to reduce what they can't, and what both ends have.

What both ends have (the namespace itself, the shell, standard streams) is memoized before anything else, so a
reference to it becomes a reference to the receiver's own. So `f.__globals__` of a function defined in a cell is, over
there, the namespace into which it is restored.
"""

from __future__ import annotations

import builtins
import functools
import gc
import io
import os
import pickle
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import IO, Any, TypeVar

PROTOCOL = 5
OUT_OF_BAND_BYTES = 1 << 16
"""Buffers from this size on travel beside the graph."""
_KNOWN = "known to both ends"
_MEMOIZE_A_BUFFER = b"\x97\x940"
"""NEXT_BUFFER, MEMOIZE, POP: a buffer may be any object, so this is how an unpickler is told what it knows."""
_DEEP, _DEEP_STACK_BYTES = 1_000_000, 512 << 20
Result = TypeVar("Result")

Reduction = Any
"""What `object.__reduce__` may return: a tuple of up to six, or NotImplemented for pickle's own way."""
Way = Callable[["Grapher", Any], Reduction]
ways: dict[type, Way] = {}
"""How to reduce objects of exactly this type."""
descents: dict[str, Way] = {}
"""How to reduce objects whose type derives from the one of this name: `module.qualname`, so that nothing is imported
for it. The nearest ancestor's counts."""
families: list[tuple[Callable[[type], bool], Way]] = []
"""How to reduce objects whose type is like this; asked last, once for each type, in this order."""


class CannotTravel(pickle.PicklingError):
    """`value` stays behind; the message says why."""

    def __init__(self, value: object, why: str) -> None:
        super().__init__(why)
        self.value = value
        self.why = why


def way(*types: type) -> Callable[[Way], Way]:
    """Register how objects of exactly these types are reduced."""

    def register(reduce: Way) -> Way:
        ways.update(dict.fromkeys(types, reduce))
        return reduce

    return register


def descent(*names: str) -> Callable[[Way], Way]:
    """Register how objects are reduced whose type is, or derives from, one of these: `module.qualname`."""

    def register(reduce: Way) -> Way:
        descents.update(dict.fromkeys(names, reduce))
        return reduce

    return register


def family(like: Callable[[type], bool]) -> Callable[[Way], Way]:
    """Register how objects are reduced whose type is `like` this."""

    def register(reduce: Way) -> Way:
        families.append((like, reduce))
        return reduce

    return register


def known(namespace: dict[str, Any]) -> list[object]:
    """What both ends have, in an order that is part of the stream's format."""
    main = sys.modules.get("__main__")
    ask = namespace.get("get_ipython")
    shell = ask() if callable(ask) else None
    present = [None if _is_the_users(each) else each for each in (sys.stdin, sys.stdout, sys.stderr)]
    streams = (*present, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return [namespace, main, shell, ask, vars(builtins), sys.modules, os.environ, sys.path, *streams]


def _is_the_users(stream: object) -> bool:
    """Whether a cell has put it in the place of a standard stream."""
    return isinstance(stream, io.StringIO | io.BytesIO) or type(stream).__module__ == "__main__"


@functools.cache
def prologue(count: int) -> bytes:
    """A pickle that memoizes what is known, and is None."""
    references = "".join(f"c{_KNOWN}\n{index}\n\x940" for index in range(count))
    return references.encode("latin-1") + b"N."


Keep = Callable[[pickle.PickleBuffer], bool]


class Memory:
    """Which arrays lie in the memory of which other one.

    That two of them share it is known only once both have been met. So what is `found` on the first writing of a graph
    has it written again, as `shared` then.
    """

    def __init__(self, shared: Collection[int] = ()) -> None:
        self.shared = frozenset(shared)
        self.apart: set[int] = set()
        """Arrays whose owners do not want them shared."""
        self.storages: dict[Any, Any] = {}
        self._met: dict[int, set[int]] = {}
        self._owners: dict[int, ModuleType | None] = {}

    def owner_of(self, space: dict[str, Any]) -> ModuleType | None:
        """The module, of those that can't be imported, whose dictionary this is."""
        if id(space) not in self._owners:
            modules = (each for each in gc.get_referrers(space) if isinstance(each, ModuleType))
            self._owners[id(space)] = next((each for each in modules if vars(each) is space), None)
        return self._owners[id(space)]

    def lies_in(self, array: object, base: object) -> bool:
        """Whether it is to travel as a part of `base`."""
        self._met.setdefault(id(base), set()).add(id(array))
        return id(base) in self.shared and type(base) is type(array)

    def found(self) -> set[int]:
        return {base for base, arrays in self._met.items() if len(arrays) > 1} - self.shared


class Grapher(pickle.Pickler):
    """Writes graphs that share one memo. `dump` raises CannotTravel, or whatever an object's own `__reduce__` raises.

    `keep` is called with each large buffer and says whether it takes it; else it stands in the graph.
    """

    def __init__(self, file: Any, home: dict[str, Any], keep: Keep, memory: Memory | None = None) -> None:
        self.home = home
        self.modules: set[str] = set()
        """The importable modules that were referred to."""
        self.notes: list[str] = []
        self.at = ""
        """The name that is being written."""
        self.code_files: set[str] = set()
        self.memory = memory or Memory()
        self._file = file
        self._known = known(home)
        self._here: dict[type, Way | None] = {}
        super().__init__(file, PROTOCOL, buffer_callback=lambda buffer: not keep(buffer))

    def begin(self) -> None:
        """A new component: what was seen so far is forgotten, but what both ends know."""
        self._file.write(prologue(len(self._known)))
        memo = {id(value): (index, value) for index, value in enumerate(self._known) if value is not None}
        self.memo = memo if len(memo) == len(self._known) else _padded(memo, len(self._known))

    def know(self, values: list[Any]) -> None:
        """Both ends have these as well, in this order: a Builder that is given them before its buffers."""
        self._file.write(_MEMOIZE_A_BUFFER * len(values) + b"N.")
        memo = self.memo.copy()
        count = len(memo) + len(values)
        for number, value in enumerate(values, start=len(memo)):
            memo.setdefault(id(value), (number, value))
        self.memo = _padded(memo, count)

    def reducer_override(self, value: Any) -> Reduction:
        kind = type(value)
        try:
            reduce = self._here[kind]
        except KeyError:
            reduce = self._here[kind] = self._way(kind)
        return NotImplemented if reduce is None else reduce(self, value)

    def _way(self, kind: type) -> Way | None:
        found = ways.get(kind)
        for base in () if found is not None else kind.__mro__[:-1]:
            found = descents.get(f"{base.__module__}.{base.__qualname__}")
            if found is not None:
                break
        return found or next((reduce for like, reduce in families if like(kind)), None)


def _padded(memo: dict[int, Any], count: int) -> dict[int, Any]:
    """New entries are numbered by the memo's length: what is known twice, or not at all, takes a place too."""
    fill = [object() for _ in range(count - len(memo))]
    return {**memo, **{id(value): (0, value) for value in fill}}


class Builder(pickle.Unpickler):
    """Builds graphs; `missing` is called with what can't be imported, and raises."""

    def __init__(self, file: IO[bytes], home: dict[str, Any], buffers: Iterable[Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._known = known(home)

    def begin(self) -> None:
        """Load the prologue of a component."""
        self.load()

    def find_class(self, module: str, name: str, /) -> Any:
        return self._known[int(name)] if module == _KNOWN else super().find_class(module, name)


def importable(value: Any, name: str = "") -> bool:
    """Whether `value` is found again under its own name in a module that can be imported."""
    module = getattr(value, "__module__", None) or _holder(value)
    name = name or getattr(value, "__qualname__", None) or value.__name__
    if not isinstance(module, str) or module == "__main__" or not isinstance(sys.modules.get(module), ModuleType):
        return False
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _holder(value: Any) -> str | None:
    """Where pickle would look for an object that doesn't say where it is from. A method that is bound to an object is
    nowhere: looking for it takes long, and modules that make up what they are asked for may raise anything."""
    if not isinstance(getattr(value, "__self__", None), ModuleType | type | None):
        return None
    return pickle.whichmodule(value, getattr(value, "__qualname__", value.__name__))  # type: ignore[attr-defined, no-any-return]


def deeply(task: Callable[[], Result]) -> Result:
    """Do it where there is room for a chain of a hundred thousand objects that hold each other: on a stack of its own.
    (From Python 3.12 on what C code may do is limited elsewhere, and RecursionError comes sooner.)"""
    limit, stack_bytes = sys.getrecursionlimit(), threading.stack_size(_DEEP_STACK_BYTES)
    sys.setrecursionlimit(_DEEP)
    try:
        with ThreadPoolExecutor(1) as aside:
            return aside.submit(task).result()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(stack_bytes)


@contextmanager
def without_collecting() -> Iterator[None]:
    """While many objects are made and none becomes garbage. To look among them again and again would take most of the
    time, and even once, afterwards, a third of it: so they begin as old ones."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        if was:
            gc.enable()
