"""Races: one state carried again and again, the ways in turns: `python -m bench.states.races` with a `Leg` on stdin.

All saves are made by one interpreter, in which the cells have run. Restores are made by children forked from one that
has imported all that the source had: what imports cost is the same for every way, and would hide what the ways cost.
The same goes for pages that a child shares with its parent until it writes to them: they are copied beforehand, for a
kernel that waits for a state was not forked just now.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from json import dumps, load, loads
from pathlib import Path
from statistics import median
from typing import Any

from bench.states.stage import new_shell, run
from bench.states.state import State
from bench.states.trials import scene
from sojourn.compare.inside.ways import WAYS

IN_MEMORY = Path("/dev/shm")
"""Where states are saved in a race, if it is there: no disk is measured."""
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Leg:
    """One half of a race. `folder` is where states lie, one for each way; the times come as JSON into `result`."""

    state: Mapping[str, Any]  # a State, as JSON
    act: str  # "save" | "restore"
    ways: tuple[str, ...]
    rounds: int
    folder: str
    result: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Time:
    """Median seconds of one way with one state, and what it wrote."""

    save_s: float
    restore_s: float
    size_bytes: int

    @property
    def seconds(self) -> float:
        return self.save_s + self.restore_s


def race(state: State, ways: Iterable[str], modules: Iterable[str], rounds: int) -> dict[str, Time]:
    """The time of each way that came through every round."""
    with scene(IN_MEMORY if IN_MEMORY.is_dir() else None) as place:

        def run_leg(act: str, runners: tuple[str, ...]) -> dict[str, list[float]]:
            result = place.root / f"{act}.times"
            leg = Leg(asdict(state), act, runners, rounds, str(place.root), str(result), tuple(modules))
            place.run("bench.states.races", asdict(leg), PATIENCE_SECONDS)
            times: dict[str, list[float]] = loads(result.read_text()) if result.exists() else {}
            return {way: seconds for way, seconds in times.items() if len(seconds) == rounds}

        saves = run_leg("save", tuple(ways))
        restores = run_leg("restore", tuple(saves))
        return {way: Time(median(saves[way]), median(restores[way]), _size(place.root / way)) for way in restores}


def main() -> None:
    leg = Leg(**load(sys.stdin))
    times = _saves(leg) if leg.act == "save" else _restores(leg)
    Path(leg.result).write_text(dumps(times))
    os._exit(0)


def _saves(leg: Leg) -> dict[str, list[float]]:
    shell = new_shell()
    for way in leg.ways:
        WAYS[way].watch(shell, Path(leg.folder, way))
    run(shell, State(**leg.state))

    def save(way: str) -> None:
        path = Path(leg.folder, way)
        with suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        WAYS[way].save(shell, path)

    return _in_turns(leg, lambda way: _seconds(save, way))


def _restores(leg: Leg) -> dict[str, list[float]]:
    shell = new_shell()
    for way in leg.ways:
        WAYS[way].watch(shell, Path(leg.folder, way))
    for module in leg.modules:
        _import(module)

    def restore(way: str) -> None:
        WAYS[way].restore(shell, Path(leg.folder, way))

    return _in_turns(leg, lambda way: _in_child(lambda: _seconds(restore, way)))


def _in_turns(leg: Leg, act: Callable[[str], float]) -> dict[str, list[float]]:
    """The seconds of each round; a way that fails drops out. The round before the first one is not counted."""
    times: dict[str, list[float]] = {way: [] for way in leg.ways}
    for number in range(leg.rounds + 1):
        for way in list(times):
            try:
                seconds = act(way)
            except Exception:  # a way may raise whatever the classes of a state raise
                del times[way]
                continue
            times[way] += [seconds] if number else []
    return times


def _seconds(act: Callable[[str], None], way: str) -> float:
    since = time.perf_counter()
    act(way)
    return time.perf_counter() - since


def _in_child(act: Callable[[], float]) -> float:
    """What the act says, done in a forked child; ChildProcessError if it ends without a word."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            _own_all_pages()
            os.write(writer, dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        words = said.read()
    os.waitpid(child, 0)
    if not words:
        raise ChildProcessError("it ended without a word")
    seconds: Any = loads(words)
    return float(seconds)


_POPULATE_WRITE = 23
"""Of `madvise`: have pages that can be written to, now (Linux 5.14)."""


def _own_all_pages() -> None:
    """Share no page that can be written to. Where the kernel can't do that, all ways are slower by milliseconds."""
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    maps = Path("/proc/self/maps")
    if advise is None or not maps.exists():
        return
    for line in maps.read_text().splitlines():
        addresses, rights = line.split()[:2]
        begin, end = (int(each, 16) for each in addresses.split("-"))
        if rights == "rw-p":
            advise(ctypes.c_size_t(begin), ctypes.c_size_t(end - begin), _POPULATE_WRITE)


def _import(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Exception):  # a module of the source's own making
            importlib.import_module(module)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
