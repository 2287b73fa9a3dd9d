"""Talking to a controller: `Client`, and `AsyncClient` for asyncio.

with Client("http://127.0.0.1:8571", token) as client:
    client.move("analysis", "there")
"""

from sojourn.client.asynchronous import AsyncClient
from sojourn.client.blocking import Client
from sojourn.client.watching import read_watched, unwatch_request, watch_request, websocket_url
from sojourn.client.words import (
    Collected,
    Decided,
    Moved,
    Policies,
    TokenRow,
    TokenShown,
    Until,
    UntilDone,
    Verified,
    Watched,
)

__all__ = [
    "AsyncClient",
    "Client",
    "Collected",
    "Decided",
    "Moved",
    "Policies",
    "TokenRow",
    "TokenShown",
    "Until",
    "UntilDone",
    "Verified",
    "Watched",
    "read_watched",
    "unwatch_request",
    "watch_request",
    "websocket_url",
]
