"""The porter's work: an agent's line on one side, a kernel's namespace on the other (contracts, "A move by objects").

It runs in threads of its own. All that touches the namespace is done by the kernel's main thread, which stands still
between two cells while the namespace is being carried: what belongs to a thread stays with it.
"""

from __future__ import annotations

import io
import json
import platform
import queue
import struct
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import IO, Any, Protocol

from sojourn.errors import Busy, Invalid, MoveFailed, SojournError

from . import kernel_state
from .capture import Capture, capture
from .recomputable import marks
from .refusals import Lost
from .restore import restore

PATIENCE_SECONDS = 2.0
"""How long a cell may still run that runs when an agent comes."""
_FRAME = struct.Struct(">I")
_LARGEST_FRAME = 8 << 20
_SMALL_BYTES = 64 << 10

Line = IO[bytes]


class Gate(Protocol):
    """Before every request of the kernel's clients."""

    def close(self, patience: float) -> bool: ...

    def open(self) -> None: ...


class Standstill:
    """A thread that runs a loop, kept from everything but what it is told."""

    def __init__(self, begin: Callable[[Callable[[], None]], object]) -> None:
        """`begin(work)`: have the thread call it."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        begin(self._work)

    def do(self, work: Callable[[], Any]) -> Any:
        """What that returns, or raises, in the thread."""
        outcome: Future[Any] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as failed:
                outcome.set_exception(failed)

        self._jobs.put(run)
        return outcome.result()

    def end(self) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            job()


class Porter:
    """One kernel's."""

    def __init__(self, kernel: Any, gate: Gate) -> None:
        self._kernel, self._gate = kernel, gate
        self._main: Standstill | None = None
        self._for: Line | None = None
        """For whom it stands still."""
        self._sent = False
        """All of the namespace: whether it goes on here is not for this end to say."""
        self._packed: tuple[Capture, dict[str, Any]] | None = None

    @property
    def stands_still(self) -> bool:
        return self._main is not None

    def serve(self, line: Line) -> None:
        """Do what an agent says until it is gone. Raises OSError, ValueError."""
        try:
            while said := line.readline():
                self._answer(line, json.loads(said))
        finally:
            if self._for is line and not self._sent:
                self._go_on()

    def _answer(self, line: Line, asked: dict[str, Any]) -> None:
        try:
            _WORK[asked["do"]](self, line, asked)
        except SojournError as refused:
            _say(line, error=refused.to_wire())
        except (OSError, ValueError):
            raise
        except Exception as failed:
            defect = MoveFailed(f"The namespace could not be carried: {type(failed).__name__}: {failed}")
            _say(line, error=defect.to_wire())

    # ── what agents ask ──────────────────────────────────────────────────────────────────────────────────────

    def _look(self, line: Line, asked: dict[str, Any]) -> None:
        main = self._stand_still(line)
        try:
            luggage = main.do(lambda: self._pack(())[1])
        finally:
            self._go_on()
        _say(line, luggage=luggage)

    def _depart(self, line: Line, asked: dict[str, Any]) -> None:
        main = self._stand_still(line)
        try:
            self._packed, luggage = main.do(lambda: self._pack(asked["may_lose"]))
        except BaseException:
            self._go_on()
            raise
        _say(line, luggage=luggage)

    def _send(self, line: Line, asked: dict[str, Any]) -> None:
        if self._main is None or self._packed is None:
            raise Invalid("Nothing was packed.", "Say depart first.")
        captured, state = self._packed
        frames = Frames(line)

        def write() -> int:
            frames.write(_state_as_bytes(state))
            return captured.write(frames)  # type: ignore[arg-type]

        size = self._main.do(write)
        frames.end()
        self._sent = True
        _say(line, sent=size)

    def _arrive(self, line: Line, asked: dict[str, Any]) -> None:
        main = self._stand_still(line)
        frames = io.BufferedReader(Unframed(line), 1 << 20)
        try:
            luggage = main.do(lambda: self._unpack(frames))
        finally:
            self._go_on()
            while frames.read1():
                pass
        _say(line, luggage=luggage)

    def _go_on_asked(self, line: Line, asked: dict[str, Any]) -> None:
        self._go_on()
        _say(line, goes_on=True)

    # ── in the main thread ───────────────────────────────────────────────────────────────────────────────────

    def _pack(self, may_lose: Collection[str]) -> tuple[tuple[Capture, dict[str, Any]], dict[str, Any]]:
        """What is to be sent, and the Luggage."""
        began = time.perf_counter()
        state = kernel_state.take(self._kernel)
        namespace = self._kernel.shell.user_ns
        leave = [name for name in may_lose if name in namespace]
        captured, marked = capture(namespace, leave=leave), marks(namespace)
        luggage = {
            "names": len(set(captured.names) & namespace.keys()),
            "size_bytes": _size(captured),
            "lost": [
                *(_told(lost, given_up=lost.name in marked) for lost in captured.lost),
                *(_told(Lost(name, name, "left behind, as asked"), given_up=True) for name in leave),
            ],
            "notes": captured.notes,
            "python": ".".join(platform.python_version_tuple()[:2]),
            "seconds": time.perf_counter() - began,
        }
        return (captured, state), luggage

    def _unpack(self, frames: IO[bytes]) -> dict[str, Any]:
        state = _state_from(frames)
        restored = restore(frames, self._kernel.shell.user_ns)
        notes = [*restored.notes, *kernel_state.give(self._kernel, state)]
        return {"names": len(restored.names), "size_bytes": 0, "notes": notes}

    # ── standing still ───────────────────────────────────────────────────────────────────────────────────────

    def _stand_still(self, line: Line) -> Standstill:
        if self._main:
            raise Busy("This namespace is being carried already.", "Wait until that has ended.")
        if not self._gate.close(PATIENCE_SECONDS):
            raise Busy(
                "A cell is running, and objects travel between cells.",
                "Wait for its end, interrupt it, or put `%%on PLACE` before the cell that is to run elsewhere.",
            )
        self._main, self._for = Standstill(self._kernel.io_loop.add_callback), line
        return self._main

    def _go_on(self) -> None:
        main, self._main, self._for = self._main, None, None
        self._packed, self._sent = None, False
        if main:
            main.end()
        self._gate.open()


