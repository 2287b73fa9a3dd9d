"""The controller's database: SQLite in WAL mode by default, or PostgreSQL.

One connection, used by the controller's event loop alone, which is also what keeps a second controller out. Once lost
it stays so: what the controller has in its memory may be older than what is written down (whether a transaction in
flight has been committed is not known), so it has to begin anew and read.

Transactions that give out incarnations are synced to disk (`lasting`), so that not even a power failure makes one come
twice; the others survive the death of the process, which is enough, because what they tell can be told again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError

from sojourn.database.postgresql import Postgresql
from sojourn.database.sqlite import Sqlite
from sojourn.errors import Busy, Invalid, SojournError

_MIGRATIONS = Path(__file__).parent / "migrations"
_ADDRESSES = "Write sqlite:////PATH or postgresql://USER@HOST/NAME."


class Kind(Protocol):
    """What differs between one database and another."""

    def engine(self, url: URL) -> Engine: ...

    def take(self, connection: Connection) -> None:
        """Make a fresh connection ready, and keep other controllers out until it ends."""

    def transaction(self, connection: Connection, lasting: bool) -> AbstractContextManager[None]: ...


class Database:
    """Opens, migrates, and hands out transactions."""

    def __init__(self, url: str) -> None:
        """Raises Invalid (not an address), Busy (another controller has it), SojournError (it can't be opened)."""
        self.url = url
        with _explained(url):
            self._kind = _kind(make_url(url))
            self._connection = self._kind.engine(make_url(url)).connect()
            try:
                self._kind.take(self._connection)
                _migrate(self._connection)
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def transaction(self, lasting: bool = False) -> Iterator[Connection]:
        """Commits at the end; rolls back when the body raises. `lasting`: survives a power failure too."""
        if self.lost:
            raise DisconnectionError(f"The connection to the database {shown(self.url)} is lost.")
        with self._kind.transaction(self._connection, lasting):
            yield self._connection

    @property
    def lost(self) -> bool:
        """Whether the connection has broken, and with it the right to act."""
        return self._connection.invalidated

    def answers(self) -> bool:
        """Ask it; False once the connection is lost."""
        with suppress(SQLAlchemyError), self.transaction() as connection:
            connection.exec_driver_sql("SELECT 1")
        return not self.lost

    def close(self) -> None:
        self._connection.close()


def shown(url: str) -> str:
    """An address without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _kind(url: URL) -> Kind:
    """Raises Invalid for one that can't keep a second controller out."""
    name = url.get_backend_name()
    if name not in ("sqlite", "postgresql", "postgres"):
        raise Invalid(f"Sojourn can't keep its state in {name}.", _ADDRESSES)
    return Sqlite() if name == "sqlite" else Postgresql()


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """What goes wrong at the opening, in words of ours."""
    from alembic.util import CommandError

    try:
        yield
    except ArgumentError as wrong:
        raise Invalid(f"{url!r} is not the address of a database.", _ADDRESSES) from wrong
    except ModuleNotFoundError as missing:
        raise SojournError(
            f"The database {shown(url)} needs the Python package {missing.name}, which is not installed.",
            "Install it: pip install 'sojourn[postgresql]'.",
        ) from missing
    except CommandError as unknown:
        raise SojournError(
            f"A newer Sojourn has used the database {shown(url)}: {unknown}", "Install that version here."
        ) from unknown
    except SQLAlchemyError as wrong:
        raise _refused(wrong, shown(url)) from wrong


def _refused(wrong: SQLAlchemyError, database: str) -> SojournError:
    why = str(wrong.orig if isinstance(wrong, DBAPIError) else wrong).strip()
    if "database is locked" in why:
        return Busy(f"Another controller uses the database {database}.", "Stop that one first, or use another one.")
    return SojournError(f"The database {database} can't be opened: {why}", "Look at its address and its rights.")
