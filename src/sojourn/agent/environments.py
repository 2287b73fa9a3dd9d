"""The environments that this node keeps for sessions born elsewhere, and what it says of them before a move.

What a session needs that is to start elsewhere on this node's root goes there by a connection to that node's data port,
as in a move (`movers/environment.py`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from sojourn import movers
from sojourn.agent import machine
from sojourn.agent.data_port import Claims
from sojourn.agent.departures import in_own_thread
from sojourn.agent.links import AnsweredLink, DialledLink
from sojourn.agent.runner import Node, Runner
from sojourn.environment.depot import Depot
from sojourn.errors import SandboxFailed, SojournError
from sojourn.model import EnvironmentLayer, Ground, SessionSpec
from sojourn.movers import environment
from sojourn.movers.parcels import Parcels
from sojourn.sandbox.base import own_python
from sojourn.transport.routes import Routes
from sojourn.wire import EnvironmentSeen, EnvironmentSent, LookAtEnvironment, SendEnvironment

log = logging.getLogger(__name__)

KEPT_SECONDS = 90 * 86400.0
"""A session may have gone to sleep on them, and a store keeps no environments."""
_SWEEP_SECONDS = 3600.0


class Environments:
    def __init__(self, runner: Runner, relay: Callable[[], str] = lambda: "") -> None:
        """`relay()`: host:port of the controller's, by which nodes are reached that can't be dialled themselves."""
        self._runner, self._relay, self._swept_at = runner, relay, 0.0
        runner.carry(LookAtEnvironment, self._look)
        runner.carry(SendEnvironment, self._send)

    async def _look(self, asked: LookAtEnvironment) -> None:
        layers: tuple[EnvironmentLayer, ...] = ()
        error = None
        try:
            layers = await asyncio.to_thread(self._layers, asked)
        except SojournError as refused:
            error = refused.to_wire()
        self._runner.tell(EnvironmentSeen(request=asked.request, session=asked.session, layers=layers, error=error))

    def _layers(self, asked: LookAtEnvironment) -> tuple[EnvironmentLayer, ...]:
        if not asked.layers:
            return movers.needed_elsewhere(self._runner.here(asked.session).sandbox)
        depot = Depot(self._runner.node.depot)
        return tuple(layer for layer in asked.layers if depot.here(layer.id) is None)

    # ── for sessions that start elsewhere ────────────────────────────────────────────────────────────────────

    async def _send(self, asked: SendEnvironment) -> None:
        routes = Routes(asked.target, asked.address, self._relay(), asked.authority)
        ground, error = None, None
        try:
            ground = await in_own_thread(
                f"environment {asked.request[:8]}", lambda: self._sent(asked.spec, routes, asked.ticket)
            )
        except Exception as failed:
            error = _as_error(failed)
            log.warning("an environment could not be sent to %s: %s", asked.target, error.message)
        told = EnvironmentSent(request=asked.request, ground=ground, error=error and error.to_wire())
        self._runner.tell(told)

    def _sent(self, spec: SessionSpec, routes: Routes, ticket: str) -> Ground:
        from sojourn.movers.criu import ground  # imports what only Linux has

        depot = Depot(self._runner.node.depot, hidden(self._runner.node))
        found = ground.offered(spec, depot)
        link = DialledLink(routes, ticket)
        try:
            environment.send(Parcels(link.socket), depot, found)
        finally:
            link.close()
        return Ground(root=machine.root_id(), python=own_python(), layers=tuple(ground.named(found)))

    async def admit(self, connection: socket.socket, claims: Claims) -> None:
        """Another node is at the data port, to bring an environment."""
        link, depot = AnsweredLink(connection, claims["relayed"]), Depot(self._runner.node.depot)

        async def receive() -> None:
            try:
                name = f"environment {claims['request'][:8]}"
                await in_own_thread(name, lambda: environment.receive(Parcels(link.socket), depot))
            finally:
                link.close()

        self._runner.spawn(receive())

    async def sweep(self, now: float) -> None:
        """Drop what nobody has used for long. `now`: seconds since 1970."""
        if now - self._swept_at > _SWEEP_SECONDS:
            self._swept_at = now
            depot = Depot(self._runner.node.depot)
            await asyncio.to_thread(depot.collect, older_than_s=KEPT_SECONDS, now=now)


def hidden(node: Node) -> list[str]:
    """What sessions on the node's own root don't see, and so nobody takes along."""
    from sojourn.sandbox.rootfs import hidden_folders  # imports what only Linux has

    return sorted({*hidden_folders(), *node.hidden, str(node.sandboxes)})


def _as_error(failed: BaseException) -> SojournError:
    if isinstance(failed, SojournError):
        return failed
    log.error("a defect in the agent, at an environment", exc_info=failed)
    return SandboxFailed(f"{type(failed).__name__}: {failed}.", "The agent's log has the details.")
