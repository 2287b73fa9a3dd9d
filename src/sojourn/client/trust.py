"""Whom a client takes for its controller: who can show a certificate of the authority that the token names.

The authority's certificate is asked of the controller at the first connection, before anything is said to it, and kept:
`authorities/FINGERPRINT.pem`. A token without a fingerprint names no authority: then the system's certificates decide.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sojourn.client import calls
from sojourn.errors import Invalid, SojournError, Unauthorized, Unreachable
from sojourn.settings import config_folder
from sojourn.transport.routes import is_loopback, relay_of
from sojourn.transport.tls import CONTROLLER, fingerprint, pin_of, trusting

PATIENCE_SECONDS = 10.0
_AGAIN = "`sojourn token create`, where the controller runs, makes a token that names its authority."


def authorities() -> Path:
    """The folder of those that this user has met."""
    return config_folder() / "authorities"


def trust(url: str, pin: str, folder: Path) -> ssl.SSLContext | None:
    """How to connect to a controller whose authority has the fingerprint `pin`; None: as to any other address.

    Raises Unauthorized when somebody else answers there, or when nothing would be sealed on the way, and Unreachable.
    """
    if not pin:
        return None
    if urlsplit(url).scheme in ("http", "ws"):
        if is_loopback(relay_of(url)):
            return None
        raise Unauthorized(
            f"{url} is not encrypted, and the token is for a controller that speaks TLS.",
            f"Write https://{urlsplit(url).netloc}.",
        )
    return trusting(_kept(pin, folder) or _meet(url, pin, folder), CONTROLLER)


def trust_of(url: str, token: str) -> ssl.SSLContext | None:
    """As `trust`, for this user and the authority that the token names."""
    return trust(url, pin_of(token), authorities())


def sealing(trusted: ssl.SSLContext | None) -> dict[str, Any]:
    """As `websockets` wants to be told, which refuses to be told None."""
    return {"ssl": trusted} if trusted else {}


def no_word(url: str, pin: str, down: Exception) -> SojournError:
    """Why a controller could not be asked, in words: it is away, or who answers is not to be trusted."""
    if "CERTIFICATE_VERIFY_FAILED" not in str(down):
        return calls.unreachable(url, down)
    if "not yet valid" in str(down) or "expired" in str(down):
        return Unauthorized(f"The certificate of {url} is not good at this time.", "Look at both machines' clocks.")
    return stranger(url, pin, _said_fingerprint(url))


def stranger(url: str, pin: str, other: str) -> Unauthorized:
    """Somebody else than the controller of the token answers, and names an authority with the fingerprint `other`."""
    named = other or "none"
    if not pin:
        return Unauthorized(
            f"This system does not trust the certificate of {url}; its own authority has the fingerprint {named}.",
            f"The token names no authority. {_AGAIN}",
        )
    if other == pin:
        return Unauthorized(
            f"Who answers at {url} names the authority {pin}, but has no certificate of it.",
            "Somebody is in between; or a proxy, for which the token is used without the dot and what follows it.",
        )
    return Unauthorized(
        f"{url} is not the controller of this token: its authority has the fingerprint {named}, the token names {pin}.",
        f"Somebody is in between, or the controller was made anew. If so: {_AGAIN}",
    )


def _kept(pin: str, folder: Path) -> str:
    with suppress(OSError, Invalid):
        kept = (folder / f"{pin}.pem").read_text()
        return kept if fingerprint(kept) == pin else ""
    return ""


def _meet(url: str, pin: str, folder: Path) -> str:
    """For the first time. What is asked needs no trust: it is known by its fingerprint."""
    said = said_authority(url)
    try:
        met = fingerprint(said)
    except Invalid:
        met = ""
    if met != pin:
        raise stranger(url, pin, met)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder / f".{pin}.{os.getpid()}"
    draft.write_text(said)
    draft.replace(folder / f"{pin}.pem")
    return said


def said_authority(url: str) -> str:
    """The certificate (PEM) of the authority that whoever answers there names; it proves nothing. Nothing is told.
    Raises Unreachable."""
    import httpx

    from sojourn.client.blocking import elsewhere

    asked = f"http{url.rstrip('/').removeprefix('http').removeprefix('ws')}/api/authority"
    try:
        return httpx.get(asked, verify=False, timeout=PATIENCE_SECONDS, trust_env=elsewhere(url)).text
    except httpx.HTTPError as down:
        raise calls.unreachable(url, down) from down


def _said_fingerprint(url: str) -> str:
    with suppress(Unreachable, Invalid):
        return fingerprint(said_authority(url))
    return ""
