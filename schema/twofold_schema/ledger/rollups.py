"""Events added up by the minute, for charts: how many changes of state, and how long it took.

The keeper adds each event once: it goes along the stream, and notes how far it came in the
transaction that adds. A histogram counts the seconds that jobs were in the state that they left, in
buckets that double: `BOUNDS` are the lower ends of all but the first, which begins at nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from twofold_schema.states import JobClass, JobState

#: In seconds: from a 64th of a second to 12 days.
BOUNDS = tuple(2.0**power for power in range(-6, 21))

#: How many events one call adds; the next one adds the rest.
ROLL_UP_ROWS = 50_000

_FORGET_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollup:
    """What happened in one span of time, to jobs of one class, of one change of state.

    Attributes:
        at: When the span began.
        left_state: None for jobs that are new.
        jobs: How many changes.
        seconds: How long these jobs were queued or running before, together.
        histogram: How many of them were so for how long: one number more than `BOUNDS`.
    """

    at: datetime
    job_class: JobClass
    left_state: JobState | None
    state: JobState
    jobs: int
    seconds: float
    histogram: tuple[int, ...]


_COUNTED = ", ".join(
    f"count(*) FILTER (WHERE bucket = {bucket})" for bucket in range(len(BOUNDS) + 1)
)
_SUMMED = ", ".join(f"sum(histogram[{bucket + 1}])" for bucket in range(len(BOUNDS) + 1))

# How far the keeper came.
_CURSOR = text("SELECT xid, position FROM rollup_cursor")

# Adds the next events of those that no open transaction can come before, and notes the last one.
_ROLL_UP = text(f"""
    WITH batch AS MATERIALIZED (
        SELECT xid, position, date_trunc('minute', at) AS minute, tenant, job_class,
               coalesce(left_state, '') AS left_state, state, seconds,
               width_bucket(seconds, CAST(:bounds AS double precision[])) AS bucket
        FROM events
        WHERE (xid, position) > (:xid, :position)
          AND xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
        ORDER BY xid, position LIMIT :rows
    ), added AS (
        INSERT INTO rollups AS held (minute, tenant, job_class, left_state, state, jobs, seconds,
                                     histogram)
        SELECT minute, tenant, job_class, left_state, state, count(*), coalesce(sum(seconds), 0),
               ARRAY[{_COUNTED}]
        FROM batch GROUP BY minute, tenant, job_class, left_state, state
        ON CONFLICT (minute, tenant, job_class, left_state, state) DO UPDATE
        SET jobs = held.jobs + excluded.jobs, seconds = held.seconds + excluded.seconds,
            histogram = ARRAY(
                SELECT one + other
                FROM unnest(held.histogram, excluded.histogram) WITH ORDINALITY
                     AS t (one, other, bucket)
                ORDER BY bucket)
    )
    UPDATE rollup_cursor SET xid = last.xid, position = last.position
    FROM (SELECT xid, position FROM batch ORDER BY xid DESC, position DESC LIMIT 1) AS last
    RETURNING (SELECT count(*) FROM batch)
""")  # noqa: S608 - built from constants of this module

# Minutes added up to spans, which begin at multiples of their length since 1970.
_READ = text(f"""
    SELECT to_timestamp(floor(extract(epoch FROM minute) / :every) * :every) AS at,
           job_class, left_state, state, CAST(sum(jobs) AS bigint) AS jobs,
           sum(seconds) AS seconds, CAST(ARRAY[{_SUMMED}] AS bigint[]) AS histogram
    FROM rollups
    WHERE minute >= :since AND minute < :until
      AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
    GROUP BY 1, job_class, left_state, state
    ORDER BY 1, job_class, left_state, state
""")  # noqa: S608 - built from constants of this module

# Minutes that are too old.
_FORGET = text("""
    DELETE FROM rollups WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM rollups WHERE minute < (SELECT clock_timestamp() - :age)
        LIMIT :rows FOR UPDATE SKIP LOCKED))
""")


def roll_up(connection: Connection) -> int:
    """Add the next events; returns how many.

    Args:
        connection: In a transaction of its own, whose duty it is.
    """
    cursor = connection.execute(_CURSOR).one()
    added = connection.execute(
        _ROLL_UP,
        {
            "xid": cursor.xid,
            "position": cursor.position,
            "bounds": list(BOUNDS),
            "rows": ROLL_UP_ROWS,
        },
    ).scalar_one_or_none()
    return added or 0


def read(
    connection: Connection,
    since: datetime,
    until: datetime,
    *,
    every: timedelta = timedelta(minutes=1),
    tenant: str | None = None,
) -> Sequence[Rollup]:
    """What happened, span by span; spans in which nothing did are left out.

    Args:
        connection: Of the database.
        since: From the minute that begins then, or next.
        until: To the minute that began before.
        every: How long a span is: whole minutes. The first and the last may be cut by the range.
        tenant: Only of this tenant; None for all together.
    """
    rows = connection.execute(
        _READ,
        {"since": since, "until": until, "every": every.total_seconds(), "tenant": tenant},
    )
    return [
        Rollup(
            at=row.at,
            job_class=list(JobClass)[row.job_class],
            left_state=JobState(row.left_state) if row.left_state else None,
            state=JobState(row.state),
            jobs=row.jobs,
            seconds=row.seconds,
            histogram=tuple(row.histogram),
        )
        for row in rows
    ]


def forget(connection: Connection, *, older_than: timedelta) -> int:
    """Delete minutes that are older; returns how many rows, of a bounded number."""
    parameters = {"age": older_than, "rows": _FORGET_ROWS}
    return connection.execute(_FORGET, parameters).rowcount
