"""Runs migrations one at a time, and gives up rather than block the service behind a lock.

Each migration is a transaction of its own. One that builds an index of a large table does so
`CONCURRENTLY`, in an `autocommit_block`; what it commits before may be done twice.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Connection, Engine, create_engine, event, pool, text

from twofold_schema.errors import DatabaseUnavailable
from twofold_schema.tables import is_in_code, metadata

_LOCK_TIMEOUT = "5s"
_STATEMENT_TIMEOUT = "60s"
#: Any number, as long as nobody else uses it: one migration at a time per database.
_ADVISORY_LOCK = 7_236_201
_PATIENCE_SECONDS, _PAUSE_SECONDS = 60.0, 0.2

_BOUND = text(
    f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'; "
    f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"
)
_UNBOUND = text("SET LOCAL idle_in_transaction_session_timeout = 0")
# Without a parameter: the open portal of a statement with one would keep its snapshot, and an index
# that is built concurrently waits for every snapshot.
_TRY_LOCK = text(f"SELECT pg_try_advisory_xact_lock({_ADVISORY_LOCK})")


def run() -> None:
    """Migrate the database that `database.migrate` names."""
    engine = create_engine(context.config.attributes["database_url"], poolclass=pool.NullPool)
    with _alone(engine), engine.connect() as connection:

        @event.listens_for(connection, "begin")
        def _bound(connection: Connection) -> None:
            # An index may be built for as long as it takes: nobody waits for that.
            if connection.get_isolation_level() != "AUTOCOMMIT":
                connection.execute(_BOUND)

        context.configure(
            connection=connection,
            target_metadata=metadata,
            include_name=is_in_code,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Hold the lock in a transaction of its own, which pgbouncer keeps on one connection.

    It is asked for again and again: whoever waited for it in a statement would be waited for by
    an index that is built concurrently.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    with engine.connect() as connection, connection.begin():
        connection.execute(_UNBOUND)
        while not connection.execute(_TRY_LOCK).scalar_one():
            if time.monotonic() > until:
                raise DatabaseUnavailable(
                    "Another migration is at work on this database; wait for its end, and migrate "
                    "again."
                )
            time.sleep(_PAUSE_SECONDS)
        yield


run()
