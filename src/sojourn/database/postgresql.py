"""PostgreSQL: a database for a controller that may run on any of several hosts, one at a time.

The connection holds an advisory lock, and every transaction goes through that same connection: whoever loses it can
write nothing more, so the next one to take the lock is alone. A server tells that a silent client is gone after hours;
here it is told to look for eleven seconds, and the client gives up a little sooner.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from sojourn.errors import Busy

_DRIVERLESS = ("postgresql", "postgres")
_LOCK = int.from_bytes(b"sojourn\0")
_PATIENCE: dict[str, int | str] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""libpq's words for when the server counts as gone: seconds, and for the last one milliseconds."""
_SESSION = (
    "SET synchronous_commit TO off",
    "SET tcp_keepalives_idle TO 5",
    "SET tcp_keepalives_interval TO 2",
    "SET tcp_keepalives_count TO 3",
    "SET tcp_user_timeout TO 11000",
)
_HOLDER = text(
    "SELECT application_name, backend_start FROM pg_stat_activity JOIN pg_locks USING (pid) JOIN pg_database"
    " ON pg_database.oid = pg_locks.database WHERE locktype = 'advisory' AND granted"
    " AND pg_database.datname = current_database() AND ((classid::bigint << 32) | objid::bigint) = :lock"
)


class Postgresql:
    """The kind of database that a URL `postgresql://USER@HOST/NAME` names."""

    def engine(self, url: URL) -> Engine:
        """Raises ModuleNotFoundError without the driver. Whatever the URL says of the connection counts more."""
        if url.drivername in _DRIVERLESS:
            url = url.set(drivername="postgresql+psycopg")
        named = {"application_name": f"sojourn on {socket.gethostname()}"[:50] + f", process {os.getpid()}"}
        connect = {name: value for name, value in (_PATIENCE | named).items() if name not in url.query}
        return create_engine(url, poolclass=NullPool, connect_args=connect, hide_parameters=True)

    def take(self, connection: Connection) -> None:
        """Raises Busy where another controller has it."""
        for setting in _SESSION:
            connection.exec_driver_sql(setting)
        got = connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK})
        holder = None if got else connection.execute(_HOLDER, {"lock": _LOCK}).first()
        connection.commit()
        if not got:
            url = connection.engine.url.set(drivername="postgresql")
            whose = f" ({holder[0]}, since {holder[1]:%Y-%m-%d %H:%M})" if holder else ""
            raise Busy(
                f"Another controller{whose} uses the database {url}.",
                "Stop that one first; of one whose host has died the database lets go within fifteen seconds.",
            )

    @contextmanager
    def transaction(self, connection: Connection, lasting: bool) -> Iterator[None]:
        """`lasting`: it waits for the disk, or for the replicas, as the server is set up to."""
        with connection.begin():
            if lasting:
                connection.exec_driver_sql("SET LOCAL synchronous_commit TO DEFAULT")
            yield
