"""Restore: everything is built beside, then put in its place at once; or nothing is."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from importlib.util import MAGIC_NUMBER
from typing import IO, Any

from sojourn.errors import Damaged, Incompatible, MoveFailed

from . import arrays, carriers, history
from .graph import Builder, without_collecting
from .seen import Seen, key_of
from .stream import Reader

Roots = dict[str, Any]


@dataclass(frozen=True)
class Restored:
    names: tuple[str, ...]
    """The user's names that are here now, those among them that were here already."""
    notes: tuple[str, ...]
    """What is otherwise than it was where it came from."""
    seen: Seen = field(repr=False)
    """What both ends have now: for the way back."""


def restore(file: IO[bytes], namespace: dict[str, Any], *, seen: Seen | None = None) -> Restored:
    """Read a stream that `Capture.write` wrote, and put its names into the namespace.

    `seen`: what the sender was told that is here (its `since`), that is, `Capture.seen` of the last way there. Nothing
    may have run here since: what the sender left out is taken as it lies here.
    Whatever is raised, the namespace is as it was: Damaged, where the stream is cut off or altered, or what was here is
    not; Incompatible, where a package is missing or the byte code is another Python's; MoveFailed, where an object
    can't be built here.
    """
    reader = Reader(file)
    header = reader.header()
    if header["byte_code"] != MAGIC_NUMBER.hex():
        here = ".".join(map(str, sys.version_info[:3]))
        raise Incompatible(f"the objects come from Python {header['python']}; here is {here}", "use the same Python")
    arrival = _Arrival(reader, namespace, seen or Seen())
    try:
        with without_collecting():
            arrival.build(header)
    except BaseException:
        carriers.give(namespace, arrival.circumstances, early=True)
        raise
    states = {name: arrival.found.pop(name) for name in list(arrival.found) if name in carriers.carriers}
    history.take_away(header["gone"], namespace)
    history.put(arrival.found, namespace)
    notes = [*header["notes"], *arrival.notes, *_others(header["modules"])]
    notes += carriers.give(namespace, states, early=False)
    return Restored((*arrival.found, *arrival.kept), tuple(notes), arrival.seen)


class _Arrival:
    """What is built of a stream, beside the namespace."""

    def __init__(self, reader: Reader, namespace: dict[str, Any], before: Seen) -> None:
        self.found: Roots = {}
        self.kept: list[str] = []
        self.notes: list[str] = []
        self.seen = Seen()
        self.circumstances: Roots = {}
        """What the first component has changed here, as it was."""
        self._reader = reader
        self._namespace = namespace
        self._before = before

    def build(self, header: dict[str, Any]) -> None:
        """The first component holds what the others may need to be built."""
        self._keep(header["kept"])
        for index, described in enumerate(header["components"]):
            found = self._component(described)
            if index == 0:
                self.circumstances, _ = carriers.take(self._namespace, early=True)
                self.notes += carriers.give(self._namespace, found, early=True)
                require(header["modules"])
            else:
                self.found.update(found)

    def _keep(self, components: list[dict[str, Any]]) -> None:
        """What the sender left out because it is here already."""
        here = history.roots(self._namespace).keys() | carriers.carriers.keys() if components else set()
        for each in components:
            names = tuple(each["names"])
            if self._before.components.get(names) != each["key"] or not here >= set(names):
                raise Damaged(f"{', '.join(names)}: not here any more as the sender believes", "send everything")
            self.seen.components[names] = each["key"]
            self.seen.buffers.update({known: self._before.buffers[known] for known in each["buffers"]})
            self.kept += [name for name in names if name not in carriers.carriers]

    def _component(self, described: dict[str, Any]) -> Roots:
        names = tuple(described["names"])
        what = ", ".join(names[:3])
        buffers = [self._buffer(each, what) for each in described["buffers"]]
        with self._reader.graph(described["graph"], what) as (graph, graph_digest):
            builder = Builder(graph, self._namespace, [buffer for buffer, _ in buffers])
            builder.begin()
            found = {name: load(builder, name) for name in names}
        self.seen.components[names] = key_of(graph_digest, [buffer_digest for _, buffer_digest in buffers])
        return found

    def _buffer(self, described: dict[str, Any], what: str) -> tuple[Any, str]:
        """It and its digest: from the stream, or what lies here already."""
        known = described["have"]
        if known:
            return self._lying_here(known, described, what), known
        buffer, room = arrays.room(described["array"], described["bytes"])
        found = self._reader.into(room, f"a buffer of {what}")
        self.seen.buffers[found] = room
        return buffer, found

    def _lying_here(self, known: str, described: dict[str, Any], what: str) -> Any:
        """The first that needs it gets it as it lies; arrays that are merely equal must not become one."""
        view = self._before.buffers.get(known)
        if view is None:
            raise Damaged(f"a buffer of {what} is not here any more as the sender believes", "send everything")
        if known not in self.seen.buffers:
            self.seen.buffers[known] = view
            return arrays.again(view)
        buffer, room = arrays.room(described["array"], described["bytes"])
        room[:] = memoryview(view).cast("B")
        return buffer


def load(builder: Builder, name: str) -> Any:
    try:
        return builder.load()
    except Exception as error:
        raise MoveFailed(f"{name} can't be built here: {type(error).__name__}: {error}", "leave it behind") from error


def require(modules: dict[str, str]) -> None:
    """Raises Incompatible where a package is missing."""
    missing = [name for name in modules if name not in sys.modules and not importlib.util.find_spec(name)]
    if missing:
        raise Incompatible(f"missing here: {', '.join(missing)}", "install it, or move to a node that has it")


def _others(modules: dict[str, str]) -> list[str]:
    """A note for each package whose version is another."""
    here = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in modules}
    return [
        f"{name}: {here[name]} here, {was} there" for name, was in modules.items() if here[name] and here[name] != was
    ]
