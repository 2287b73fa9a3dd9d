"""A client that writes down when each numbered line came, to find silences and anything lost, doubled or reordered."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from queue import Empty
from typing import Any


class Listener(threading.Thread):
    """Follows the stream output of one execute request on a client's iopub channel, until it goes idle."""

    def __init__(self, client: Any, parent: str) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._parent = parent
        self._left_over = ""
        self.arrivals: list[tuple[float, int]] = []
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                message = self._client.get_iopub_msg(timeout=0.5)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") == self._parent:
                self._hear(message, time.monotonic())

    def _hear(self, message: dict[str, Any], now: float) -> None:
        if message["msg_type"] == "stream":
            text = self._left_over + message["content"]["text"]
            *lines, self._left_over = text.split("\n")
            self.arrivals += [(now, int(line)) for line in lines if line]
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            self.ended.set()

    def longest_silence(self, since: float, until: float) -> float:
        """Seconds between two arrivals one after the other, at least one of which lies between the two moments."""
        moments = [moment for moment, _ in list(self.arrivals)]
        before = max((moment for moment in moments if moment <= since), default=since)
        after = min((moment for moment in moments if moment >= until), default=until)
        inside = [before, *(moment for moment in moments if since < moment < until), after]
        return max((later - earlier for earlier, later in pairwise(inside)), default=0.0)

    def silences_within(self, since: float, until: float) -> list[float]:
        """Seconds from each arrival between the two moments to the next one, whenever that came."""
        moments = [moment for moment, _ in list(self.arrivals)]
        return [later - earlier for earlier, later in pairwise(moments) if since <= earlier < until]

    def faults(self) -> dict[str, int]:
        """How many numbers were lost, came twice, or came out of order."""
        numbers = [number for _, number in self.arrivals]
        expected = range(1, (max(numbers) if numbers else 0) + 1)
        return {
            "lost": len(set(expected) - set(numbers)),
            "duplicated": len(numbers) - len(set(numbers)),
            "reordered": sum(later < earlier for earlier, later in pairwise(numbers)),
        }
