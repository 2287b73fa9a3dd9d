"""Session tickets: what a front or a peer agent shows at an agent's data port.

A ticket is `base64url(claims) "." base64url(HMAC-SHA256(key, claims))`. The key is the node's own, given to it in
`Welcome`, so an agent checks a ticket without asking anybody. Time is an argument.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from sojourn.errors import Unauthorized


def sign(claims: dict[str, Any], key: str, expires_at: float) -> str:
    """`key` is hexadecimal, `expires_at` in seconds since the epoch."""
    body = json.dumps({**claims, "exp": expires_at}, separators=(",", ":"), sort_keys=True).encode()
    return f"{_encode(body)}.{_encode(_mac(body, key))}"


def verify(ticket: str, key: str, now: float) -> dict[str, Any]:
    """The claims of a ticket; raises Unauthorized when it is forged, broken or expired."""
    try:
        body, mac = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in ticket.split("."))
    except ValueError as broken:
        raise Unauthorized("That is not a session ticket.", "Ask the controller for a new one.") from broken
    if not hmac.compare_digest(mac, _mac(body, key)):
        raise Unauthorized("The session ticket was not signed for this node.", "Ask the controller for a new one.")
    claims: dict[str, Any] = json.loads(body)
    if claims["exp"] < now:
        raise Unauthorized("The session ticket has expired.", "Ask the controller for a new one.")
    return claims


def _mac(body: bytes, key: str) -> bytes:
    return hmac.new(bytes.fromhex(key), body, hashlib.sha256).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
