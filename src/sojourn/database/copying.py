"""From one database to another: a controller that began with a file goes on with PostgreSQL, or the other way."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from sojourn.database import tables
from sojourn.database.database import Database, shown
from sojourn.errors import Refused


def copy(source: Database, target: Database) -> int:
    """Everything, in one transaction; the number of rows. Raises Refused when there is nothing to copy, or the target
    holds anything already."""
    with source.transaction() as reading, target.transaction(lasting=True) as writing:
        if any(writing.execute(select(table).limit(1)).first() for table in tables.metadata.sorted_tables):
            raise Refused(f"The database {shown(target.url)} is not empty.", "Copy into a new one.")
        if copied := sum(_copy(name, reading, writing) for name in tables.metadata.tables):
            return copied
        raise Refused(f"The database {shown(source.url)} is empty.", "Look at its address.")


def _copy(name: str, reading: Connection, writing: Connection) -> int:
    table = tables.metadata.tables[name]
    rows = [dict(row) for row in reading.execute(select(table)).mappings()]
    if rows:
        writing.execute(insert(table), rows)
    return len(rows)
