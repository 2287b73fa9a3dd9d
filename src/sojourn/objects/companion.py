"""The companion: where a cell visits. It holds what cells have needed, and tells what has become of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

from sojourn.errors import Damaged, MoveFailed

from . import carriers, history
from .capture import Buffer, Capture, Component, add, hash_buffers
from .components import Roots, components
from .contents import Staying, is_array, layout, numbers, vessel
from .graph import Grapher, Memory, deeply, without_collecting
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
    part_of,
    parts_of,
)
from .stream import Reader, Spool, digest

_INPUTS = ("_i", "_ii", "_iii", history.INPUTS)


@dataclass
class _Stay:
    """What is here for one cell, as it was before the cell ran."""

    parts: list[Part]
    roots: Roots
    digests: dict[int, tuple[Any, str]] = field(default_factory=dict)
    """Of arrays, by their identity: the layout and a digest of the numbers."""
    states: dict[str, str] = field(default_factory=dict)
    """Digests of what modules keep, by carrier."""
    count: int = 0


class Away:
    """The companion's end: a namespace that holds what cells have needed."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._lying: dict[Names, Part] = {}
        """The components that are here, as home knows of it; nothing has run since."""
        self._stay: _Stay | None = None

    def take(self, file: IO[bytes]) -> None:
        """Let in what a cell needs. Whatever is raised, the namespace is as it was: Damaged (if what home leaves out is
        not here, too: then it has to `forget`), Incompatible, MoveFailed."""
        reader = Reader(file)
        header = reader.header()
        check({**header, "modules": {}})
        before, _ = carriers.take(self._namespace, early=True)
        arrival = Loading(reader, self._namespace, self._replaced(header))
        try:
            with without_collecting():
                states = arrival.component(header["around"])
                carriers.give(self._namespace, states, early=True)
                check(header)
                kept = self._kept(header["kept"])
                taken = {tuple(each["names"]): arrival.numbered(each) for each in header["parts"]}
        except BaseException:
            carriers.give(self._namespace, before, early=True)
            raise
        self._settle(header, {names: found for names, (found, _) in taken.items()})
        carriers.give(self._namespace, states, early=False)
        self._begin(header, {**kept, **{names: objects for names, (_, objects) in taken.items()}})

    def _replaced(self, header: dict[str, Any]) -> list[Buffer]:
        """The buffers of what is replaced, in which others may lie that home has left out."""
        coming = {name for each in header["parts"] for name in each["names"]}
        replaced = [part for names, part in self._lying.items() if not coming.isdisjoint(names)]
        return [buffer for part in replaced for buffer in part.component.buffers]

    def _kept(self, reminded: list[dict[str, Any]]) -> dict[Names, list[Any]]:
        """What home left out, numbered: its graph is the same here, so its order is."""
        found = {}
        for each in reminded:
            part = self._lying.get(tuple(each["names"]))
            if part is None or part.component.key != each["key"]:
                raise Damaged(f"{', '.join(each['names'])}: not here any more as home believes", "send everything")
            found[part.names] = part.objects
        return found

    def _settle(self, header: dict[str, Any], found: dict[Names, Roots]) -> None:
        """Put the new in the place of the old; names that stood with those are not read by the cell."""
        roots = {name: value for each in found.values() for name, value in each.items()}
        replaced = [names for names in self._lying if not roots.keys().isdisjoint(names)]
        stale = [name for names in replaced for name in self._lying.pop(names).names if name not in roots]
        history.take_away([*stale, *header["gone"]], self._namespace)
        history.put(roots, self._namespace)
        shell = history.shell_of(self._namespace)
        if shell is not None:
            shell.execution_count = header["count"]

    def _begin(self, header: dict[str, Any], objects: dict[Names, list[Any]]) -> None:
        roots = history.roots(self._namespace)
        parts = []
        for names in map(tuple, header["order"]):
            part = part_of(Capture(), self._namespace, {name: roots[name] for name in names})
            if part.names != names:
                raise MoveFailed(f"{', '.join({*names} - {*part.names})} can't leave again", "Run it without --visit.")
            parts.append(Part(part.component, objects[names], part.grapher))
        hash_buffers([buffer for part in parts for buffer in part.component.buffers])
        found = [each for part in parts for each in part.objects if is_array(each) and vessel(each)]
        digests = {id(each): (layout(each), _digest(each)) for each in found if not each.dtype.hasobject}
        states = {
            name: _state_digest(self._namespace, name, each) for name, each in circumstances(self._namespace).items()
        }
        self._stay = _Stay(parts, roots, digests, states, header["count"])

    def pack_back(self) -> Parcel:
        """What the cell has changed, whether it ended well or not. Raises Damaged if none is here."""
        if self._stay is None:
            raise Damaged("no cell is visiting", "send it first")
        stay, self._stay = self._stay, None
        made = Capture()
        with without_collecting():
            states = circumstances(self._namespace)
            changed = {name: each for name, each in states.items() if self._changed(stay, name, each)}
            found = _Outcome(stay, self._namespace, made)
            back = found.back()
            surroundings = around(made, self._namespace, changed)
        for part in stay.parts:
            self._lying.pop(part.names, None)
        self._lying |= {part.names: part for part in found.parts}
        return Parcel(self._header(made, found, surroundings, back, stay), [surroundings, back])

    def _changed(self, stay: _Stay, name: str, state: Any) -> bool:
        return stay.states.get(name) != _state_digest(self._namespace, name, state)

    def _header(
        self, made: Capture, found: _Outcome, surroundings: Component, back: Component, stay: _Stay
    ) -> dict[str, Any]:
        return header_of(
            made,
            around=surroundings.describe(),
            back={"graph": back.graph.bytes, "buffers": found.describe(back.buffers)},
            names=sorted(found.changed),
            gone=sorted(found.gone),
            left=[(each.name, each.path, each.why) for each in made.lost],
            there=[part.component.remind() for part in found.parts],
            cell=self._cell(stay),
        )

    def _cell(self, stay: _Stay) -> tuple[int, str, str] | None:
        """Of the last input, its number and how it stands in the history; None if it is in none."""
        shell = history.shell_of(self._namespace)
        if shell is None or shell.execution_count == stay.count:
            return None
        kept = shell.history_manager
        return stay.count, kept.input_hist_parsed[-1], kept.input_hist_raw[-1]


