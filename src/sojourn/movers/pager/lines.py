"""JSON lines over a Unix socket, with descriptors beside them."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

MOST_DESCRIPTORS = 200
"""In one message; the kernel's limit is 253 (SCM_MAX_FD)."""


class Lines:
    """One end. Descriptors are taken in the order in which they were sent, by whoever the line says they are for."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._text = b""
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises OSError when the other end is gone."""
        body = json.dumps(message).encode() + b"\n"
        if descriptors:
            # The descriptors travel with the first bytes, so the line is never read before they are there.
            sent = socket.send_fds(self.connection, [body], list(descriptors))
            body = body[sent:]
        self.connection.sendall(body)

    def pump(self) -> bool:
        """Take in what has come, waiting if nothing has; False at the end."""
        try:
            text, descriptors, _, _ = socket.recv_fds(self.connection, 65536, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        self._text += text
        self._descriptors.extend(descriptors)
        return bool(text)

    def receive(self) -> dict[str, Any] | None:
        """The next line, however long it takes; None at the end."""
        while b"\n" not in self._text:
            if not self.pump():
                return None
        return next(self.messages())

    def messages(self) -> Iterator[dict[str, Any]]:
        """The complete lines so far."""
        while b"\n" in self._text:
            line, _, self._text = self._text.partition(b"\n")
            yield json.loads(line)

    def take(self, count: int = 1) -> list[int]:
        """The next descriptors, now the caller's."""
        return [self._descriptors.popleft() for _ in range(count)]

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self.connection.close()
