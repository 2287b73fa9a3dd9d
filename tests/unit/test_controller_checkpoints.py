from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.controller.checkpoints import Checkpoints
from sojourn.database import Database, sqlite_url
from sojourn.database import queries as ask
from sojourn.testing.database_contract import checkpoint


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "checkpoints.db"))
    with database.transaction() as connection:
        for name, moment in (("old", 1.0), ("new", 2.0)):
            ask.add_checkpoint(connection, checkpoint(name, moment))
    yield database
    database.close()


def test_checkpoints_are_read_once_and_what_changes_is_seen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody: Any = SimpleNamespace()
    checkpoints = Checkpoints(database, nobody, nobody, time.time)
    read: list[set[str]] = []
    wanted = ask.checkpoints

    def count(connection: Any, among: Any = None) -> Any:
        read.append(set(among or ()))
        return wanted(connection, among)

    monkeypatch.setattr(ask, "checkpoints", count)
    assert [one.id for one in checkpoints.all()] == ["new", "old"]
    assert read == []
    with database.transaction() as connection:
        ask.add_checkpoint(connection, checkpoint("newest", 3.0))
        ask.mark_checkpoint(connection, "old", "A chunk is missing.")
        ask.drop_checkpoints(connection, ["new"])
    assert [(one.id, one.problem) for one in checkpoints.all()] == [("newest", ""), ("old", "A chunk is missing.")]
    assert read == [{"newest"}]
    found = checkpoints.all()
    with database.transaction() as connection:
        assert found == wanted(connection)
