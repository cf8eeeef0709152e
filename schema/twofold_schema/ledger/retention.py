"""How long events and jobs are kept: in partitions by time, made ahead and dropped whole.

Rows of a time that has no partition, because no keeper ran for as long as they are made ahead, lie
in the default partition and are deleted from there. Only jobs that have ended are in partitions, so
that none is dropped that has not; the tallies lose them in the same transaction. What there is
beside jobs of a time stays until the last of these jobs is gone.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from twofold_schema.ledger import tallies

#: What a duty waits for the table while everybody else waits behind it.
_LOCK_MILLISECONDS = 200
_LOCK_NOT_AVAILABLE = "55P03"

#: How many rows without a partition are deleted at once.
_STRAY_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A table whose rows are kept for a while.

    Attributes:
        table: Its name; a partition's is that, and the date on which it begins.
        column: The time that decides, or the id that is in the order of time.
        each: How long a partition is, by UTC.
        ahead: For how many of them after the present one there are partitions. No keeper has to run
            for as long.
        tallied: Whether the rows are jobs that the tallies count.
        bound: SQL: what stands for a time of UTC in the column.
        in_use: SQL: whether what lies from `first` to before `end` has to stay.
        in_use_row: SQL: whether a row has to.
    """

    table: str
    column: str
    each: Literal["day", "week"]
    ahead: int
    tallied: bool = False
    bound: str = "timezone('UTC', {0})"
    in_use: str = "false"
    in_use_row: str = "false"

    @property
    def length(self) -> timedelta:
        """Of a partition."""
        return timedelta(**{f"{self.each}s": 1})


def first_id(moment: str) -> str:
    """SQL: lower than every id of that moment or later, and above those of before it."""
    # The first UUID version 7 of a moment begins with its milliseconds (RFC 9562, 5.7).
    milliseconds = f"CAST(extract(epoch FROM {moment}) * 1000 AS bigint)"
    return f"CAST(rpad(lpad(to_hex({milliseconds}), 12, '0'), 32, '0') AS uuid)"


EVENTS = Kept(table="events", column="at", each="day", ahead=7)
HISTORY = Kept(table="history", column="finished_at", each="week", ahead=2, tallied=True)
PAIRS = Kept(
    table="pairs",
    column="job_id",
    each="week",
    ahead=2,
    bound=first_id("timezone('UTC', {0})"),
    in_use=(
        "EXISTS (SELECT FROM jobs WHERE id >= {first} AND id < {end})"
        " OR EXISTS (SELECT FROM history WHERE id >= {first} AND id < {end})"
    ),
    in_use_row=(
        "EXISTS (SELECT FROM jobs WHERE id = job_id)"
        " OR EXISTS (SELECT FROM history WHERE id = job_id)"
    ),
)

# Whether this role may change the table itself.
_OWNS = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:table)")

# When partitions begin that shall be there and may: none is there yet, and no row of that time lies
# elsewhere. `since` is now, or earlier where older rows are about to come.
_MISSING = """
    SELECT CAST(start AS date) AS start
    FROM generate_series(
             date_trunc(:each, timezone('UTC', least(:since, clock_timestamp()))),
             timezone('UTC', clock_timestamp()) + :ahead, :length) AS start
    WHERE to_regclass(:table || to_char(start, '_YYYYMMDD')) IS NULL
      AND NOT EXISTS (
          SELECT FROM {table}_default
          WHERE {column} >= {first} AND {column} < {end})
    ORDER BY start
"""

# The beginning of the oldest partition that stays.
_LIMIT = "date_trunc(:each, timezone('UTC', clock_timestamp()) - :age)"

# Partitions that ended so long ago.
_OLD = text(f"""
    SELECT relname AS name, to_date(right(relname, 8), 'YYYYMMDD') AS start
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = to_regclass(:table) AND relname ~ (:table || '_[0-9]{{8}}$')
      AND relname < :table || to_char({_LIMIT}, '_YYYYMMDD')
    ORDER BY relname
""")  # noqa: S608 - built from a constant of this module

