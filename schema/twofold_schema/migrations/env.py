"""Runs migrations one at a time, and gives up rather than block the service behind a lock."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from twofold_schema.table import metadata

_LOCK_TIMEOUT = "5s"
_STATEMENT_TIMEOUT = "60s"
#: Any number, as long as nobody else uses it: one migration at a time per database.
_ADVISORY_LOCK = 7_236_201


def run() -> None:
    """Migrate the database that `database.migrate` names."""
    engine = create_engine(context.config.attributes["database_url"], poolclass=pool.NullPool)
    with engine.connect() as connection, connection.begin():
        connection.execute(text(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
        context.configure(connection=connection, target_metadata=metadata)
        context.run_migrations()


run()
