"""The checks of the database: the server, the schema, the clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from twofold_producer.doctor.configuration import needed
from twofold_producer.doctor.examination import Blocked
from twofold_schema import database, findings
from twofold_schema.effective import Effective
from twofold_schema.findings import Finding
from twofold_schema.ledger import submissions, vitals
from twofold_schema.settings import DatabaseSettings

NAME = "database"
SCHEMA = "schema"
CLOCK = "clock"

#: The ledger's SQL needs 13. Nobody mends what is older than 14, and nothing under 16 was tried.
_NEEDED = 130_000
_MAINTAINED = 140_000

_STATEMENT_SECONDS = 4.0

#: Ids carry the time of the host that submits, and decide who is served first among equals;
#: deadlines are reckoned there too. Leases go by the database's clock alone.
CLOCK_WARNING_SECONDS = 5.0
#: What no clock shows that is kept in time. From 15 minutes on S3 refuses every request.
CLOCK_FAILURE_SECONDS = 60.0

# libpq gives no code for a connection that did not come about, only the server's sentence, of
# which these parts are the same in every version. In another language the last one stands.
_MEND_BY_REASON = (
    ("password authentication", "Correct user and password in TWOFOLD_DATABASE_URL."),
    ("no password supplied", "Write user and password into TWOFOLD_DATABASE_URL."),
    (
        "does not exist",
        "Create it (`createdb NAME`), or correct user and name in TWOFOLD_DATABASE_URL.",
    ),
    ("pg_hba.conf", "Allow this host in the server's pg_hba.conf, or add ?sslmode=require."),
    (
        "too many",
        "Raise max_connections, lower TWOFOLD_DATABASE_POOL_SIZE, or put pgbouncer between.",
    ),
    ("resolve host", "Correct the host in TWOFOLD_DATABASE_URL."),
    ("refused", "Start Postgres, or correct host and port in TWOFOLD_DATABASE_URL."),
    (
        "timeout",
        "Correct host and port in TWOFOLD_DATABASE_URL, or open the way through firewalls.",
    ),
)
_MEND = "Look at the server's log, and that TWOFOLD_DATABASE_URL leads to it."
MIGRATE = "Run `twofold db migrate`, as a role that may create tables."
#: Undefined table, undefined column.
NOT_THIS_SCHEMA = {"42P01", "42703"}


@contextmanager
def asking(settings: Effective) -> Iterator[Connection]:
    """A connection in a transaction, of which nothing stays.

    Raises:
        Blocked: The database cannot be asked, or is not of this schema.
    """
    wanted = needed(settings, DatabaseSettings)
    seconds = min(wanted.database_timeout_seconds, _STATEMENT_SECONDS)
    engine = database.connect(wanted.model_copy(update={"database_timeout_seconds": seconds}))
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise _explained(error) from error
    finally:
        engine.dispose()


def check_server(settings: Effective) -> Iterator[Finding]:
    """Whether the server is new enough, and takes this role's reads and writes."""
    with asking(settings) as connection:
        server = vitals.server(connection)
        if server.version_number < _NEEDED:
            yield findings.failed(
                NAME, f"PostgreSQL {server.version} is too old.", "Upgrade it to 14 or newer."
            )
            return
        if server.read_only:
            yield findings.failed(
                NAME,
                f"PostgreSQL {server.version} takes no writes: a standby, or a read-only role.",
                "Let TWOFOLD_DATABASE_URL lead to the primary (?target_session_attrs=read-write "
                "finds it among several hosts), as a role that may write.",
            )
            return
        lacking = vitals.lacking(connection)
        if lacking:
            yield findings.failed(
                NAME,
                f"This role may not {', '.join(lacking)}.",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO its role; "
                "then REVOKE ALL ON webhook_secrets FROM it, unless it keeps or makes endpoints.",
            )
            return
        if server.has_jobs:
            # Rolled back with the connection.
            submissions.begin(connection)
        writes = "may read and write" if server.has_jobs else "answers"
        if server.version_number < _MAINTAINED:
            yield findings.warning(
                NAME,
                f"PostgreSQL {server.version} {writes}, but is no longer maintained.",
                "Upgrade it to 14 or newer.",
            )
        else:
            yield findings.ok(NAME, f"PostgreSQL {server.version} {writes}.")


def check_schema(settings: Effective) -> Iterator[Finding]:
    """Whether the job table is this version's."""
    with asking(settings) as connection:
        has_jobs = vitals.server(connection).has_jobs
        found = database.revision(needed(settings, DatabaseSettings), connection)
    if found.there is None:
        yield findings.failed(SCHEMA, "There is no job table yet.", MIGRATE)
    elif not found.known and not has_jobs:
        yield findings.failed(
            SCHEMA,
            f"The database is another program's: it is at {found.there}, without a job table.",
            "Let TWOFOLD_DATABASE_URL name a database of Twofold's own.",
        )
    elif not found.known:
        # A migration must run while the old code still works, so that this is no failure.
        yield findings.warning(
            SCHEMA,
            f"The job table is at {found.there}, newer than this program, which knows "
            f"{found.here}.",
            "Update this program to the version that migrated the database.",
        )
    elif found.there != found.here:
        yield findings.failed(
            SCHEMA, f"The job table is at {found.there}, this version needs {found.here}.", MIGRATE
        )
    else:
        yield findings.ok(SCHEMA, f"The job table is at {found.here}, as this version needs it.")


def check_clock(settings: Effective) -> Iterator[Finding]:
    """Whether this host's clock agrees with the one that leases and deadlines go by."""
    with asking(settings) as connection:
        # The first statement pays for the transaction's beginning.
        vitals.now(connection)
        before = datetime.now(UTC)
        theirs = vitals.now(connection)
        ours = before + (datetime.now(UTC) - before) / 2
    yield of_clock("the database's", (ours - theirs).total_seconds())


def of_clock(whose: str, ahead_seconds: float) -> Finding:
    """What a difference of clocks means.

    Args:
        whose: The other clock, with an article.
        ahead_seconds: How much this host's clock is ahead of it; negative for behind.
    """
    off = abs(ahead_seconds)
    if off < 1:
        return findings.ok(CLOCK, f"This host's clock is within a second of {whose}.")
    what = (
        f"This host's clock is {off:.0f} s {'ahead of' if ahead_seconds > 0 else 'behind'} {whose}."
    )
    if off < CLOCK_WARNING_SECONDS:
        return findings.ok(CLOCK, what)
    mend = "Let NTP set both clocks (`timedatectl set-ntp true`; see `chronyc tracking`)."
    if off < CLOCK_FAILURE_SECONDS:
        return findings.warning(CLOCK, what, mend)
    return findings.failed(CLOCK, what, mend)


def _explained(error: DBAPIError) -> Blocked:
    # Further lines ask what the mend answers, or repeat it for every address of a name.
    reason = str(error.orig).partition("\n")[0].rstrip(".")
    state = getattr(error.orig, "sqlstate", None)
    if state in NOT_THIS_SCHEMA:
        return Blocked(SCHEMA, f"The database is not of this schema: {reason}.", MIGRATE)
    mend = next((mend for part, mend in _MEND_BY_REASON if part in reason), _MEND)
    return Blocked(NAME, f"Postgres cannot be asked: {reason}.", mend)
