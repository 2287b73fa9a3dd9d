"""What runs, or waits to be called, beside the cells: no name leads to it, and it stays behind."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import atexit
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from .graph import importable
from .history import cell_of_code, cells
from .refusals import Lost

_NUMBERS = sorted(map(int, signal.valid_signals()))
_MADE_OTHERWISE = {getattr(signal, name, 0): _signal.SIG_IGN for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ")}
_AT_EXIT = re.compile(r"\batexit\b")


def running_beside(home: dict[str, Any]) -> Iterator[Lost]:
    """Threads and asyncio tasks that run functions of the namespace, what is to be called at exit or by signals."""
    for thread in threading.enumerate():
        target = getattr(thread, "_target", None)
        run = target if target is not None else type(thread).run
        if type(thread).__module__ == "__main__" or getattr(target, "__globals__", None) is home:
            yield _lost(home, f'thread "{thread.name}"', "a running thread", run)
    for task in _tasks():
        coroutine = task.get_coro()
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and frame.f_globals is home:
            yield _lost(home, f'task "{task.get_name()}"', "a running asyncio task", coroutine)
    for number, handler in handlers().items():
        if not travels(handler, home):
            yield _lost(
                home, f"handler of {signal.Signals(number).name}", "a signal handler that is not a cell's", None
            )
    yield from _at_exit(home)


def _lost(home: dict[str, Any], name: str, why: str, runs: Any) -> Lost:
    code = getattr(runs, "__code__", None) or getattr(runs, "cr_code", None)
    cell = cell_of_code(home, code) if code is not None else 0
    return Lost(name, name, f"{why}, defined in cell {cell}" if cell else why)


def _tasks() -> set[Any]:
    asyncio = sys.modules.get("asyncio")
    loop = asyncio and asyncio._get_running_loop()
    return asyncio.all_tasks(loop) if asyncio and loop else set()


def _at_exit(home: dict[str, Any]) -> Iterator[Lost]:
    """Python does not tell what is registered, only how much; so what cells say counts."""
    said = [number for number, cell in enumerate(cells(home)) if _AT_EXIT.search(str(cell))]
    if said and atexit._ncallbacks():
        why = f"it is called at the end of the process where it was registered, in cell {said[-1]}"
        yield Lost("exit handlers", "atexit", why)


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────


def handlers() -> dict[int, Any]:
    """Of those signals that are not handled as Python has it, nor by ipykernel."""
    found = {number: _signal.getsignal(number) for number in _NUMBERS}  # that of `signal` would make an enum of each
    return {number: each for number, each in found.items() if each is not None and not _is_as_made(number, each)}


def _is_as_made(number: int, handler: Any) -> bool:
    if callable(handler):
        kernels_own = str(getattr(handler, "__module__", "")).startswith("ipykernel.")
        return kernels_own or handler is _signal.default_int_handler
    return bool(handler == _MADE_OTHERWISE.get(number, _signal.SIG_DFL))


def travels(handler: Any, home: dict[str, Any]) -> bool:
    """Whether it is one of the two that are no functions, a cell's, or can be imported."""
    if not callable(handler) or getattr(handler, "__globals__", None) is home:
        return True
    name = getattr(handler, "__qualname__", "")
    return bool(name) and not str(handler.__module__).startswith("asyncio.") and importable(handler)
