"""The page source: a process at the source of a move that reads frozen tasks' memory and answers requests for it.

It holds descriptors of the tasks' memory, not PIDs: whatever happens to the tasks, it can't read another's memory. It
knows nothing of what is still wanted, so nothing is lost with it but the connections.

    python -m sojourn.movers.pager.source CONTROL CONNECTION …

The arguments are numbers of inherited sockets. Over CONTROL come `{"do": "memory", "tasks": [task, …]}` with the
descriptors of /proc/PID/mem, and then `{"do": "begin"}`. The process ends when every connection has ended.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Iterable

from sojourn.movers.haste import BRISK, hasten
from sojourn.movers.pager.frames import ANSWER, LARGEST, REQUEST, runs
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.supply import Buffer, FrozenMemory, receive_exactly


def serve(connection: socket.socket, memory: FrozenMemory) -> None:
    """Answer requests on one connection until it ends."""
    buffer = Buffer()
    request = bytearray(REQUEST.size)
    try:
        while True:
            receive_exactly(connection, memoryview(request))
            _answer(connection, memory, buffer, *REQUEST.unpack(request))
    except OSError:
        connection.close()


def _answer(
    connection: socket.socket, memory: FrozenMemory, buffer: Buffer, task: int, address: int, length: int
) -> None:
    try:
        if not 0 < length <= LARGEST:
            raise OSError(errno.EINVAL, f"a request for {length} bytes")
        blocks = memory.read(task, address, length, buffer)
    except (OSError, KeyError) as failed:
        connection.sendall(ANSWER.pack(0, getattr(failed, "errno", None) or errno.ESRCH))
        return
    parts = [buffer.view[start:end] for start, end, present in runs(blocks, length) if present]
    send_all(connection, [memoryview(ANSWER.pack(length, blocks)), *parts])


def send_all(connection: socket.socket, parts: Iterable[memoryview]) -> None:
    """Send several buffers as one."""
    left = list(parts)
    while left:
        sent = connection.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def take_memory(lines: Lines) -> FrozenMemory | None:
    """What the agent hands over; None when it ends before that, and so the move."""
    memory: dict[int, int] = {}
    while message := lines.receive():
        if message["do"] == "begin":
            return FrozenMemory(memory)
        memory.update(zip(message["tasks"], lines.take(len(message["tasks"])), strict=True))
    return None


def main() -> None:
    control, *connections = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    lines = Lines(control)
    memory = take_memory(lines)
    lines.close()
    if memory is None:
        return
    hasten(os.getpid(), BRISK)
    threads = [threading.Thread(target=serve, args=(connection, memory)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
