"""What can't travel, and why."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .graph import CannotTravel, Grapher, Reduction, descent, way


@dataclass(frozen=True)
class Lost:
    """A name that stays behind, because of what stands at `path` in it."""

    name: str
    path: str
    """As one would write it in a cell: `config["db"].conn`."""
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


_REFUSED = {
    "a socket": ("socket.socket", "_socket.socket", "zmq.sugar.socket.Socket"),
    "a thread": ("threading.Thread",),
    "a pool of threads or processes": ("concurrent.futures._base.Executor", "multiprocessing.pool.Pool"),
    "a process": ("subprocess.Popen", "multiprocessing.process.BaseProcess"),
    "an event loop": ("asyncio.events.AbstractEventLoop",),
    "an asyncio task or future": ("_asyncio.Future", "asyncio.futures.Future"),
    "a memory map": ("mmap.mmap",),
    "a connection to a database": ("sqlite3.Connection", "sqlite3.Cursor"),
    "a context variable": ("_contextvars.ContextVar", "_contextvars.Token", "_contextvars.Context"),
}


def _refuse(why: str) -> Callable[[Grapher, Any], Reduction]:
    def reduce(graph: Grapher, value: Any) -> Reduction:
        raise CannotTravel(value, why)

    return reduce


for _why, _names in _REFUSED.items():
    descent(*_names)(_refuse(_why))

_RUNNING = {
    types.GeneratorType: ("a running generator", "gi_frame"),
    types.CoroutineType: ("a running coroutine", "cr_frame"),
    types.AsyncGeneratorType: ("a running asynchronous generator", "ag_frame"),
}


@way(*_RUNNING)
def reduce_running(graph: Grapher, value: Any) -> Reduction:
    what, frame = _RUNNING[type(value)]
    raise CannotTravel(value, what if getattr(value, frame) else what.replace("running", "finished"))


@way(types.FrameType, types.TracebackType)
def reduce_frame(graph: Grapher, value: Any) -> Reduction:
    raise CannotTravel(value, f"a {type(value).__name__}")
