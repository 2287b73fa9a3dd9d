"""SQLite: one file in WAL mode, locked for as long as it is open, so a second controller on it is refused.

Its transactions take well under a millisecond. Those that are `lasting` are synced to disk.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.pool import NullPool


class Sqlite:
    """The kind of database that a URL `sqlite:///PATH` names."""

    def __init__(self) -> None:
        self._lasting = False

    def engine(self, url: URL) -> Engine:
        # An error would show the values of a row in the log: owners' keys, sessions' environments.
        return create_engine(url, poolclass=NullPool, connect_args={"timeout": 1.0}, hide_parameters=True)

    def take(self, connection: Connection) -> None:
        """Fails with "locked" where another controller has it."""
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        connection.rollback()

    @contextmanager
    def transaction(self, connection: Connection, lasting: bool) -> Iterator[None]:
        if lasting is not self._lasting:
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
            connection.rollback()
            self._lasting = lasting
        with connection.begin():
            yield


def sqlite_url(path: Path) -> str:
    """The address of a file that only this user can read; it is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    return f"sqlite:///{path}"
