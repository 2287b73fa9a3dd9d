"""A store in this process's memory: for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from sojourn.chunks.backend import Backend, Bytes, Entry


class MemoryBackend(Backend):
    """Gone with the process. `clock` is the store's own."""

    def __init__(self, name: str = "memory://", clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.name = name
        self._clock = clock
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def put(self, key: str, body: Bytes) -> None:
        with self._lock:
            self._objects[key] = bytes(body), self._clock()

    def create(self, key: str, body: Bytes) -> bool:
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = bytes(body), self._clock()
            return True

    def touch(self, key: str) -> None:
        with self._lock:
            self._objects[key] = self._objects[key][0], self._clock()

    def get(self, key: str) -> bytes:
        with self._lock:
            return self._objects[key][0]

    def part(self, key: str, offset: int, length: int) -> bytes:
        return self.get(key)[offset : offset + length]

    def has(self, key: str) -> bool:
        return key in self._objects

    def keys(self, prefix: str) -> Iterator[Entry]:
        with self._lock:
            there = list(self._objects.items())
        return (Entry(key, len(body), at) for key, (body, at) in there if key.startswith(prefix))

    def delete(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)