# As old, of times that have no partition. The table is empty where a keeper runs.
_DELETE_STRAYS = """
    DELETE FROM {table}_default WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {table}_default WHERE {column} < {limit} AND NOT ({in_use})
        LIMIT :rows FOR UPDATE SKIP LOCKED))
"""

_BOUND_LOCK = text(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")


def may_change(connection: Connection, kept: Kept) -> bool:
    """Whether this role is, or belongs to, the owner of the table: nobody else may change it."""
    return bool(connection.execute(_OWNS, {"table": kept.table}).scalar_one())


def make_partitions(connection: Connection, kept: Kept, *, since: datetime | None = None) -> int:
    """Make the partitions of the present and of the time to come; returns how many.

    Nobody who writes waits for it. One that cannot be had at once, because somebody reads, is left
    for the next time.

    Args:
        connection: In a transaction of its own, as the table's owner.
        kept: Of which table.
        since: Of the time from then on, too.
    """
    missing = connection.execute(
        text(
            _MISSING.format(
                table=kept.table,
                column=kept.column,
                first=kept.bound.format("start"),
                end=kept.bound.format("start + :length"),
            )
        ),
        {
            "table": kept.table,
            "each": kept.each,
            "since": since,
            "ahead": kept.ahead * kept.length,
            "length": kept.length,
        },
    )
    return sum(_changed(connection, *_making(kept, start)) for start in missing.scalars().all())


def drop_partitions(connection: Connection, kept: Kept, *, older_than: timedelta) -> int:
    """Drop what is older, in whole partitions; returns how many.

    Whoever uses the table waits for it, up to a fifth of a second. If somebody has a transaction
    open for longer, it is left for the next time. The jobs of a partition are counted before; who
    retries one of the history meanwhile waits for that, too.

    Args:
        connection: In a transaction of its own, as the table's owner.
        kept: Of which table.
        older_than: Partitions that ended so long ago.
    """
    which = {"table": kept.table, "each": kept.each, "age": older_than}
    strays = _DELETE_STRAYS.format(
        table=kept.table,
        column=kept.column,
        limit=kept.bound.format(_LIMIT),
        in_use=kept.in_use_row,
    )
    if kept.tallied:
        strays = f"WITH gone AS ({strays} RETURNING *) {tallies.taking_away('gone')}"
    connection.execute(text(strays), which | {"rows": _STRAY_ROWS})
    old = connection.execute(_OLD, which).all()
    return sum(
        _changed(connection, *_dropping(kept, name))
        for name, start in old
        if not _is_in_use(connection, kept, start)
    )


def _is_in_use(connection: Connection, kept: Kept, start: date) -> bool:
    first, end = (kept.bound.format(f"timestamp '{one}'") for one in (start, start + kept.length))
    in_use = kept.in_use.format(first=first, end=end)
    return bool(connection.execute(text(f"SELECT {in_use}")).scalar_one())


def _making(kept: Kept, start: date) -> tuple[str, ...]:
    name, end = f"{kept.table}_{start:%Y%m%d}", start + kept.length
    # Attached, because a partition that is created as one locks everybody out.
    first, last = (kept.bound.format(f"timestamp '{one}'") for one in (start, end))
    bounds = f"FROM ({first}) TO ({last})"
    return (
        f"CREATE TABLE {name} (LIKE {kept.table} INCLUDING DEFAULTS INCLUDING STORAGE)",
        f"ALTER TABLE {kept.table} ATTACH PARTITION {name} FOR VALUES {bounds}",
    )


def _dropping(kept: Kept, name: str) -> tuple[str, ...]:
    if not kept.tallied:
        return (f"DROP TABLE {name}",)
    return (
        # A count of many millions may take longer than other statements, and nobody may bring a job
        # back while it is counted.
        "SET LOCAL statement_timeout = 0",
        f"LOCK TABLE {name} IN SHARE MODE",
        tallies.taking_away(name),
        f"DROP TABLE {name}",
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
