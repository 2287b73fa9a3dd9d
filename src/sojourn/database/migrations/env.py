"""Run by Alembic: brings a database to the newest version. The connection comes from `Database`."""

from alembic import context

from sojourn.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
