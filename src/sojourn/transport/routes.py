"""The two ways to a node's agent: its data port, and its controller's relay (contracts, Relay).

An address may lead nowhere, and one on a loopback, or behind a NAT, to somebody else: then the relay is tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sojourn.errors import Invalid, Unauthorized, Unreachable

if TYPE_CHECKING:
    from sojourn.errors import SojournError

DIRECT_SECONDS = 2.0
"""How long an address may take to accept a connection while there is another way."""
RELAY_SECONDS = 10.0
DETOUR_SECONDS = 60.0
"""For so long the relay comes first, after it led where the address did not."""


@dataclass(frozen=True)
class Route:
    address: str
    """host:port"""
    relayed_to: str = ""
    """The node that the relay at this address is asked for; empty: this is the node's own address."""
    patience_seconds: float = RELAY_SECONDS
    """For the connection to come about."""
    node: str = ""
    """Who is to answer in the end."""
    authority: str = ""
    """Who vouches for that node (PEM); empty: nothing is sealed on this way."""

    def __str__(self) -> str:
        return f"Node {self.relayed_to}, relayed at {self.address}," if self.relayed_to else self.address


class Routes:
    """To one node. `address`, `relay`: host:port, or empty where there is none; `now` by any clock that only grows.

    `authority`: vouches for the node (PEM), and then all is sealed but what stays on this machine; empty: nothing is.
    """

    def __init__(self, node: str, address: str, relay: str, authority: str = "") -> None:
        self.relay = relay
        """May change: a controller can be moved."""
        self._node, self._address, self._authority = node, address, authority
        self._detour_until = 0.0

    def ahead(self, now: float) -> list[Route]:
        """Those to be tried, in this order."""
        relayed = [Route(self.relay, self._node, node=self._node, authority=self._authority)] if self.relay else []
        patience = DIRECT_SECONDS if relayed else RELAY_SECONDS
        sealed = "" if is_loopback(self._address) else self._authority
        direct = [Route(self._address, patience_seconds=patience, node=self._node, authority=sealed)]
        if not self._address or (relayed and is_loopback(self._address) and not is_loopback(self.relay)):
            return relayed
        return relayed + direct if now < self._detour_until else direct + relayed

    def led_there(self, route: Route, now: float) -> None:
        self._detour_until = now + DETOUR_SECONDS if route.relayed_to else 0.0


def may_be_elsewhere(error: SojournError) -> bool:
    """Whether nobody has answered, or somebody else than the agent that the ticket is for."""
    return isinstance(error, Unreachable | Invalid | Unauthorized)


def relay_of(url: str) -> str:
    """host:port of the port at which a controller is reached, and so of its relay; empty for no URL."""
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    return f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"


def is_loopback(address: str) -> bool:
    """Whether host:port leads to the very machine that dials it."""
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or host.startswith("127.") or host == "::1"
