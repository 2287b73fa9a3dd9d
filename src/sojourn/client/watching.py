"""The words of `WS /api/watch`, for whoever holds the socket."""

from __future__ import annotations

import json
from typing import Any

from sojourn.client.words import Watched
from sojourn.errors import from_wire


def websocket_url(url: str) -> str:
    """`http(s)://host:port` -> where watchers dial."""
    return "ws" + url.rstrip("/").removeprefix("http") + "/api/watch"


def watch_request(session: str, anchor: str | None = None) -> dict[str, Any]:
    return {"watch": session, "anchor": anchor}


def unwatch_request(session: str) -> dict[str, Any]:
    return {"unwatch": session}


def read_watched(text: str | bytes) -> Watched:
    """Raises the error with which the controller refused to watch."""
    body = json.loads(text)
    if "error" in body:
        raise from_wire(body["error"])
    return Watched.model_validate(body)
