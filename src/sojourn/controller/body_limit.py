"""No request may be larger than any that makes sense: its body is read before its token is looked at."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 8 << 20
"""A session's specification with its private files and its environment is some kilobytes."""


class BodyLimit:
    """ASGI middleware that answers 413 once more than `MOST_BYTES` have come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = MOST_BYTES

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"A request has at most {MOST_BYTES} bytes")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)
