"""Connections to Postgres.

Nothing here keeps state in a session, so that pgbouncer may stand between.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from twofold_schema.settings import DatabaseSettings

if TYPE_CHECKING:
    from alembic.config import Config

Answer = TypeVar("Answer")

_CONNECT_SECONDS = 5
_SILENT_PEER_MILLISECONDS = 15_000


def connect(settings: DatabaseSettings) -> Engine:
    """An engine over a small pool; no connection is made yet."""
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        max_overflow=3 * settings.database_pool_size,
        pool_pre_ping=True,
        connect_args={
            # Prepared statements outlive a transaction, which pgbouncer's transaction mode forbids.
            "prepare_threshold": None,
            "connect_timeout": _CONNECT_SECONDS,
            # A peer that vanished without a word must not hold a thread for the kernel's 15 min.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "tcp_user_timeout": _SILENT_PEER_MILLISECONDS,
            "application_name": "twofold",
        },
    )
    milliseconds = int(settings.database_timeout_seconds * 1000)

    @event.listens_for(engine, "begin")
    def _bound_statements(connection: Connection) -> None:
        # A process that freezes between two statements must not keep its rows locked either.
        connection.execute(
            text(
                f"SET LOCAL statement_timeout = {milliseconds}; "
                f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
            )
        )

    return engine


def is_transient(error: DBAPIError) -> bool:
    """Whether the same call may succeed later: connection gone, deadlock, shutdown, timeout."""
    state = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or state is None:
        return True
    # Classes of PostgreSQL's appendix A: 08 connection, 40 rollback, 53 resources, 55 not in the
    # needed state (locks), 57 operator intervention, 58 system.
    return str(state)[:2] in {"08", "40", "53", "55", "57", "58"}


def persevere(
    engine: Engine,
    write: Callable[[Connection], Answer],
    *,
    waiting: Callable[[DBAPIError], None],
    first_pause: float = 0.1,
    longest_pause: float = 2.0,
) -> Answer:
    """Run `write` in a transaction, again and again while the database is away.

    Only for writes that are safe to repeat: the reply to a commit may be what was lost.

    Args:
        engine: Of the database.
        write: Called with a connection in a fresh transaction.
        waiting: Called after each try that failed; may raise to give up.
        first_pause: Before the second try, in seconds; doubles up to `longest_pause`.
        longest_pause: In seconds.

    Raises:
        DBAPIError: The database answered with an error that waiting does not mend.
    """
    pause = first_pause
    while True:
        try:
            with engine.begin() as connection:
                return write(connection)
        except DBAPIError as error:
            if not is_transient(error):
                raise
            waiting(error)
        time.sleep(pause)
        pause = min(pause * 2, longest_pause)


def alembic_config(settings: DatabaseSettings) -> "Config":
    """Alembic's view of the migrations that ship with this package."""
    # Only who migrates pays for the import.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["database_url"] = settings.database_url.get_secret_value()
    return config


def migrate(settings: DatabaseSettings, revision: str = "head") -> None:
    """Bring the database's schema to `revision`; safe to repeat and to run from several hosts."""
    from alembic import command

    command.upgrade(alembic_config(settings), revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """How far a database's schema is.

    Attributes:
        here: The newest revision that this version knows.
        there: The database's; None for a database that was never migrated.
        known: Whether this version knows the database's revision.
    """

    here: str
    there: str | None
    known: bool


def revision(settings: DatabaseSettings, connection: Connection) -> Revision:
    """Compare a database with this version."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config(settings))
    there = MigrationContext.configure(connection).get_current_revision()
    known = there in {script.revision for script in scripts.walk_revisions()}
    return Revision(here=str(scripts.get_current_head()), there=there, known=known)
