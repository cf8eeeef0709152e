"""How many jobs there are, without counting them.

Triggers of `jobs` add a row to `tally_changes` for each tenant, class and state that a statement
touches, so that no writer waits for another. The keeper folds these rows into `tallies`. What there
is, is both together, at one moment.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from twofold_schema.ledger import journals
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import JobClass, JobState

#: How many changes one fold takes; the next one takes the rest.
FOLD_ROWS = 20_000

_CLASSES = tuple(JobClass)

#: The age of what waits is looked for among so many that were submitted first, of each tenant.
_OLDEST_AMONG = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Jobs of one tenant, class and state.

    Attributes:
        jobs: How many.
        gpu_seconds: What those of them are estimated to take whose size is known.
        unmeasured: How many have an unknown size.
    """

    tenant: str
    job_class: JobClass
    state: JobState
    jobs: int
    gpu_seconds: float
    unmeasured: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Queued jobs of one class.

    Attributes:
        jobs: How many.
        gpu_seconds: What those of them are estimated to take whose size is known.
        unmeasured: How many have an unknown size.
        oldest: How long the one has been queued that has been for longest, of the twenty of each
            tenant that were submitted first; None if none is queued.
    """

    job_class: JobClass
    jobs: int
    gpu_seconds: float
    unmeasured: int
    oldest: timedelta | None


_COLUMNS = "tenant, job_class, state, jobs, gpu_microseconds, unmeasured"
_NOT_FOLDED = journals.not_folded("tally_changes")
_EVERYTHING = f"""
    SELECT {_COLUMNS} FROM tallies
    UNION ALL
    SELECT {_COLUMNS} FROM tally_changes WHERE {_NOT_FOLDED}
"""  # noqa: S608 - built from constants of this module

#: Who has jobs that wait for a run, of which class, and how many of the tenant's run, of any class.
WAITING = f"""
    SELECT tenant, job_class, queued, running
    FROM (
        SELECT tenant, job_class, sum(jobs) FILTER (WHERE state = 'queued') AS queued,
               sum(coalesce(sum(jobs) FILTER (WHERE state = 'running'), 0))
                   OVER (PARTITION BY tenant) AS running
        FROM ({_EVERYTHING}) AS everything
        WHERE state IN ('queued', 'running') AND jobs <> 0
        GROUP BY tenant, job_class
    ) AS counted
    WHERE queued > 0
"""  # noqa: S608 - built from a constant of this module

# How many jobs of some tenants wait, for a run or for their time.
_WAITING_OF = text(f"""
    SELECT tenant, CAST(sum(jobs) AS bigint) AS jobs FROM ({_EVERYTHING}) AS everything
    WHERE state IN ('queued', 'scheduled') AND tenant = ANY(CAST(:tenants AS text[]))
    GROUP BY tenant
""")  # noqa: S608 - built from a constant of this module

# What there is.
_OVERVIEW = text(f"""
    SELECT tenant, job_class, state, CAST(sum(jobs) AS bigint) AS jobs,
           CAST(sum(gpu_microseconds) AS bigint) AS gpu_microseconds,
           CAST(sum(unmeasured) AS bigint) AS unmeasured
    FROM ({_EVERYTHING}) AS everything
    WHERE CAST(:tenant AS text) IS NULL OR tenant = :tenant
    GROUP BY tenant, job_class, state
    HAVING sum(jobs) <> 0
    ORDER BY tenant, job_class, state
""")  # noqa: S608 - built from a constant of this module

# What waits for a run, of every class. A tenant's jobs are in an index in the order in which they
# were submitted, not in which they were queued. They are asked for as a range of rows, which that
# index alone can answer: of one tenant and class the planner would as soon go through all by id.
_BACKLOG = text(f"""
    WITH queued AS (
        SELECT tenant, job_class, CAST(sum(jobs) AS bigint) AS jobs,
               CAST(sum(gpu_microseconds) AS bigint) AS gpu_microseconds,
               CAST(sum(unmeasured) AS bigint) AS unmeasured
        FROM ({_EVERYTHING}) AS everything WHERE state = 'queued'
        GROUP BY tenant, job_class HAVING sum(jobs) > 0
    )
    SELECT class AS job_class, CAST(coalesce(sum(jobs), 0) AS bigint) AS jobs,
           CAST(coalesce(sum(gpu_microseconds), 0) AS bigint) AS gpu_microseconds,
           CAST(coalesce(sum(unmeasured), 0) AS bigint) AS unmeasured,
           clock_timestamp() - min(oldest.queued_at) AS oldest
    FROM generate_series(0, :classes - 1) AS class
    LEFT JOIN queued ON queued.job_class = class
    LEFT JOIN LATERAL (
        SELECT min(queued_at) AS queued_at FROM (
            SELECT queued_at FROM jobs
            WHERE state = 'queued'
              AND (jobs.job_class, jobs.tenant) >= (queued.job_class, queued.tenant)
              AND (jobs.job_class, jobs.tenant) <= (queued.job_class, queued.tenant)
            ORDER BY jobs.job_class, jobs.tenant, jobs.id LIMIT :among) AS first
    ) AS oldest ON true
    GROUP BY class
    ORDER BY class
