"""A visit: a cell runs elsewhere, with what it reads, and brings back what it changed.

    here = Home(namespace)                      there = Away(namespace)
    here.pack(source).write(file)       ->      there.take(file)
                                                (the cell runs)
    here.merge(file)                    <-      there.pack_back().write(file)

What travels are the components that hold a name which the cell reads or assigns. Both ends number the objects of
such a component alike, in the order in which pickle met them; so what comes back says what is now in object 17, and
whoever holds that one here sees it, be it an array, a list or an instance. What has no contents that could be replaced
(a DataFrame, a tuple around one) comes back as a new object, for all the names that led to the old one.

Between a `pack` and its `merge` nothing may run here; if there is no `merge`, everything here is as it was. Between two
visits anything may run here, and nothing there: what is there already is known by its digest, and not sent again.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from sojourn.errors import Damaged, Immovable, MoveFailed

from . import arrays, carriers, history
from .capture import Capture, Component, hash_buffers
from .components import Roots, components
from .contents import Vessel, is_array, vessel
from .graph import Builder, without_collecting
from .parcels import (
    IT_RAN,
    OUTPUTS,
    Loading,
    Names,
    Namespace,
    Parcel,
    Part,
    around,
    check,
    circumstances,
    header_of,
    parts_of,
)
from .reads import reads, writes
from .refusals import Lost
from .restore import load
from .stream import Reader
from .walk import functions_in

# ── which names ──────────────────────────────────────────────────────────────────────────────────────────────


def touched(source: str, namespace: Namespace) -> set[str]:
    """The roots of the namespace (see `history.roots`) that the cell may read, assign or delete, itself or by the
    functions that it reaches. None if it is no Python: it will say so where it runs."""
    shell = history.shell_of(namespace)
    try:
        plain = shell.transform_cell(source) if shell is not None else source
        code = compile(plain, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError):
        return set()
    names = reads(code, namespace) | writes(code) & namespace.keys()
    for function in functions_in([namespace[name] for name in names], namespace):
        names |= writes(function.__code__) & namespace.keys()
    return {root for name in names for root in _roots_behind(name, namespace)}


def _roots_behind(name: str, namespace: Namespace) -> Iterable[str]:
    if name in ("Out", "_oh"):
        return [f"Out[{number}]" for number in namespace.get("Out", {})]
    if name[:1] == "_" and name[1:].isdecimal():
        return [f"Out[{name[1:]}]"]
    return [history.INPUTS if name == "_ih" or name.rstrip("0123456789") == "_i" else name]


# ── here ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Brought:
    """What a visit has come to."""

    names: Names
    """Assigned or changed."""
    gone: Names
    left: tuple[Lost, ...]
    """Names that the cell has made and that can't travel: they stay there, and what has the name here is as it was."""
    notes: tuple[str, ...]
    """What is otherwise than it was there."""


