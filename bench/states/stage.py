"""The program of one interpreter of a trial: `python -m bench.states.stage` with a `Part` as JSON on stdin.

Cells run in IPython's own shell, whose user module is `__main__`, as in a kernel. What was found goes, as JSON, to a
file: the cells may print what they like.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from json import dumps, load  # cells may patch what the module calls so later
from pathlib import Path
from typing import Any

from bench.states.state import State
from sojourn.compare.inside.portraits import portrait
from sojourn.compare.inside.ways import WAYS, Loss, in_words, names_of_user


@dataclass(frozen=True)
class Part:
    """What one interpreter is to do: run the cells, run and save, or restore what was saved, which had these names.

    `folder` has the working folder `work` and what is `saved`; what was found goes into it, and, as `left`, the working
    folder as it was when the state was saved: probes may write files."""

    state: Mapping[str, Any]  # a State, as JSON
    act: str  # "run" | "save" | "restore"
    way: str = ""
    names: tuple[str, ...] = ()
    folder: str = ""


@dataclass
class Found:
    """What that interpreter has found. `answers`: of each probe a portrait, or ["raised", what] of its evaluation, or
    ["undrawn", what] of its value's portrait; None: nothing was examined."""

    seconds: float = 0.0
    extra_mb: float | None = None
    losses: list[Loss] = field(default_factory=list)
    failure: str = ""
    answers: dict[str, Any] | None = None
    names: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


def main() -> None:
    part = Part(**load(sys.stdin))
    found = play(part)
    scratch = Path(part.folder, "found.part")
    scratch.write_text(dumps(asdict(found)))
    scratch.rename(Path(part.folder, f"{part.act}.json"))
    os._exit(0)  # threads and loops of the state must not keep it


def play(part: Part) -> Found:
    """Do the part in this interpreter, which is not the same afterwards."""
    shell, state = new_shell(), State(**part.state)
    found = Found()
    if part.way:
        WAYS[part.way].watch(shell, Path(part.folder, "saved"))
    if part.act == "restore":
        _timed(found, WAYS[part.way].restore, shell, part)
    else:
        run(shell, state)
        found.names = [name for name in names_of_user(shell) if name not in state.unexamined]
        found.modules = [name for name in sys.modules if not name.startswith("__")]
        if part.way:
            _timed(found, WAYS[part.way].save, shell, part)
            shutil.copytree(Path(part.folder, "work"), Path(part.folder, "left"), ignore_dangling_symlinks=True)
    if not (part.act == "restore" and found.failure):
        found.answers = examine(shell, [*(part.names or found.names), *state.expressions])
    return found


def new_shell() -> Any:
    """IPython's shell with its history in memory; `__main__` is its user module."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    settings = Config()
    settings.HistoryManager.hist_file = ":memory:"
    return InteractiveShell.instance(config=settings)


def run(shell: Any, state: State) -> None:
    """Run the cells; one that fails raises what it raised: then the state itself is wrong."""
    for source in state.sources:
        shell.run_cell(source, store_history=True).raise_error()


def examine(shell: Any, expressions: list[str]) -> dict[str, Any]:
    """Evaluate each in the user's namespace and draw what comes."""
    return {expression: _answer(shell, expression) for expression in expressions}


def _answer(shell: Any, expression: str) -> Any:
    try:
        value = eval(expression, shell.user_ns)
    except Exception as error:  # a probe may raise whatever the cells' own code raises
        return ["raised", in_words(error)]
    try:
        return portrait(value)
    except Exception as error:  # what was not restored well may raise anything when it is looked at
        return ["undrawn", in_words(error)]


def _timed(found: Found, act: Callable[[Any, Path], list[Loss]], shell: Any, part: Part) -> None:
    gc.collect()
    with _peak(found, beyond_the_end=part.act == "restore"):
        since = time.perf_counter()
        try:
            found.losses = act(shell, Path(part.folder, "saved"))
        except Exception as error:  # a way may raise whatever the classes of a state raise
            found.failure = in_words(error)
        found.seconds = time.perf_counter() - since


@contextmanager
def _peak(found: Found, beyond_the_end: bool) -> Iterator[None]:
    """The most memory in between, in MB, beyond that of the beginning, or of the end: what is restored is no extra."""
    before = _reset_peak()
    yield
    status = _memory_kb()
    if before and status:
        found.extra_mb = max(0.0, status["VmHWM"] - (status["VmRSS"] if beyond_the_end else before)) / 1024


def _reset_peak() -> float:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0.0
    return _memory_kb().get("VmRSS", 0.0)


def _memory_kb() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS")))
    return {words[0].rstrip(":"): float(words[1]) for words in fields}


if __name__ == "__main__":
    main()
