"""The controller's database on a real PostgreSQL: the contract, and what is its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from sojourn.database import Database, copy, sqlite_url
from sojourn.database import queries as ask
from sojourn.errors import Busy, Refused, SojournError
from sojourn.testing.database_contract import SESSION, TOKEN, DatabaseContract, checkpoint, moved
from sojourn.testing.postgresql import Server, postgresql, why_no_postgresql

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if reason := why_no_postgresql():
        pytest.skip(reason)
    with postgresql() as running:
        yield running


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    found = Database(server.new_database())
    yield found
    found.close()


class TestPostgresql(DatabaseContract):
    pass


def test_the_unix_socket_does_as_well(server: Server) -> None:
    name = server.new_database().rpartition("/")[2]
    database = Database(server.socket_url(name))
    with pytest.raises(Busy):
        Database(server.url(name))
    database.close()
    Database(server.url(name)).close()


def test_who_is_refused_is_told_by_whom(database: Database) -> None:
    with pytest.raises(Busy, match=f"process {os.getpid()}, since"):
        Database(database.url)


def test_a_transaction_waits_for_the_disk_only_if_it_is_to_last(database: Database) -> None:
    said = []
    for lasting in (False, True, False):
        with database.transaction(lasting=lasting) as connection:
            said.append(connection.exec_driver_sql("SHOW synchronous_commit").scalar())
    assert said == ["off", "on", "off"]


def test_what_has_lost_its_connection_writes_nothing_more(database: Database, server: Server) -> None:
    """Not even when the server is there again: the next one may have come in between."""
    server.hang_up()
    assert not database.lost  # nobody has asked yet
    with pytest.raises(SQLAlchemyError), database.transaction() as connection:
        ask.save_session(connection, None, SESSION)
    assert database.lost
    following = Database(database.url)
    with pytest.raises(SQLAlchemyError), database.transaction():
        pass
    assert not database.answers()
    following.close()


def test_what_breaks_in_the_middle_of_a_transaction_is_not_written(database: Database, server: Server) -> None:
    with suppress(SQLAlchemyError), database.transaction() as connection:
        ask.save_session(connection, None, SESSION)
        server.hang_up()
    assert database.lost
    following = Database(database.url)
    with following.transaction() as connection:
        assert ask.all_sessions(connection) == []
    following.close()


def test_a_server_that_crashes_keeps_what_was_to_last(server: Server) -> None:
    database = Database(server.new_database())
    with database.transaction(lasting=True) as connection:
        ask.save_session(connection, None, SESSION)
    server.stop(signal.SIGQUIT)
    assert not database.answers()
    with pytest.raises(SojournError, match="can't be opened"):
        Database(database.url)
    server.start()
    following = Database(database.url)
    with following.transaction() as connection:
        assert ask.all_sessions(connection) == [SESSION]
    following.close()


def test_of_many_at_once_one_gets_it(server: Server) -> None:
    """An empty database, too, is made ready by one alone."""
    url, got, refused = server.new_database(), [], []

    def open_it() -> None:
        try:
            got.append(Database(url))
        except Busy as busy:
            refused.append(busy)

    openers = [threading.Thread(target=open_it) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert (len(got), len(refused)) == (1, 3)
    got[0].close()


def test_everything_goes_from_one_database_to_another(server: Server, tmp_path: Path) -> None:
    """From a file to PostgreSQL and back; never into one that holds something."""
    first = Database(sqlite_url(tmp_path / "first.db"))
    with first.transaction() as connection:
        ask.save_session(connection, None, moved())
        ask.add_token(connection, TOKEN)
        ask.add_checkpoint(connection, checkpoint())
        ask.add_owner(connection, "ada", "k" * 64)
    second, third = Database(server.new_database()), Database(sqlite_url(tmp_path / "third.db"))
    with pytest.raises(Refused, match="is empty"):
        copy(second, third)
    assert [copy(first, second), copy(second, third)] == [5, 5]
    with third.transaction() as connection:
        assert ask.all_sessions(connection) == [moved()]
        assert ask.tokens(connection) == [TOKEN]
        assert ask.checkpoints(connection) == [checkpoint()]
        assert ask.owner_keys(connection) == {"ada": "k" * 64}
    with pytest.raises(Refused, match="not empty"):
        copy(first, second)
    for one in (first, second, third):
        one.close()
