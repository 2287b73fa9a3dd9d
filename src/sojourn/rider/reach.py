"""A stream's way to where something listens inside the sandbox, or soon will."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from sojourn.errors import Invalid
from sojourn.transport.address import connecting
from sojourn.transport.loop import WRITE, Timer
from sojourn.transport.socket_pipe import SocketPipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from sojourn.rider.spool import Backlog
    from sojourn.transport.pump import Pump

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.25
_PATIENCE_SECONDS = 60.0


class Reach(SocketPipe):
    """Connects to `address`. A program that is starting up is waited for: its clients' connections hold meanwhile,
    which spares them the time until they would try again.

    `park(reach)`: no program runs; `go` is to be called when one does.
    """

    def __init__(
        self, pump: Pump, number: int, address: str, backlog: Backlog, *, running: Callable[[], bool],
        park: Callable[[Reach], None],
    ) -> None:  # fmt: skip
        super().__init__(pump, number, backlog=backlog)
        self.backlog = backlog
        self._address = address
        self._running, self._park = running, park
        self._trying: socket.socket | None = None
        self._timer: Timer | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._waited = 0.0
        self._over = False
        self.go()

    def go(self) -> None:
        """Try, from now on and again."""
        if self._over:
            return
        try:
            self._trying = connecting(self._address)
        except Invalid as nonsense:
            self.fail(nonsense.message)
            return
        except OSError as failure:
            self._refused(failure.strerror or str(failure))
            return
        self.pump.loop.watch(self._trying, WRITE, self._decided)

    def closed(self, reason: str) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._give_up_trying()
        super().closed(reason)

    def _decided(self, _ready: int) -> None:
        assert self._trying is not None
        failure = self._trying.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._give_up_trying()
            self._refused(f"error {failure}")
            return
        if _met_itself(self._trying):
            self._give_up_trying()
            self._refused("nothing listens yet")
            return
        connection, self._trying = self._trying, None
        self.pump.loop.forget(connection)
        self.plug(connection)

    def _refused(self, reason: str) -> None:
        if not self._running():
            self._pause, self._waited = _FIRST_PAUSE_SECONDS, 0.0
            self._park(self)
        elif self._waited < _PATIENCE_SECONDS:
            self._timer = self.pump.loop.later(self._pause, self.go)
            self._waited += self._pause
            self._pause = min(self._pause * 1.5, _LONGEST_PAUSE_SECONDS)
        else:
            self.fail(f"nothing listens at {self._address}: {reason}")

    def _give_up_trying(self) -> None:
        trying, self._trying = self._trying, None
        if trying is not None:
            self.pump.loop.forget(trying)
            trying.close()


def _met_itself(connection: socket.socket) -> bool:
    """A connection to a port of this machine at which nothing listens may be given that very port as its own, and then
    it is connected: to itself (RFC 9293, simultaneous open)."""
    return (
        connection.family != getattr(socket, "AF_UNIX", None) and connection.getsockname() == connection.getpeername()
    )
