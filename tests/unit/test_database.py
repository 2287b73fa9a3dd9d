from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.database import Database, sqlite_url
from sojourn.errors import Invalid, SojournError
from sojourn.testing.database_contract import DatabaseContract


class TestSqlite(DatabaseContract):
    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[Database]:
        found = Database(sqlite_url(tmp_path / "sojourn.db"))
        yield found
        found.close()

    def test_the_file_is_private_and_alone_once_it_is_closed(self, database: Database, tmp_path: Path) -> None:
        """So that it can be copied to another host."""
        database.close()
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "nothing://host/name"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(Invalid):
        Database(url)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_driver_that_is_missing_is_named_and_no_password_is(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SojournError) as refused:
        Database(f"{scheme}://sojourn:secret@127.0.0.1:1/sojourn")
    assert "psycopg" in refused.value.message
    assert "pip install 'sojourn[postgresql]'" in refused.value.hint
    assert "secret" not in str(refused.value)