_WORK: dict[str, Callable[[Porter, Line, dict[str, Any]], None]] = {
    "look": Porter._look,
    "depart": Porter._depart,
    "send": Porter._send,
    "arrive": Porter._arrive,
    "go_on": Porter._go_on_asked,
}


def _size(captured: Capture) -> int:
    return sum(
        component.graph.bytes + sum(buffer.view.nbytes for buffer in component.buffers)
        for component in captured.components
    )


def _told(lost: Lost, given_up: bool) -> dict[str, Any]:
    return {"name": lost.name, "path": lost.path, "why": lost.why, "given_up": given_up}


def _say(line: Line, **message: Any) -> None:
    line.write(json.dumps(message).encode() + b"\n")
    line.flush()


def _state_as_bytes(state: dict[str, Any]) -> bytes:
    body = json.dumps(state).encode()
    return _FRAME.pack(len(body)) + body


def _state_from(frames: IO[bytes]) -> dict[str, Any]:
    (length,) = _FRAME.unpack(frames.read(_FRAME.size))
    state: dict[str, Any] = json.loads(frames.read(length))
    return state


class Frames:
    """A file whose bytes go over a line, each frame after its length; one of no length is the end."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiting = bytearray()

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as view:
            size = len(view)
            if size < _SMALL_BYTES:
                self._waiting += view
                if len(self._waiting) >= _SMALL_BYTES:
                    self._flush()
                return size
            self._flush()
            for at in range(0, size, _LARGEST_FRAME):
                self._put(view[at : at + _LARGEST_FRAME])
        return size

    def end(self) -> None:
        self._flush()
        self._line.write(_FRAME.pack(0))
        self._line.flush()

    def _flush(self) -> None:
        if self._waiting:
            self._put(memoryview(bytes(self._waiting)))
            self._waiting.clear()

    def _put(self, frame: memoryview) -> None:
        self._line.write(_FRAME.pack(len(frame)))
        self._line.write(frame)


class Unframed(io.RawIOBase):
    """What such a file held."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._left = 0
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        if not self._left and not self._over:
            (self._left,) = _FRAME.unpack(_exactly(self._line, _FRAME.size))
            self._over = not self._left
        if self._over:
            return 0
        with memoryview(room).cast("B") as view:
            got = self._line.readinto(view[: self._left]) or 0  # type: ignore[attr-defined]
        if not got:
            raise ConnectionResetError("the agent is gone")
        self._left -= got
        return got


def _exactly(line: Line, size: int) -> bytes:
    body = line.read(size)
    if len(body) < size:
        raise ConnectionResetError("the agent is gone")
    return body
