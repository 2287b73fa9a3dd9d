"""The controller's tables. Nodes are spoken of by their names; times are seconds since the epoch.

What changes here needs a migration in `migrations/versions`; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class Said(TypeDecorator[str]):
    """What a program or an error said. PostgreSQL's text holds every character but zero."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value.replace("\0", "\ufffd")


sessions = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("node", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("issued", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("sandbox", String(16)),
    Column("reason", Said, nullable=False),
    Column("deadline", Float),
    Column("away", JSON, nullable=False),
    Column("stopping", JSON, nullable=False),
    Column("move", String(32)),
    Column("save", JSON),
    Column("wake", JSON),
    Column("checkpoint", String(32)),
    Column("exact", Boolean, nullable=False),
    Column("checkpoints", JSON, nullable=False),
    Column("origin", String(32)),
    Column("ended_at", Float),
    Index("sessions_by_end", "ended_at"),
)

moves = Table(
    "moves",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("session", String(32), nullable=False),
    Column("source", String(255), nullable=False),
    Column("target", String(255), nullable=False),
    Column("strategy", String(16), nullable=False),
    Column("source_incarnation", Integer, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("sent", Boolean, nullable=False),
    Column("abandoned", Boolean, nullable=False),
    Column("scathed", Boolean, nullable=False),
    Column("source_lost", Said, nullable=False),
    Column("done_bytes", BigInteger, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("thawed_at", Float),
    Column("report", JSON, nullable=False),
    Column("error", JSON),
    Column("ended_at", Float),
    Index("moves_by_session", "session"),
    Index("moves_by_start", "started_at"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("key", String(64), nullable=False),
    Column("view", JSON, nullable=False),
    Column("seen_at", Float, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("name", String(255), nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("admin", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("uses_left", Integer),
)

verbs = Table(
    "verbs",
    metadata,
    Column("session", String(32), primary_key=True),
    Column("verb", String(64), primary_key=True),
    Column("name", String(32), nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("asked_at", Float, nullable=False),
    Column("ok", Boolean),
    Column("body", JSON),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("session", String(32), nullable=False),
    Column("session_name", String(255), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("node", String(255), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("report", JSON, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("store", String(64), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("problem", Said, nullable=False),
    Index("checkpoints_by_session", "session"),
)

owners = Table(
    "owners",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("key", String(64), nullable=False),
)

stores = Table(
    "stores",
    metadata,
    Column("identity", String(64), primary_key=True),
    Column("url", Text, nullable=False),
)

authorities = Table(
    "authorities",
    metadata,
    Column("certificate", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("created_at", Float, primary_key=True),
)
