"""The heart that a kernel's clients listen to. It beats in a thread of its own that needs no Python to run: clients
that know a kernel by its connection file alone take it for dead after one second of silence."""

from __future__ import annotations

import threading

import zmq

from sojourn.front.connection import Connection
from sojourn.front.sides import Socket, Zone


class Heart:
    """Bound from the beginning; raises Refused when the port is taken. All methods belong to one thread."""

    def __init__(self, zone: Zone, outer: Connection) -> None:
        self._zone = zone
        self._socket = outer.bind(zone, "hb", zmq.ROUTER)
        self._rein: Socket | None = None
        self._thread: threading.Thread | None = None

    def beat(self, alive: bool) -> None:
        """Beat while `alive`; cheap when nothing changes."""
        if alive and self._rein is None:
            self._begin()
        elif not alive and self._rein is not None:
            self._rest(self._rein)

    def close(self) -> None:
        self.beat(False)
        self._socket.close(0)

    def _begin(self) -> None:
        self._rein, bridle = self._zone.socket(zmq.PAIR), self._zone.socket(zmq.PAIR)
        name = f"inproc://heart-{id(self)}"
        bridle.bind(name)
        self._rein.connect(name)
        self._thread = threading.Thread(target=_echo, args=(self._socket, bridle), name="heart", daemon=True)
        self._thread.start()

    def _rest(self, rein: Socket) -> None:
        rein.send(b"TERMINATE")
        if self._thread:
            self._thread.join()
        rein.close(0)
        self._rein = self._thread = None


def _echo(socket: Socket, bridle: Socket) -> None:
    try:
        zmq.proxy_steerable(socket, socket, None, bridle)
    finally:
        bridle.close(0)
