"""What a store of chunks must be able to do: a few calls on whole objects, as little as S3 and a folder have in common.

Keys are paths of letters, digits, `-`, `_`, `.` and `/`, no part of which begins with a dot; bodies are some MiB. What
any backend must keep to, `sojourn.testing.store_contract` tests.
"""

from __future__ import annotations

import json
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sojourn.errors import StoreFailed

Bytes = bytes | bytearray | memoryview
IDENTITY = "store.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """An object, as a listing shows it."""

    key: str
    size: int
    """Bytes."""
    changed_at: float
    """Seconds since 1970 by the store's own clock, which need not agree with anybody's. As coarse as a second."""


class Backend(ABC):
    """Objects by key. Safe from many threads and many processes. What goes wrong is StoreFailed, with a hint.

    What one caller has put, created, touched or deleted, every caller sees from the moment the call returns.
    """

    name: str
    """How it is called in messages: its address, without secrets."""

    def __init__(self) -> None:
        self._identity = ""
        self._identifying = threading.Lock()

    @abstractmethod
    def put(self, key: str, body: Bytes) -> None:
        """Write or replace an object, in one step: readers see all of the old or all of the new, whatever crashes.

        It survives the death of any process; a power cut only from the next `settle` on. `body` is the caller's: it
        may change once this returns.
        """

    @abstractmethod
    def create(self, key: str, body: Bytes) -> bool:
        """Put an object if there is none, in one step: of several callers, True for exactly one. It survives a power
        cut when this returns.

        This is what decides between a checkpoint's publisher and a sweep that has given it up for dead.
        """

    @abstractmethod
    def touch(self, key: str) -> None:
        """Set an object's `changed_at` to the store's present. No listing misses it. KeyError: there is none."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Raises KeyError when there is none."""

    @abstractmethod
    def part(self, key: str, offset: int, length: int) -> bytes:
        """So many bytes of an object, from an offset on; fewer where it ends before. Raises KeyError."""

    @abstractmethod
    def has(self, key: str) -> bool: ...

    @abstractmethod
    def keys(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key begins so, in any order; of those that come or go meanwhile, some."""

    def absent(self, prefix: str, keys: Iterable[str]) -> set[str]:
        """Those of `keys`, all of which begin with `prefix`, that are not there."""
        return set(keys) - {entry.key for entry in self.keys(prefix)}

    @abstractmethod
    def delete(self, *keys: str) -> None:
        """No error for one that is not there."""

    def settle(self) -> None:
        """Called by a vault before it publishes: what was put so far, by any process here, survives a power cut."""
        return

    def tidy(self) -> None:
        """Called by a sweep: remove what a `put` that never ended has left, where there is such a thing."""
        return

    def close(self) -> None:
        """Let connections go."""
        return

    def identity(self) -> str:
        """The store's random name, given when it is first asked for; the same for all who ever open it."""
        with self._identifying:
            if not self._identity:
                self._identity = self._identify()
            return self._identity

    def require_there(self) -> None:
        """Before anything is called missing. Raises StoreFailed when what is found there now is not the store that was
        opened: nothing is missing from a store because its folder is not mounted any more."""
        if self._identity and self._found() != self._identity:
            raise StoreFailed(f"The store {self.name} has vanished.", "Mount or connect it again.")

    def _found(self) -> str:
        try:
            return str(json.loads(self.get(IDENTITY))["identity"])
        except (ValueError, KeyError, TypeError):
            return ""

    def _identify(self) -> str:
        if not self.has(IDENTITY):
            self.create(IDENTITY, json.dumps({"identity": secrets.token_hex(16), "format": FORMAT}).encode())
        try:
            told = json.loads(self.get(IDENTITY))
            if told["format"] == FORMAT:
                return str(told["identity"])
        except (ValueError, KeyError, TypeError):
            pass
        raise StoreFailed(
            f"{self.name} holds a {IDENTITY} that this version of Sojourn can't read.",
            "Choose another folder, bucket or prefix.",
        )
