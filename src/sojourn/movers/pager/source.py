"""The page source: a process at the source of a move that reads frozen tasks' memory and answers requests for it.

It holds descriptors of the tasks' memory, not PIDs: whatever happens to the tasks, it can't read another's memory. It
knows nothing of what is still wanted, so nothing is lost with it but the connections.

    python -m sojourn.movers.pager.source CONTROL CONNECTION …

The arguments are numbers of inherited sockets. Over CONTROL come `{"do": "memory", "tasks": [task, …]}` with the
descriptors of /proc/PID/mem; while the tasks still run `{"do": "ahead", "ranges": {task: [[start, end], …]}}`, any
number of times, each answered with a line when all that is there; and when they stand still, with descriptors anew,
`{"do": "begin", "ranges": …}`. The process ends when every connection has ended.

The first connection is for faults; the next one carries what goes ahead before it serves the bulk, as the others do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Sequence

from sojourn.movers.haste import BRISK, hasten
from sojourn.movers.pace import Pace
from sojourn.movers.packing import Packer
from sojourn.movers.pager.ahead import Advance, Ranges
from sojourn.movers.pager.frames import ANSWER, LARGEST, REQUEST, runs
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.supply import Buffer, FrozenMemory, receive_exactly, send_all


def serve(connection: socket.socket, memory: FrozenMemory, pace: Pace) -> None:
    """Answer requests on one connection until it ends."""
    buffer, packer = Buffer(), Packer(pace)
    request = bytearray(REQUEST.size)
    try:
        while True:
            receive_exactly(connection, memoryview(request))
            _answer(connection, memory, buffer, packer, *REQUEST.unpack(request))
    except OSError:
        connection.close()


def _answer(
    connection: socket.socket,
    memory: FrozenMemory,
    buffer: Buffer,
    packer: Packer,
    task: int,
    address: int,
    length: int,
) -> None:
    try:
        if not 0 < length <= LARGEST:
            raise OSError(errno.EINVAL, f"a request for {length} bytes")
        blocks = memory.read(task, address, length, buffer)
    except (OSError, KeyError) as failed:
        connection.sendall(ANSWER.pack(0, getattr(failed, "errno", None) or errno.ESRCH, 0))
        return

    def put(parts: Sequence[memoryview]) -> None:
        head = ANSWER.pack(length, blocks, sum(map(len, parts)))
        send_all(connection, [memoryview(head), *parts])

    packer.send([buffer.view[start:end] for start, end, present in runs(blocks, length) if present], put)


class Source:
    """The process's conversation with its agent, and what it serves then."""

    def __init__(self, lines: Lines, connections: list[socket.socket]) -> None:
        self._lines, self._connections = lines, connections
        self._pace = Pace()
        self._ahead = Advance(connections[1], Packer(self._pace))
        self._memory = FrozenMemory({})

    def listen(self) -> Ranges | None:
        """Until the tasks stand still; what is to have gone ahead. None when the agent ends before that, and so the
        move."""
        while message := self._lines.receive():
            if message["do"] == "memory":
                self._memory.take(dict(zip(message["tasks"], self._lines.take(len(message["tasks"])), strict=True)))
                continue
            ranges = {int(task): some for task, some in message["ranges"].items()}
            if message["do"] == "begin":
                return ranges
            self._ahead.round(self._memory, ranges)
            self._lines.send({"event": "ahead"})
        return None

    def serve(self, ranges: Ranges) -> None:
        """Until every connection has ended."""

        def bulk() -> None:
            with contextlib.suppress(OSError):  # of which the serving hears too
                self._ahead.finish(self._memory, ranges)
            serve(self._connections[1], self._memory, self._pace)

        faults, _, *others = self._connections
        threads = [threading.Thread(target=bulk)]
        threads += [threading.Thread(target=serve, args=(one, self._memory, self._pace)) for one in (faults, *others)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    sys.setswitchinterval(0.0005)  # who answers a fault must not wait 5 ms for one who packs
    control, *connections = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    lines = Lines(control)
    source = Source(lines, connections)
    ranges = source.listen()
    lines.close()
    if ranges is None:
        return
    hasten(os.getpid(), BRISK)
    source.serve(ranges)


if __name__ == "__main__":
    main()
