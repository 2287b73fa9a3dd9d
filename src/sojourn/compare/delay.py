"""A wire of known length: carries packets between two network namespaces and delivers each one so much later.

    python -m sojourn.compare.delay NAME PID PEER SECONDS

NAME is made in this network namespace and PEER in that of process PID, both as tun devices; the wire lasts as long
as this process. Packets pass as the kernel hands them over, up to 64 KB in one (TSO), so that a thread for each way
carries several Gbit/s. What the kernel's own sch_netem would do; not every kernel has it.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import threading
import time
from collections import deque

from sojourn.sandbox import syscalls

_SET_INTERFACE, _SET_OFFLOAD = 0x400454CA, 0x400454D0
_TUN, _NO_PACKET_INFO, _NET_HEADER = 0x0001, 0x1000, 0x4000
_CHECKSUM, _TSO4, _TSO6 = 0x01, 0x02, 0x04
_LARGEST = 65536 + 64


def open_tun(name: str) -> int:
    """A tun device in this thread's network namespace, gone when its descriptor is closed. Raises OSError."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH22x", name.encode(), _TUN | _NO_PACKET_INFO | _NET_HEADER))
    fcntl.ioctl(device, _SET_OFFLOAD, _CHECKSUM | _TSO4 | _TSO6)
    return device


def carry(source: int, target: int, seconds: float) -> None:
    """One direction, for ever."""
    on_the_way: deque[tuple[float, bytes]] = deque()
    while True:
        patience = on_the_way[0][0] - time.monotonic() if on_the_way else None
        if patience is None or patience > 0:
            select.select([source], [], [], patience)
        now = time.monotonic()
        while on_the_way and on_the_way[0][0] <= now:
            _deliver(target, on_the_way.popleft()[1])
        _take(source, on_the_way, now + seconds)


def _take(source: int, on_the_way: deque[tuple[float, bytes]], due: float) -> None:
    try:
        while True:
            on_the_way.append((due, os.read(source, _LARGEST)))
    except OSError:  # no more at the moment; or the device is still down
        return


def _deliver(target: int, packet: bytes) -> None:
    try:
        os.write(target, packet)
    except OSError:  # lost, as packets are
        return


def main() -> None:
    name, pid, peer, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    near = open_tun(name)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.enter_namespace(there, syscalls.CLONE_NEWNET)
    far = open_tun(peer)
    print("ready", flush=True)
    threading.Thread(target=carry, args=(near, far, seconds), daemon=True).start()
    carry(far, near, seconds)


if __name__ == "__main__":
    main()
