"""What goes back and forth for a visit: components whose objects both ends number alike, and what surrounds them."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER
from typing import IO, Any

from sojourn.errors import Damaged, Incompatible

from . import arrays, carriers
from .capture import Buffer, Capture, Component, add
from .components import Roots
from .graph import Builder, Grapher, known
from .restore import load, require
from .stream import HASH, Reader, Writer

Namespace = dict[str, Any]
Names = tuple[str, ...]
IT_RAN = "The cell has run there; what is here is as it was."
OUTPUTS = ("_", "__", "___")
_STAYS = ("settings of IPython",)  # giving them twice would register callbacks twice


@dataclass(frozen=True)
class Part:
    """A component, and what is in it, by number."""

    component: Component
    objects: list[Any]
    grapher: Grapher

    @property
    def names(self) -> Names:
        return self.component.names


def parts_of(made: Capture, namespace: Namespace, several: Iterable[Roots]) -> list[Part]:
    """Those of which anything can travel; `made` is told what can't."""
    return [part for part in (part_of(made, namespace, roots) for roots in several) if part.names]


def part_of(made: Capture, namespace: Namespace, roots: Roots) -> Part:
    own = Capture()
    grapher = add(own, namespace, roots)
    made.lost += own.lost
    made.notes += [note for note in own.notes if note not in made.notes]
    made.modules.update(own.modules)
    made.code_files |= own.code_files
    return Part(own.components[0], _numbered(grapher.memo.copy(), namespace), grapher)


def _numbered(memo: dict[int, Any], namespace: Namespace) -> list[Any]:
    """What a pickler met, in its order, after what both ends know."""
    first = len(known(namespace))
    return [value for number, value in sorted(memo.values(), key=lambda entry: entry[0]) if number >= first]


def circumstances(namespace: Namespace) -> dict[str, Any]:
    """What modules keep for themselves, by carrier."""
    early, _ = carriers.take(namespace, early=True)
    late, _ = carriers.take(namespace, early=False)
    return {name: state for name, state in {**early, **late}.items() if name not in _STAYS}


def around(made: Capture, namespace: Namespace, states: dict[str, Any]) -> Component:
    """These, and the sources of the functions that were made. What of it can't travel is worth a note, and no more."""
    own = Capture()
    found = {**states, carriers.SOURCES: carriers.sources(made.code_files)}
    component = part_of(own, namespace, found).component
    made.notes += [*own.notes, *map(str, own.lost)]
    made.modules.update(own.modules)
    return component


def header_of(made: Capture, **more: Any) -> dict[str, Any]:
    shared = {"hash": HASH, "python": platform.python_version(), "byte_code": MAGIC_NUMBER.hex()}
    return {**shared, "modules": made.modules, "notes": made.notes, **more}


def check(header: dict[str, Any]) -> None:
    if header["byte_code"] != MAGIC_NUMBER.hex():
        raise Incompatible(
            f"the objects come from Python {header['python']}; here is {platform.python_version()}",
            "use the same Python",
        )
    require(header["modules"])


@dataclass(frozen=True)
class Parcel:
    """What is to be written, and has not been copied: leave the namespace alone until it is."""

    header: dict[str, Any]
    components: list[Component]

    def write(self, file: IO[bytes]) -> int:
        """The number of bytes written; raises what the file's `write` raises."""
        writer = Writer(file)
        writer.header(self.header)
        for component in self.components:
            for buffer in component.buffers:
                if buffer.sent:
                    writer.buffer(buffer.view)
            writer.graph(component.graph)
        return writer.bytes


class Loading:
    """Components that come in a stream; `lying`: buffers that are here, each of which may be used once."""

    def __init__(self, reader: Reader, namespace: Namespace, lying: Iterable[Buffer] = ()) -> None:
        self._reader, self._namespace = reader, namespace
        self._lying: dict[str, list[Buffer]] = {buffer.digest: [] for buffer in lying}
        for buffer in lying:
            self._lying[buffer.digest].append(buffer)

    def component(self, described: dict[str, Any]) -> Roots:
        return self.numbered(described)[0]

    def numbered(self, described: dict[str, Any]) -> tuple[Roots, list[Any]]:
        """Its roots, and all that is in it by number."""
        names = tuple(described["names"])
        what = ", ".join(names[:3])
        buffers = [self._buffer(each, what) for each in described["buffers"]]
        with self._reader.graph(described["graph"], what) as (graph, _):
            builder = Builder(graph, self._namespace, buffers)
            builder.begin()
            found = {name: load(builder, name) for name in names}
        memo = builder.memo.copy()
        return found, [memo[number] for number in range(len(known(self._namespace)), len(memo))]

    def _buffer(self, described: dict[str, Any], what: str) -> Any:
        if described["have"]:
            try:
                return arrays.again(self._lying[described["have"]].pop().view)
            except (KeyError, IndexError):
                raise Damaged(f"a buffer of {what} is not here as home believes", "send everything") from None
        buffer, room = arrays.room(described["array"], described["bytes"])
        self._reader.into(room, f"a buffer of {what}")
        return buffer