class _Outcome:
    """What has become of a stay."""

    def __init__(self, stay: _Stay, namespace: Namespace, made: Capture) -> None:
        self._stay, self._namespace = stay, namespace
        here = {n: each for n, each in history.roots(namespace).items() if n not in (*OUTPUTS, *_INPUTS)}
        self.gone = {name for name in stay.roots if name not in here and name not in (*OUTPUTS, *_INPUTS)}
        fresh = {name for name in here if stay.roots.get(name, stay) is not here[name]}
        visiting = {name for part in stay.parts for name in part.names} | fresh
        roots = {name: value for name, value in here.items() if name in visiting}
        self.parts = parts_of(made, namespace, components(roots, namespace))
        hash_buffers([buffer for part in self.parts for buffer in part.component.buffers])
        same = {(part.names, part.component.key) for part in stay.parts}
        self._new = [part for part in self.parts if _stands(part) not in same or not fresh.isdisjoint(part.names)]
        self.changed = {name for part in self._new for name in part.names}
        self._roots = {name: roots[name] for name in roots if name in self.changed}
        self._apart = {each for part in self.parts for each in part.grapher.memory.apart}

    def back(self) -> Component:
        """The graph of what changed, as it is to be built at home."""
        kept, filled = self._kept()
        shared = {id(each) for each in kept if is_array(each)}
        memory, deep = Memory(shared), False
        while True:
            component = Component(tuple(self._roots), Spool())
            grapher = Grapher(component.graph, self._namespace, component.keep, memory)
            write = partial(self._dump, grapher, kept, filled)
            try:
                deeply(write) if deep else write()
            except Exception as error:
                if deep or not isinstance(error, RecursionError):
                    raise MoveFailed(f"what the cell has changed can't be brought back: {error}", IT_RAN) from error
                deep = True
                continue
            if not memory.found():
                return component
            memory = Memory(memory.found() | memory.shared)

    def _dump(self, grapher: Grapher, kept: list[Any], filled: list[tuple[int, Any]]) -> None:
        grapher.begin()
        grapher.know(kept)
        grapher.dump((filled, list(self._roots.items())))

    def _kept(self) -> tuple[list[Any], list[tuple[int, Any]]]:
        """By number, what stays what it is, and else something that nobody holds; and contents that have changed."""
        reached = {each for part in self._new for each in part.grapher.memo.copy()}
        as_before = {_stands(part) for part in self.parts} - {_stands(part) for part in self._new}
        stays = Staying(self._apart)
        kept: list[Any] = []
        filled = []
        for part in self._stay.parts:
            same = _stands(part) in as_before
            for each in part.objects:
                keep = same or (stays(each) and self._lies_as_before(each))
                if keep and not same and id(each) in reached and self._is_other(each):
                    filled.append((len(kept), each))
                kept.append(each if keep else object())
        return kept, [(number, vessel(each).take(each)) for number, each in filled]  # type: ignore[union-attr]

    def _lies_as_before(self, value: Any) -> bool:
        before = self._stay.digests.get(id(value)) if is_array(value) else None
        return before is None or before[0] == layout(value)

    def _is_other(self, value: Any) -> bool:
        before = self._stay.digests.get(id(value)) if is_array(value) else None
        return vessel(value) is not None and (before is None or before[1] != _digest(value))

    def describe(self, buffers: list[Buffer]) -> list[dict[str, Any]]:
        """With the `number` of an array at home that has the same bytes, of those that did not change and are to be
        built anew all the same; such a one is copied there."""
        hash_buffers(buffers)
        at_home = self._at_home()
        for buffer in buffers:
            buffer.sent = buffer.digest not in at_home
        return [{**buffer.describe(), "number": at_home.get(buffer.digest)} for buffer in buffers]

    def _at_home(self) -> dict[str, int]:
        """The arrays that home had when the cell left, by the digests of their bytes."""
        order = itertools.chain.from_iterable(part.objects for part in self._stay.parts)
        numbers = {id(each): number for number, each in enumerate(order) if is_array(each)}
        buffers = (buffer for part in self._stay.parts for buffer in part.component.buffers)
        owned = ((buffer.digest, id(each)) for buffer in buffers for each in _owners(buffer))
        return {found: numbers[owner] for found, owner in owned if owner in numbers}


def _owners(buffer: Buffer) -> tuple[Any, Any]:
    """The array whose bytes these are: itself, or what it is another view of."""
    return buffer.view.obj, getattr(buffer.view.obj, "base", None)


def _stands(part: Part) -> tuple[Names, str]:
    return part.names, part.component.key


def _digest(array: Any) -> str:
    return digest(numbers(array)).hex()


def _state_digest(namespace: Namespace, name: str, state: Any) -> str:
    made = Capture()
    add(made, namespace, {name: state})
    hash_buffers(made.components[0].buffers)
    return made.components[0].key