""")  # noqa: S608 - built from a constant of this module

# What there is of jobs that are in a group.
_COUNTED = """
    count(*) AS jobs, coalesce(sum(CAST(est_gpu_seconds * 1e6 AS bigint)), 0) AS gpu_microseconds,
    count(*) FILTER (WHERE est_gpu_seconds IS NULL) AS unmeasured
"""

# What a count says, less what the tallies say: of one moment.
_DIFFERENCES = f"""
    SELECT tenant, job_class, state, CAST(sum(jobs) AS bigint) AS jobs,
           CAST(sum(gpu_microseconds) AS bigint) AS gpu_microseconds,
           CAST(sum(unmeasured) AS bigint) AS unmeasured
    FROM (
        SELECT tenant, job_class, state, {_COUNTED}
        FROM {ALL_JOBS} AS jobs GROUP BY tenant, job_class, state
        UNION ALL
        SELECT tenant, job_class, state, -jobs, -gpu_microseconds, -unmeasured
        FROM ({_EVERYTHING}) AS everything
    ) AS differences
    GROUP BY tenant, job_class, state
    HAVING sum(jobs) <> 0 OR sum(gpu_microseconds) <> 0 OR sum(unmeasured) <> 0
    ORDER BY tenant, job_class, state
"""  # noqa: S608 - built from constants of this package

# Counts all jobs. It reads the whole table, and nobody waits for it.
_COMPARE = text(_DIFFERENCES)

# Counts all jobs, and writes what is missing or too many as changes, in one statement: what others
# change meanwhile comes with changes of its own, which it does not see either.
_CORRECT = text(f"""
    INSERT INTO tally_changes ({_COLUMNS})
    {_DIFFERENCES}
""")

# Moves changes into the tallies: a reader sees them in one place or in the other. Nobody but the
# one keeper whose duty it is writes tallies.
_FOLD = text(f"""
    WITH folded AS (
        DELETE FROM tally_changes
        WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM tally_changes WHERE {_NOT_FOLDED} ORDER BY xid LIMIT :rows))
        RETURNING {_COLUMNS}
    ), noted AS (
        {journals.note_fold("tally_changes", "(SELECT count(*) FROM folded) < :rows")}
    ), written AS (
        INSERT INTO tallies AS held ({_COLUMNS})
        SELECT tenant, job_class, state, sum(jobs), sum(gpu_microseconds), sum(unmeasured)
        FROM folded GROUP BY tenant, job_class, state
        ON CONFLICT (tenant, job_class, state) DO UPDATE
        SET jobs = held.jobs + excluded.jobs,
            gpu_microseconds = held.gpu_microseconds + excluded.gpu_microseconds,
            unmeasured = held.unmeasured + excluded.unmeasured
    )
    SELECT count(*) FROM folded
""")  # noqa: S608 - built from constants of this package


def taking_away(table: str) -> str:
    """The statement that takes the jobs of a table away from the tallies, because they go."""
    return f"""
        INSERT INTO tally_changes ({_COLUMNS})
        SELECT tenant, job_class, state, -jobs, -gpu_microseconds, -unmeasured
        FROM (
            SELECT tenant, job_class, state, {_COUNTED} FROM {table}
            GROUP BY tenant, job_class, state
        ) AS counted
    """  # noqa: S608 - of the names of tables that retention knows


def overview(connection: Connection, *, tenant: str | None = None) -> Sequence[Tally]:
    """How many jobs there are, by tenant, class and state; without those that are none.

    Args:
        connection: Of the database.
        tenant: Only this one's; None for all.
    """
    return [_tally(row) for row in connection.execute(_OVERVIEW, {"tenant": tenant})]


def waiting(connection: Connection, tenants: Collection[str]) -> Mapping[str, int]:
    """How many jobs of these tenants are queued or scheduled; those without any are left out."""
    rows = connection.execute(_WAITING_OF, {"tenants": list(tenants)})
    return {row.tenant: row.jobs for row in rows}


def backlog(connection: Connection) -> Sequence[Backlog]:
    """What is queued, for every class in the order in which they are served."""
    rows = connection.execute(_BACKLOG, {"classes": len(JobClass), "among": _OLDEST_AMONG})
    return [
        Backlog(
            job_class=_CLASSES[row.job_class],
            jobs=row.jobs,
            gpu_seconds=row.gpu_microseconds / 1e6,
            unmeasured=row.unmeasured,
            oldest=row.oldest,
        )
        for row in rows
    ]


def fold(connection: Connection) -> int:
    """Fold changes into tallies; returns how many.

    Args:
        connection: In a transaction of its own, whose duty it is.
    """
    return int(connection.execute(_FOLD, {"rows": FOLD_ROWS}).scalar_one())


def differences(connection: Connection) -> Sequence[Tally]:
    """How many jobs a count finds more than the tallies say; none where they are right."""
    return [_tally(row) for row in connection.execute(_COMPARE)]


def correct(connection: Connection) -> int:
    """Make the tallies what a count says; returns how many were wrong.

    Args:
        connection: In a transaction of its own, in `READ COMMITTED`, whose duty it is: two at once
            would both add what is missing.
    """
    return connection.execute(_CORRECT).rowcount


def _tally(row: Row[Any]) -> Tally:
    return Tally(
        tenant=row.tenant,
        job_class=_CLASSES[row.job_class],
        state=JobState(row.state),
        jobs=row.jobs,
        gpu_seconds=row.gpu_microseconds / 1e6,
        unmeasured=row.unmeasured,
    )
