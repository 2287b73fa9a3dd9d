"""Addresses as configurations and places write them, and sockets for them.

`@name`: an abstract Unix socket (Linux). `/path`: a Unix socket. `host:port`, `[::1]:port`: TCP.
"""

# ruff: noqa: PTH108, PTH110
# (pathlib would cost every rider a megabyte)
from __future__ import annotations

import os
import socket

from sojourn.errors import Invalid

_LONGEST_UNIX_PATH = 100
"""The kernel's limit is 108 bytes on Linux, 104 on macOS."""


def parse_tcp(address: str) -> tuple[str, int]:
    """`host:port` in parts; raises Invalid."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{address!r} is not an address.", "Write it as host:port.")
    return host.strip("[]"), int(port)


def is_unix(address: str) -> bool:
    return address.startswith(("@", "/"))


def is_possible(address: str) -> bool:
    """Whether this system has such sockets, for a Unix path of this length."""
    return not is_unix(address) or (hasattr(socket, "AF_UNIX") and len(os.fsencode(address)) <= _LONGEST_UNIX_PATH)


def listen(address: str) -> socket.socket:
    """A listening socket, non-blocking. A Unix path left over from an earlier life is replaced. Raises OSError."""
    if not is_unix(address):
        host, port = parse_tcp(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=128)
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if address.startswith("/") and os.path.exists(address):
                os.unlink(address)
            listener.bind(_unix_name(address))
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """Where others reach a listening socket, in the form `listen` takes."""
    name = listener.getsockname()
    if isinstance(name, bytes):
        return "@" + name[1:].decode()
    if isinstance(name, str):
        return "@" + name[1:] if name.startswith("\0") else name
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connecting(address: str) -> socket.socket:
    """A non-blocking socket on its way to a numeric address: writable once connected, or failed (SO_ERROR).

    Raises OSError when it is refused at once.
    """
    if is_unix(address):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: str | tuple[str, int] = _unix_name(address)
    else:
        target = parse_tcp(address)
        connection = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(target)
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        raise
    return connection


def is_from_here(connection: socket.socket) -> bool:
    """Whether who is at the other end of a TCP connection is on this very machine, and came by its loopback."""
    try:
        host = str(connection.getpeername()[0]).removeprefix("::ffff:")
    except OSError:
        return False
    return host.startswith("127.") or host == "::1"


def hasten(connection: socket.socket) -> None:
    """Small packets leave at once. Fine on any socket."""
    if connection.family != getattr(socket, "AF_UNIX", None):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _unix_name(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address
