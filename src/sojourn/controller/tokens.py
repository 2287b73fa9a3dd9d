"""Who may talk to the controller. Secrets are random and long, so their hashes need no salt; each is shown once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass

from sojourn.client.words import TokenRequest, TokenRow
from sojourn.database import Database, Node, Token
from sojourn.database import queries as ask
from sojourn.errors import Unauthorized, Unknown
from sojourn.lifecycle import Session
from sojourn.transport.tls import secret_of


@dataclass(frozen=True)
class Person:
    """Whoever shows an api token."""

    name: str
    admin: bool

    def may_see(self, session: Session) -> bool:
        return self.admin or session.owner == self.name

    def require_admin(self, what: str) -> None:
        if not self.admin:
            raise Unauthorized(f"{self.name} may not {what}.", "Ask whoever runs this controller.")


def mint(kind: str) -> str:
    """A new secret: 256 random bits, and a beginning by which a leaked one is recognised."""
    return f"sojourn_{kind}_{secrets.token_urlsafe(32)}"


def fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Gate:
    """Knows every token by its hash."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def person(self, secret: str, now: float) -> Person:
        """Raises Unauthorized."""
        token = self._token(secret, "api", now)
        return Person(token.name, token.admin)

    def joiner(self, secret: str, now: float) -> Token:
        """Raises Unauthorized."""
        return self._token(secret, "join", now)

    def create(self, asked: TokenRequest, now: float) -> tuple[Token, str]:
        """The new token and its secret."""
        secret = mint(asked.kind)
        token = Token(
            id=uuid.uuid4().hex,
            kind=asked.kind,
            name=asked.name,
            secret_hash=fingerprint(secret),
            admin=asked.admin and asked.kind == "api",
            created_at=now,
            expires_at=None if asked.expires_in_seconds is None else now + asked.expires_in_seconds,
            uses_left=asked.uses if asked.kind == "join" else None,
        )
        with self._database.transaction(lasting=True) as connection:
            ask.add_token(connection, token)
        return token, secret

    def all(self) -> list[Token]:
        with self._database.transaction() as connection:
            return ask.tokens(connection)

    def revoke(self, identity: str) -> None:
        with self._database.transaction(lasting=True) as connection:
            if not ask.revoke_token(connection, identity):
                raise Unknown(f"There is no token {identity!r}.", "`sojourn token list` shows those there are.")

    def _token(self, secret: str, kind: str, now: float) -> Token:
        secret = secret_of(secret)
        with self._database.transaction() as connection:
            token = ask.token_by_hash(connection, fingerprint(secret))
        if token is None or token.kind != kind or not matches(secret, token.secret_hash):
            raise Unauthorized("That token is not known here.", "`sojourn login URL` takes another one.")
        if not token.valid(now):
            raise Unauthorized(f"The token {token.name!r} has expired or is spent.", "Make a new one.")
        return token


def matches(secret: str, secret_hash: str) -> bool:
    return hmac.compare_digest(fingerprint(secret), secret_hash)


def row(token: Token) -> TokenRow:
    return {
        "id": token.id,
        "kind": token.kind,
        "name": token.name,
        "admin": token.admin,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "uses_left": token.uses_left,
    }


def holder(secret: str, nodes: list[Node]) -> Node | None:
    """The node whose own token this is."""
    return next((node for node in nodes if matches(secret, node.token_hash)), None)
