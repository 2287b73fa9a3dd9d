"""A network of known speed: a network namespace whose loopback passes no more than so many bits a second.

What is started within stays within: nodes, controller, store and clients reach each other over that link, in both
directions together, and nothing else. Needs root, iproute2 and the kernel's token bucket (sch_tbf).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sojourn.compare.wire import limit, run
from sojourn.errors import Refused
from sojourn.sandbox import syscalls

PROBE_SECONDS = 1.0
_PIECE = bytes(1 << 20)
_HINT = "Run this benchmark as root, on Linux with iproute2 and sch_tbf, outside of unprivileged containers."


@dataclass(frozen=True)
class Link:
    asked_gbit_s: float
    gbit_s: float
    """As one TCP connection measured it when nothing else ran."""

    @property
    def sent_bytes(self) -> int:
        """What has gone over it so far, headers included."""
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        loopback = next(line for line in lines if line.strip().startswith("lo:"))
        return int(loopback.split(":")[1].split()[8])

    def said(self) -> dict[str, float]:
        return {"link_gbit_s": self.asked_gbit_s, "measured_gbit_s": round(self.gbit_s, 2)}


def load_average() -> float:
    """Of the last minute: more than there are cores means that the figures are those of a busy machine."""
    return round(os.getloadavg()[0], 2)


@contextmanager
def shaped(gbit_s: float) -> Iterator[Link]:
    """This thread, and all threads and processes that it starts meanwhile, live on such a link. Raises Refused."""
    with _fresh_namespace():
        run("ip", "link", "set", "lo", "up")
        limit("lo", gbit_s)
        yield Link(gbit_s, _measured_gbit_s())


@contextmanager
def _fresh_namespace() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            syscalls.leave_namespaces(syscalls.CLONE_NEWNET)
        except OSError as refused:
            raise Refused(f"No network namespace can be made here: {refused.strerror}.", _HINT) from refused
        try:
            yield
        finally:
            syscalls.enter_namespace(home, syscalls.CLONE_NEWNET)
    finally:
        os.close(home)


def _measured_gbit_s() -> float:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname(),))
        sender.start()
        connection, _ = server.accept()
        with connection:
            received, since = 0, time.monotonic()
            piece = bytearray(len(_PIECE))
            while time.monotonic() < since + PROBE_SECONDS:
                received += connection.recv_into(piece)
            seconds = time.monotonic() - since
        sender.join()
    return received * 8 / seconds / 1e9


def _send(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, contextlib.suppress(OSError):
        while True:
            connection.sendall(_PIECE)
