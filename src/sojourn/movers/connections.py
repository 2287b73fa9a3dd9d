"""A session's TCP connections: which lead outside and are reset by a move, and mending those CRIU left in repair.

CRIU reads a connection's queues with the socket "in repair" and takes it out again when it ends in good order. We end
it by SIGKILL, so a session that goes on where it was needs its sockets taken out of repair by us.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TCP_REPAIR = 19
_ESTABLISHED_TO_CLOSING = frozenset({1, 2, 3, 4, 5, 8, 9, 11})
_SYS_PIDFD_GETFD = 438
_NETLINK_SOCK_DIAG, _SOCK_DESTROY, _REQUEST_AND_ACKNOWLEDGE = 4, 21, 5
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Connection:
    """Addresses as text, ports as numbers."""

    local: tuple[str, int]
    peer: tuple[str, int]

    def to_wire(self) -> list[Any]:
        return [*self.local, *self.peer]

    @staticmethod
    def from_wire(said: list[Any]) -> Connection:
        return Connection((str(said[0]), int(said[1])), (str(said[2]), int(said[3])))

    def __str__(self) -> str:
        host, port = self.peer
        return f"tcp [{host}]:{port}" if ":" in host else f"tcp {host}:{port}"


def outside_connections(pid: int) -> list[Connection]:
    """The connections in a process's network namespace whose other end is not in it too."""
    found = [*_table(Path(f"/proc/{pid}/net/tcp")), *_table(Path(f"/proc/{pid}/net/tcp6"))]
    ends = {connection.local for connection in found}
    return [one for one in found if one.peer not in ends and not ipaddress.ip_address(one.peer[0]).is_loopback]


def parse_table(text: str) -> Iterator[Connection]:
    """The connections in /proc/PID/net/tcp or tcp6 (proc_pid_net(5)); their addresses are words of the machine."""
    for line in text.splitlines()[1:]:
        _, local, peer, state = line.split()[:4]
        if int(state, 16) in _ESTABLISHED_TO_CLOSING:
            yield Connection(_address(local), _address(peer))


def _table(path: Path) -> list[Connection]:
    try:
        return list(parse_table(path.read_text()))
    except FileNotFoundError:  # no IPv6
        return []


def _address(field: str) -> tuple[str, int]:
    address, port = field.split(":")
    words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
    packed = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = getattr(packed, "ipv4_mapped", None)
    return str(mapped or packed), int(port, 16)


def reset(connections: Iterable[Connection]) -> None:
    """End connections of this thread's network namespace, so that whoever waits on one gets an error at once
    (SOCK_DESTROY, sock_diag(7)). One that is gone already is passed over."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as line:
        for connection in connections:
            line.send(_destroy(connection))
            line.recv(4096)


def _destroy(connection: Connection) -> bytes:
    addresses = [ipaddress.ip_address(host).packed for host in (connection.local[0], connection.peer[0])]
    family = socket.AF_INET if len(addresses[0]) == 4 else socket.AF_INET6
    body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF)
    body += struct.pack("!HH", connection.local[1], connection.peer[1])
    body += b"".join(address.ljust(16, b"\0") for address in addresses)
    body += struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    return struct.pack("=IHHII", 16 + len(body), _SOCK_DESTROY, _REQUEST_AND_ACKNOWLEDGE, 1, 0) + body


def end_repair(pids: Iterable[int]) -> int:
    """Take every TCP socket of these processes out of repair; returns how many were in it. Frozen ones too."""
    return sum(_end_repair(pid) for pid in pids)


def _end_repair(pid: int) -> int:
    ended = 0
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        handle = os.pidfd_open(pid)
        try:
            for number in _sockets(pid):
                with contextlib.suppress(OSError), socket.socket(fileno=borrow(handle, number)) as found:
                    if found.type == socket.SOCK_STREAM and found.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR):
                        found.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 0)
                        ended += 1
        finally:
            os.close(handle)
    return ended


def _sockets(pid: int) -> Iterator[int]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(entry.readlink()).startswith("socket:"):
                yield int(entry.name)


def borrow(pidfd: int, number: int) -> int:
    """A descriptor of another process (pidfd_getfd(2)). Raises OSError."""
    descriptor: int = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if descriptor < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return descriptor
