"""Connections to Postgres.

A session keeps no state where pgbouncer stands between, and elsewhere nothing but plans and what
every transaction of its engine has: bounds, and perhaps an order.
"""

import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, exc
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from twofold_schema.settings import DatabaseSettings

if TYPE_CHECKING:
    from alembic.config import Config

Answer = TypeVar("Answer")

#: Of every connection.
CONNECT_ARGS: Final[Mapping[str, Any]] = {
    "prepare_threshold": None,
    "connect_timeout": 5,
    # A peer that vanished without a word must not hold a thread for the kernel's 15 min.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
    "application_name": "twofold",
}
#: A connection that was in use so short a time ago, and is silent, is taken to be there still.
_FRESH_SECONDS = 1.0
#: Of the same statement on one connection; psycopg's own default.
_PREPARED_AFTER = 5

#: Of a write to a server that takes none: a standby, or one whose disk is full.
_TAKES_NO_WRITES: Final = psycopg.errors.ReadOnlySqlTransaction.sqlstate

#: The execution option of an engine whose sessions read in order.
_READS_IN_ORDER = "reads_in_order"
#: The execution option of an engine whose statements are transactions.
_COMMITS_EACH = "commits_each"


class _Pool(QueuePool):
    """A pool where none being free in time is an error of the database, as any other want is.

    SQLAlchemy's own is no `DBAPIError`, so that nobody who waits an outage out would know it.
    """

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except exc.TimeoutError as error:
            busy = psycopg.errors.ConnectionTimeout(
                "all connections of this process are in use; TWOFOLD_DATABASE_POOL_SIZE allows more"
            )
            raise DBAPIError.instance("", None, busy, psycopg.Error) from error


def connect(settings: DatabaseSettings, *, in_order: bool = False) -> Engine:
    """An engine over a small pool; no connection is made yet.

    Args:
        settings: Of the database.
        in_order: Read tables in the order of their indexes, as `read_in_order` does, always.
    """
    engine = create_engine(
        settings.database_url.get_secret_value(),
        # The driver begins no transaction by itself: `_begin` does, in one trip with its bounds.
        isolation_level="AUTOCOMMIT",
        poolclass=_Pool,
        pool_timeout=settings.database_timeout_seconds,
        pool_size=settings.database_pool_size,
        max_overflow=3 * settings.database_pool_size,
        connect_args=dict(CONNECT_ARGS),
        execution_options={_READS_IN_ORDER: in_order},
    )
    milliseconds = int(settings.database_timeout_seconds * 1000)
    # A process that freezes between two statements must not keep its rows locked either.
    kept: dict[str, int | str] = {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
    }
    if in_order:
        kept["enable_sort"] = "off"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        own = options.get("isolation_level")
        direct = _is_direct(connection)
        if own == "AUTOCOMMIT" or (direct and options.get(_COMMITS_EACH)):
            return
        statements = [] if own else ["BEGIN"]
        if not direct:
            statements += [f"SET LOCAL {name} = {value}" for name, value in kept.items()]
        if statements:
            connection.exec_driver_sql("; ".join(statements))

    @event.listens_for(engine, "connect")
    def _keep_where_possible(connection: psycopg.Connection, _record: object) -> None:
        """Let the session keep what every transaction has, and plans of what it repeats.

        Plans take longer to make than a claim. All of it outlives a transaction, which pgbouncer's
        transaction mode forbids. It gives clients another process id than that of the server's
        process, by which it is known.
        """
        found = connection.execute("SELECT pg_backend_pid()").fetchone()
        if found == (connection.info.backend_pid,):
            connection.prepare_threshold = _PREPARED_AFTER
            connection.execute("; ".join(f"SET {name} = {value}" for name, value in kept.items()))

    event.listen(engine, "checkout", _check_before_use)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "handle_error", _part_with_a_standby)
    return engine


def _is_direct(connection: Connection) -> bool:
    """Whether no pooler stands between, so that the session may keep something."""
    driver = cast("psycopg.Connection", connection.connection.driver_connection)
    return driver.prepare_threshold is not None


def _check_before_use(
    connection: psycopg.Connection, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Find out that a connection is gone before it is used, in a trip only where that is likely.

    Raises:
        DisconnectionError: It is gone; the pool makes another.
    """
    fresh = time.monotonic() - record.info.get("used_at", -inf) < _FRESH_SECONDS
    try:
        if not fresh or _has_news(connection):
            connection.execute("")
    except psycopg.Error as error:
        raise DisconnectionError from error


def _has_news(connection: psycopg.Connection) -> bool:
    """Whether the server has said something unasked, which may be that it goes away."""
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    return bool(socket.poll(0))


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _part_with_a_standby(context: ExceptionContext) -> None:
    """Let go of the connections of this pool once one of them leads to what takes no writes.

    After a failover none of them leads to the primary, and only who connects anew may find it.
    What is in use is let go of when it comes back.
    """
    if getattr(context.original_exception, "sqlstate", None) == _TAKES_NO_WRITES:
        context.is_disconnect = True


def read_in_order(connection: Connection) -> None:
    """Let tables be read in the order of their indexes until this transaction ends.

    Of a range of an index the planner often expects a row or two, as of a lane that was filled
    since it last looked: it would as soon fetch all that there are and sort them.

    Raises:
        ValueError: There is no transaction, since every statement is one.
    """
    options = connection.get_execution_options()
    if options.get(_READS_IN_ORDER):
        return
    if options.get(_COMMITS_EACH):
        raise ValueError("what commits each statement reads in order only with sessions that do")
    connection.exec_driver_sql("SET LOCAL enable_sort = off")


def committing_each(engine: Engine) -> Engine:
    """The same engine, where every statement is a transaction: one trip instead of three.

    Where a pooler stands between, there are transactions as ever, because of the bounds.
    """
    return engine.execution_options(**{_COMMITS_EACH: True})


def bound_waits(connection: Connection, *, seconds: float) -> None:
    """Let no lock be waited for longer, until this transaction ends."""
    milliseconds = max(1, int(1000 * seconds))
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")


def is_transient(error: DBAPIError) -> bool:
    """Whether the same call may succeed later.

    Connection gone, deadlock, shutdown, timeout; or a server that takes no writes for now.
    """
    state = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or state in {None, _TAKES_NO_WRITES}:
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
