"""The controller's database: any SQLAlchemy URL; SQLite in WAL mode by default.

One connection, used by the controller's event loop alone. SQLite is locked for the whole time, so a second controller
on the same file is refused, and a transaction takes well under a millisecond. Transactions that give out incarnations
are synced to disk (`lasting`), so that not even a power failure makes one come twice; the others survive the death of
the process, which is enough, because what they tell can be told again.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from sojourn.errors import Busy, Invalid, SojournError

_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Opens, migrates, and hands out transactions."""

    def __init__(self, url: str) -> None:
        """Raises Invalid (not an address), Busy (another controller has it), SojournError (it can't be opened)."""
        self.url = url
        try:
            self._engine = _engine(url)
            self._lite, self._lasting = self._engine.dialect.name == "sqlite", False
            with self._engine.connect() as connection:
                _migrate(connection)
        except ArgumentError as wrong:
            raise Invalid(
                f"{url!r} is not the address of a database.", "Write sqlite:////path or postgresql://…"
            ) from wrong
        except OperationalError as wrong:
            raise _refused(wrong, url) from wrong

    @contextmanager
    def transaction(self, lasting: bool = False) -> Iterator[Connection]:
        """Commits at the end; rolls back when the body raises. `lasting`: survives a power failure too."""
        with self._engine.connect() as connection:
            if self._lite and lasting is not self._lasting:
                connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
                connection.rollback()
                self._lasting = lasting
            with connection.begin():
                yield connection

    def close(self) -> None:
        self._engine.dispose()


def sqlite_url(path: Path) -> str:
    """The address of a file that only this user can read; it is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    return f"sqlite:///{path}"


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, hide_parameters=True)
    connect = {"timeout": 1.0, "check_same_thread": False}
    # An error would show the values of a row in the log: owners' keys, sessions' environments.
    engine = create_engine(url, poolclass=StaticPool, connect_args=connect, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


def _refused(wrong: SQLAlchemyError, url: str) -> SojournError:
    shown = make_url(url).render_as_string(hide_password=True)
    if "locked" in str(wrong):
        return Busy(f"Another controller uses the database {shown}.", "Stop that one first, or use another database.")
    return SojournError(f"The database {shown} can't be opened: {wrong}", "Look at its address and its rights.")
