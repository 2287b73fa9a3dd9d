"""Capture: the namespace as graphs and buffers, complete before a byte of it is sent."""

from __future__ import annotations

import pickle
import platform
import sys
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import MAGIC_NUMBER
from typing import IO, Any

from . import arrays, carriers, history, widgets
from .beside import running_beside
from .components import Roots, components
from .diagnosis import lost_among
from .graph import OUT_OF_BAND_BYTES, Grapher, Memory, deeply, without_collecting
from .refusals import Lost
from .seen import Seen, key_of
from .stream import HASH, Spool, Writer, digest


@dataclass
class Buffer:
    view: memoryview
    digest: str = ""
    """Known once it is written, or from the start where it may stay behind."""
    sent: bool = True

    def describe(self) -> dict[str, Any]:
        array = arrays.describe(self.view.obj)
        return {"bytes": self.view.nbytes, "array": array, "have": "" if self.sent else self.digest}


@dataclass
class Component:
    """Names whose objects belong together, as one graph and the buffers that it refers to, in this order."""

    names: tuple[str, ...]
    graph: Spool
    buffers: list[Buffer] = field(default_factory=list)

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of band, if it is large and of one piece."""
        try:
            view = buffer.raw()
        except BufferError:
            return False
        if view.nbytes >= OUT_OF_BAND_BYTES:
            self.buffers.append(Buffer(view))
        return view.nbytes >= OUT_OF_BAND_BYTES

    def describe(self) -> dict[str, Any]:
        """Its part of the stream's header."""
        return {
            "names": self.names,
            "graph": self.graph.bytes,
            "buffers": [buffer.describe() for buffer in self.buffers],
        }

    def remind(self) -> dict[str, Any]:
        """The same of one that the other end has."""
        return {"names": self.names, "key": self.key, "buffers": [buffer.digest for buffer in self.buffers]}

    @property
    def key(self) -> str:
        return key_of(self.graph.digest().hex(), [buffer.digest for buffer in self.buffers])


@dataclass
class Capture:
    """A namespace that can be written. Until then it refers to the buffers of the namespace: leave them alone."""

    components: list[Component] = field(default_factory=list)
    """What is to be sent. The first holds what the others may need to be built: folders, variables, sys.path."""
    lost: list[Lost] = field(default_factory=list)
    """What stays behind, and why."""
    notes: list[str] = field(default_factory=list)
    """What arrives otherwise than it is here."""
    modules: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that are referred to, "" where they tell none."""
    code_files: set[str] = field(default_factory=set)
    """Where the functions that travel by value were defined."""
    kept: list[Component] = field(default_factory=list)
    """What the other end has already."""
    gone: tuple[str, ...] = ()
    """Names that the other end has and that are here no more."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for component in self.components + self.kept for name in component.names)

    @property
    def seen(self) -> Seen:
        """What the other end has once it has restored all that was written; only after `write`."""
        both = self.components[1:] + self.kept
        buffers = {buffer.digest: buffer.view for component in both for buffer in component.buffers}
        return Seen({component.names: component.key for component in both}, buffers)

    def write(self, file: IO[bytes]) -> int:
        """The number of bytes written. `file` may be a socket's; raises what its `write` raises."""
        writer = Writer(file)
        writer.header(self._header())
        for component in self.components:
            for buffer in component.buffers:
                if buffer.sent:
                    buffer.digest = writer.buffer(buffer.view).hex()
            writer.graph(component.graph)
        return writer.bytes

    def _header(self) -> dict[str, Any]:
        return {
            "hash": HASH,
            "python": platform.python_version(),
            "byte_code": MAGIC_NUMBER.hex(),
            "modules": self.modules,
            "notes": self.notes,
            "components": [component.describe() for component in self.components],
            "kept": [component.remind() for component in self.kept],
            "gone": self.gone,
        }


def capture(namespace: dict[str, Any], *, since: Seen | None = None, leave: Collection[str] = ()) -> Capture:
    """All of a namespace that can travel, and what surrounds it. Nothing of it is changed.

    `since`: what the other end has already is not sent again; begin with `Seen()`. Where there is no next time, None:
    the namespace is not taken apart, which is faster.
    `leave`: names that are to stay behind. A name that can't travel is in `Capture.lost`, with the path to what it is
    that can't; all others go on.
    """
    made = Capture(lost=list(running_beside(namespace)))
    users = {name: value for name, value in history.roots(namespace).items() if name not in leave}
    early, none_of = carriers.take(namespace, early=True)
    late, nor_of = carriers.take(namespace, early=False)
    made.lost += none_of + nor_of + widgets.stranded(namespace)
    with without_collecting():
        add(made, namespace, early)
        roots = {**users, **late}
        for part in [roots] if since is None else components(roots, namespace):
            add(made, namespace, part)
        sources = carriers.sources(made.code_files)
        if sources:
            add(made, namespace, {carriers.SOURCES: sources})
    if since is not None:
        leave_out(made, since)
    return made


def add(made: Capture, home: dict[str, Any], roots: Roots) -> Grapher:
    """Make a component of those roots that can travel; the others are lost. Its memo has what was met, in order."""
    memory, deep = Memory(), False
    while True:
        component = Component(tuple(roots), Spool())
        grapher = Grapher(component.graph, home, component.keep, memory)
        write = partial(_dump, grapher, roots)
        stumble = deeply(write) if deep else write()
        if stumble is not None and isinstance(stumble[1], RecursionError) and not deep:
            deep = True
        elif stumble is not None:
            lost = lost_among(home, roots, *stumble)
            made.lost += lost
            roots = {name: value for name, value in roots.items() if name not in {each.name for each in lost}}
        elif memory.found():
            memory = Memory(memory.found() | memory.shared)
        else:
            break
    if roots or not made.components:
        made.components.append(component)
        made.notes += [note for note in grapher.notes if note not in made.notes]
        made.modules.update(_versions(grapher.modules))
        made.code_files |= grapher.code_files
    return grapher


def _dump(grapher: Grapher, roots: Roots) -> tuple[str, Exception] | None:
    """None, or the first name that can't travel, and what was raised."""
    grapher.begin()
    for grapher.at, value in roots.items():
        try:
            grapher.dump(value)
        except Exception as error:
            return grapher.at, error
    return None


def leave_out(made: Capture, since: Seen) -> None:
    """Send neither components nor buffers that the other end has."""
    if since.buffers:
        hash_buffers([buffer for component in made.components for buffer in component.buffers])
    for component in made.components:
        for buffer in component.buffers:
            buffer.sent = buffer.digest not in since.buffers
    whole, made.components = made.components[1:], made.components[:1]
    for component in whole:
        known = since.components.get(component.names) == component.key
        (made.kept if known else made.components).append(component)
    made.gone = tuple({name for names in since.components for name in names} - {*made.names})


def hash_buffers(buffers: list[Buffer]) -> None:
    """Tell them their digests, before they are written."""
    with ThreadPoolExecutor() as several:
        for buffer, found in zip(buffers, several.map(lambda each: digest(each.view), buffers), strict=True):
            buffer.digest = found.hex()


def _versions(modules: Iterable[str]) -> dict[str, str]:
    tops = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)
    return {top: str(getattr(sys.modules.get(top), "__version__", "")) for top in sorted(tops)}
