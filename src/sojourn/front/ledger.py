"""Which cells are owed an answer, on disk: what a new front must know of the requests that a dead one took.

A front that is killed takes its end of the tunnel with it, and with that the replies that were on their way. The
next one hears from the kernel only what comes later; without a ledger a client would wait for the rest for ever.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sojourn.front.messages import Message


@dataclass(frozen=True)
class Debt:
    """One unanswered execute. `forwarded`: the kernel has it, or has had it."""

    id: str
    message: Message
    forwarded: bool = False


class Ledger:
    """An append-only file of a few lines, emptied whenever nothing is owed. It survives the process, and need not
    survive the machine: the kernel's clients are on it too. On a disk that is full it is not kept: cells go first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._open: set[str] = set()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def owe(self, request: str, message: Message) -> None:
        """A client asked."""
        self._open.add(request)
        self._write({"owe": request, "frames": [frame.hex() for frame in message.head]})

    def forwarded(self, request: str) -> None:
        if request in self._open:
            self._write({"forwarded": request})

    def settle(self, request: str) -> None:
        """The client has its answer."""
        if request in self._open:
            self._open.discard(request)
            if self._open:
                self._write({"settle": request})
            else:
                os.ftruncate(self._file, 0)

    def clear(self) -> None:
        """The kernel is gone: nothing will be answered."""
        self._open.clear()
        os.ftruncate(self._file, 0)

    def take_up(self) -> list[Debt]:
        """What the last front owed, in order of arrival; it is owed by this one now."""
        debts: dict[str, Debt] = {}
        for line in self._path.read_text().splitlines():
            try:
                _enter(debts, json.loads(line))
            except (ValueError, KeyError):
                break  # the last line of a process that was killed while it wrote
        self._open = set(debts)
        return list(debts.values())

    def close(self) -> None:
        os.close(self._file)

    def _write(self, entry: dict[str, object]) -> None:
        with suppress(OSError):
            os.write(self._file, json.dumps(entry).encode() + b"\n")


def _enter(debts: dict[str, Debt], entry: dict[str, object]) -> None:
    match entry:
        case {"owe": str(request), "frames": list(frames)}:
            message = Message.read([bytes.fromhex(str(frame)) for frame in frames])
            if message:
                debts[request] = Debt(request, message)
        case {"forwarded": str(request)}:
            debts[request] = Debt(request, debts[request].message, forwarded=True)
        case {"settle": str(request)}:
            debts.pop(request, None)
