"""What must not be read in a log."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from sojourn.database import Database, queries
from sojourn.model import StorePass


def test_an_error_of_the_database_does_not_show_what_was_written() -> None:
    database, key = Database("sqlite://"), "5ec2e7" * 10
    with database.transaction() as connection:
        queries.add_owner(connection, "ada", "another")
    with pytest.raises(IntegrityError) as failed, database.transaction() as connection:
        queries.add_owner(connection, "ada", key)
    assert key not in f"{failed.value} {failed.value!r}"


def test_a_pass_does_not_show_its_key() -> None:
    shown = StorePass(url="memory://x", identity="1", key="5ec2e7")
    assert "5ec2e7" not in f"{shown} {shown!r}"