class Home:
    """The end where the namespace lives; for one companion."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._away: list[Part] | None = None
        self.forget()

    def forget(self) -> None:
        """The companion is another: it has nothing."""
        self._there: dict[Names, tuple[str, list[str]]] = {}
        """What the companion has: by its names, a component's key and its buffers' digests."""

    def pack(self, source: str) -> Parcel:
        """What the cell needs. Raises Immovable, naming the names, if any of that can't travel."""
        made = Capture()
        with without_collecting():
            parts = self._touched(made, touched(source, self._namespace))
            surroundings = around(made, self._namespace, circumstances(self._namespace))
        if made.lost:
            raise Immovable(f"The cell can't be sent what it needs: {_listed(made.lost)}.", _RUN_IT_HERE)
        self._away = parts
        sent = self._to_send([part.component for part in parts])
        return Parcel(self._header(made, surroundings, sent), [surroundings, *sent])

    def _touched(self, made: Capture, wanted: set[str]) -> list[Part]:
        roots = history.roots(self._namespace)
        whole = (each for each in components(roots, self._namespace) if not wanted.isdisjoint(each))
        return parts_of(made, self._namespace, whole)

    def _to_send(self, whole: list[Component]) -> list[Component]:
        """Those that are to be sent, without the buffers that lie there in what they replace."""
        before = {name: names for names in self._there for name in names}
        old = [component for component in whole if any(name in before for name in component.names)]
        hash_buffers([buffer for component in old for buffer in component.buffers])
        sent = [each for each in whole if each not in old or self._there.get(each.names, ("",))[0] != each.key]
        replaced = {before[name] for each in sent for name in each.names if name in before}
        lying = [each for names in replaced for each in self._there.pop(names)[1]]
        for buffer in (buffer for component in sent for buffer in component.buffers):
            buffer.sent = buffer.digest not in lying
            if not buffer.sent:
                lying.remove(buffer.digest)
        return sent

    def _header(self, made: Capture, surroundings: Component, sent: list[Component]) -> dict[str, Any]:
        here = history.roots(self._namespace)
        shell = history.shell_of(self._namespace)
        going = [part.component for part in self._away or ()]
        names = {each.names for each in sent}
        return header_of(
            made,
            around=surroundings.describe(),
            parts=[each.describe() for each in sent],
            kept=[each.remind() for each in going if each.names not in names],
            order=[each.names for each in going],
            gone=sorted({name for names in self._there for name in names} - here.keys()),
            count=shell.execution_count if shell is not None else 0,
        )

    def merge(self, file: IO[bytes]) -> Brought:
        """Take in what has come back. Whatever is raised, the namespace is as it was: Damaged, Incompatible,
        MoveFailed."""
        if self._away is None:
            raise Damaged("nothing is away that could come back", "run the cell again")
        parts, self._away = self._away, None
        objects = [each for part in parts for each in part.objects]
        reader = Reader(file)
        header = reader.header()
        check(header)
        with without_collecting():
            states = Loading(reader, self._namespace).component(header["around"])
            filled, found = self._read(reader, header, objects)
            _fill([(objects[number], held) for number, held in filled])
        self._put(header, dict(found))
        for part in parts:
            self._there.pop(part.names, None)
        self._there |= {tuple(each["names"]): (each["key"], each["buffers"]) for each in header["there"]}
        notes = carriers.give(self._namespace, states, early=True) + carriers.give(self._namespace, states, early=False)
        left = tuple(Lost(*each) for each in header["left"])
        return Brought(tuple(header["names"]), tuple(header["gone"]), left, (*header["notes"], *notes))

    def _read(self, reader: Reader, header: dict[str, Any], objects: list[Any]) -> Any:
        buffers = [self._buffer(reader, each, objects) for each in header["back"]["buffers"]]
        with reader.graph(header["back"]["graph"], "what came back") as (graph, _):
            builder = Builder(graph, self._namespace, itertools.chain(objects, buffers))
            builder.begin()
            builder.load()
            return load(builder, "what came back")

    def _buffer(self, reader: Reader, described: dict[str, Any], objects: list[Any]) -> Any:
        buffer, room = arrays.room(described["array"], described["bytes"])
        if described["number"] is None:
            reader.into(room, "a buffer of what came back")
        else:
            room[:] = _memory_of(objects[described["number"]])
        return buffer

    def _put(self, header: dict[str, Any], found: Roots) -> None:
        """As if the cell had run here: its input and its output are the next of this kernel's."""
        history.take_away(header["gone"], self._namespace)
        history.put(found, self._namespace)
        shell = history.shell_of(self._namespace)
        if shell is not None and header["cell"]:
            _note_cell(shell, *header["cell"])


_RUN_IT_HERE = "Run it without --visit, or leave those names out of it. The cell did not run."


def _listed(lost: list[Lost]) -> str:
    return "; ".join(map(str, lost))


def _memory_of(array: Any) -> memoryview:
    return memoryview(array.reshape(-1, order="A").view("u1"))


def _note_cell(shell: Any, number: int, parsed: str, raw: str) -> None:
    """What IPython itself does after a cell with that number."""
    shell.history_manager.store_inputs(number, parsed, raw)
    shell.execution_count = number + 1
    if number in shell.user_ns["Out"]:
        recent = (shell.user_ns["Out"][number], shell.user_ns.get("_", ""), shell.user_ns.get("__", ""))
        history.put(dict(zip(OUTPUTS, recent, strict=True)), shell.user_ns)


def _fill(filled: list[tuple[Any, Any]]) -> None:
    """Each object with what it is to hold; all of them, or, if one refuses, none."""
    ways = ((_vessel_here(target), target, held) for target, held in filled)
    ready = sorted((each for each in ways if not _is_same(*each)), key=_turn)
    before = [(way, target, way.take(target)) for way, target, _ in ready if not is_array(target)]
    try:
        for way, target, held in ready:
            way.give(target, held)
    except Exception as error:
        for way, target, held in before:
            way.give(target, held)
        raise MoveFailed(f"what came back can't be put in its place: {error}", IT_RAN) from error


def _is_same(way: Vessel, target: Any, held: Any) -> bool:
    """Whether a dictionary or a set holds the very same objects. It is left alone then, and does not ask again for
    their hashes, which may have changed, or be no more."""
    if not way.hashes or not isinstance(held, list):
        return False
    was, now = list(map(id, way.take(target))), list(map(id, held))
    return sorted(was) == sorted(now) if type(target) is set else was == now


def _vessel_here(target: Any) -> Vessel:
    found = vessel(target)
    if found is None:
        raise MoveFailed(f"a {type(target).__name__} can be changed there and not here", IT_RAN)
    return found


def _turn(filling: tuple[Vessel, Any, Any]) -> int:
    """What is asked for its hash before those that ask; arrays, with which nothing can go wrong, at the end."""
    return 2 if is_array(filling[1]) else int(filling[0].hashes)
