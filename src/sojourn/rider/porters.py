"""Bringing agents to the porter: who takes care of the namespace inside the program (contracts, "A move by objects").

The rider hands an agent's connection on as a descriptor, and is out of it: what a namespace holds does not pass here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sojourn.transport.lines import LineSocket

if TYPE_CHECKING:
    import socket

    from sojourn.transport.loop import Loop


class Porters:
    """The program's porter, once it has come, and the agents who wait for it. A program that was started anew has a new
    one, which takes the place of the last."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._porter: LineSocket | None = None
        self._waiting: list[socket.socket] = []

    def come(self, connection: socket.socket) -> None:
        """A porter is at the programs' socket."""
        porter = LineSocket(self._loop, connection, lambda line: None, lambda reason: self._gone(porter))
        if self._porter is not None:
            self._porter.close()
        self._porter = porter
        waiting, self._waiting = self._waiting, []
        for agent in waiting:
            self.bring(agent)

    def bring(self, agent: socket.socket) -> None:
        """To the porter, now or when there is one; for Unix sockets."""
        if self._porter is None:
            self._waiting.append(agent)
            return
        try:
            self._porter.pass_on({"agent": True}, agent)
        except OSError:  # it has just ended: the next one will do
            self._waiting.append(agent)
            return
        agent.close()

    def hang_up(self) -> None:
        """Close what leads outside."""
        waiting, self._waiting = self._waiting, []
        for agent in waiting:
            agent.close()

    def _gone(self, porter: LineSocket) -> None:
        if self._porter is porter:
            self._porter = None
