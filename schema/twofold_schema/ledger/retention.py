"""How long events are kept: a partition per day, made ahead and dropped whole.

Events of a day that has no partition, because no keeper ran for as long as they are made ahead,
lie in `events_default` and are deleted from there.
"""

from datetime import date, timedelta

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

#: For how many days after today there are partitions. No keeper has to run for as long.
DAYS_AHEAD = 7

#: What a duty waits for the table while everybody else waits behind it.
_LOCK_MILLISECONDS = 200
_LOCK_NOT_AVAILABLE = "55P03"

_PREFIX = "events_"

# Whether this role may change the table itself.
_OWNS = text(
    "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('events')"
)

# Days that shall have a partition and may: none has it yet, and none of its events lies elsewhere.
_MISSING = text("""
    SELECT CAST(day AS date) AS day
    FROM generate_series(timezone('UTC', clock_timestamp()),
                         timezone('UTC', clock_timestamp()) + :ahead, interval '1 day') AS day
    WHERE to_regclass(:prefix || to_char(day, 'YYYYMMDD')) IS NULL
      AND NOT EXISTS (
          SELECT FROM events_default
          WHERE at >= timezone('UTC', date_trunc('day', day))
            AND at < timezone('UTC', date_trunc('day', day) + interval '1 day'))
    ORDER BY day
""")

# Partitions of days that ended so long ago.
_OLD = text("""
    SELECT relname AS name
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = to_regclass('events') AND relname ~ '^events_[0-9]{8}$'
      AND relname < :prefix || to_char(timezone('UTC', clock_timestamp()) - :age, 'YYYYMMDD')
    ORDER BY relname
""")

# As old, of days that have no partition. The table is empty where a keeper runs.
_DELETE_STRAYS = text("""
    DELETE FROM events_default WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM events_default
        WHERE at < timezone('UTC', date_trunc('day', timezone('UTC', clock_timestamp()) - :age))
        LIMIT :rows FOR UPDATE SKIP LOCKED))
""")

_BOUND_LOCK = text(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")

#: How many events without a partition are deleted at once.
_STRAY_ROWS = 10_000


def may_change(connection: Connection) -> bool:
    """Whether this role is, or belongs to, the owner of the tables: nobody else may change them."""
    return bool(connection.execute(_OWNS).scalar_one())


def make_partitions(connection: Connection) -> int:
    """Make the partitions of today and of the days to come; returns how many.

    Nobody who writes waits for it. One that cannot be had at once, because somebody reads, is left
    for the next time.

    Args:
        connection: In a transaction of its own, as the tables' owner.
    """
    parameters = {"ahead": timedelta(days=DAYS_AHEAD), "prefix": _PREFIX}
    missing = connection.execute(_MISSING, parameters).scalars().all()
    return sum(_changed(connection, *_making(day)) for day in missing)


def drop_partitions(connection: Connection, *, older_than: timedelta) -> int:
    """Drop what is older, in whole days; returns how many partitions.

    Whoever writes jobs waits for it, up to a fifth of a second. If somebody has a transaction open
    for longer, it is left for the next time.

    Args:
        connection: In a transaction of its own, as the tables' owner.
        older_than: Events of days that ended so long ago.
    """
    age = {"age": older_than}
    connection.execute(_DELETE_STRAYS, age | {"rows": _STRAY_ROWS})
    old = connection.execute(_OLD, age | {"prefix": _PREFIX}).scalars().all()
    return sum(_changed(connection, f"DROP TABLE {name}") for name in old)


def _making(day: date) -> tuple[str, str]:
    name, next_day = f"{_PREFIX}{day:%Y%m%d}", day + timedelta(days=1)
    # Attached, because a partition that is created as one locks everybody out.
    bounds = f"FROM ('{day}T00:00:00Z') TO ('{next_day}T00:00:00Z')"
    return (
        f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING STORAGE)",
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES {bounds}",
    )


def _changed(connection: Connection, *statements: str) -> bool:
    """Whether the tables could be changed, without much waiting for whoever uses them."""
    try:
        with connection.begin_nested():
            connection.execute(_BOUND_LOCK)
            for statement in statements:
                connection.execute(text(statement))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True
