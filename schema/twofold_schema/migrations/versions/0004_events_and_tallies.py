"""A row per change of a job's state, and counts of jobs that nobody has to count.

Triggers write both, so that the version before this one, which knows of neither, writes them too.
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

#: The days that have a partition until a keeper of this version makes more.
_FIRST_DAYS = 8

# What was written, and how many jobs there are more. Estimates are added up as whole microseconds,
# because a sum of floats depends on its order and would never come back to nothing.
_INSERTED = """
CREATE OR REPLACE FUNCTION jobs_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    xid CONSTANT bigint := CAST(CAST(pg_current_xact_id() AS text) AS bigint);
BEGIN
    INSERT INTO events (xid, at, job_id, submission_id, tenant, job_class, generation, fence, state)
    SELECT xid, moment, id, submission_id, tenant, job_class, generation, fence, state
    FROM new_rows;
    INSERT INTO tally_changes (tenant, job_class, state, jobs, gpu_microseconds, unmeasured)
    SELECT tenant, job_class, state, count(*),
           coalesce(sum(CAST(est_gpu_seconds * 1e6 AS bigint)), 0),
           count(*) FILTER (WHERE est_gpu_seconds IS NULL)
    FROM new_rows GROUP BY tenant, job_class, state;
    RETURN NULL;
END
$$
"""

# A session plans this once, by the number of rows that it happens to see first, and goes by the
# plan for ever: a nested loop that was right for one row would take minutes for ten thousand.
_UPDATED = """
CREATE OR REPLACE FUNCTION jobs_updated() RETURNS trigger LANGUAGE plpgsql
SET enable_nestloop = off AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    xid CONSTANT bigint := CAST(CAST(pg_current_xact_id() AS text) AS bigint);
BEGIN
    WITH changed AS MATERIALIZED (
        SELECT job.id, job.submission_id, job.tenant, job.job_class, job.state, job.generation,
               job.fence, job.est_gpu_seconds,
               CASE WHEN 'running' IN (past.state, job.state)
                    THEN coalesce(job.run_id, past.run_id) END AS run_id,
               past.tenant AS left_tenant, past.job_class AS left_class, past.state AS left_state,
               past.est_gpu_seconds AS left_gpu_seconds,
               CASE past.state WHEN 'queued' THEN past.queued_at
                               WHEN 'running' THEN past.claimed_at END AS since,
               CASE WHEN job.errors <> past.errors THEN job.errors -> -1 ->> 'code' END AS error
        FROM old_rows AS past JOIN new_rows AS job USING (id)
        WHERE past.state <> job.state OR past.tenant <> job.tenant
           OR past.job_class <> job.job_class
           OR past.est_gpu_seconds IS DISTINCT FROM job.est_gpu_seconds
    ), told AS (
        INSERT INTO events (xid, at, job_id, submission_id, tenant, job_class, generation, fence,
                            run_id, left_state, state, seconds, error)
        SELECT xid, moment, id, submission_id, tenant, job_class, generation, fence, run_id,
               left_state, state, extract(epoch FROM moment - since), error
        FROM changed WHERE left_state <> state
    ), sides AS (
        SELECT tenant, job_class, state, 1 AS jobs, est_gpu_seconds FROM changed
        UNION ALL
        SELECT left_tenant, left_class, left_state, -1, left_gpu_seconds FROM changed
    )
    INSERT INTO tally_changes (tenant, job_class, state, jobs, gpu_microseconds, unmeasured)
    SELECT tenant, job_class, state, sum(jobs),
           sum(jobs * coalesce(CAST(est_gpu_seconds * 1e6 AS bigint), 0)),
           sum(CASE WHEN est_gpu_seconds IS NULL THEN jobs ELSE 0 END)
    FROM sides GROUP BY tenant, job_class, state;
    RETURN NULL;
END
$$
"""

# The jobs that were there before the triggers, as changes: everything that is counted now, less
# what the triggers have counted meanwhile. One statement, which sees all of it at one moment, so
# that nobody who writes has to wait for it.
_COUNT = """
INSERT INTO tally_changes (tenant, job_class, state, jobs, gpu_microseconds, unmeasured)
SELECT tenant, job_class, state, sum(jobs), sum(gpu_microseconds), sum(unmeasured)
FROM (
    SELECT tenant, job_class, state, count(*) AS jobs,
           coalesce(sum(CAST(est_gpu_seconds * 1e6 AS bigint)), 0) AS gpu_microseconds,
           count(*) FILTER (WHERE est_gpu_seconds IS NULL) AS unmeasured
    FROM jobs GROUP BY tenant, job_class, state
    UNION ALL
    SELECT tenant, job_class, state, -jobs, -gpu_microseconds, -unmeasured FROM tally_changes
    UNION ALL
    SELECT tenant, job_class, state, -jobs, -gpu_microseconds, -unmeasured FROM tallies
) AS difference
GROUP BY tenant, job_class, state
HAVING sum(jobs) <> 0 OR sum(gpu_microseconds) <> 0 OR sum(unmeasured) <> 0
"""


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed.
    _create_events()
    _create_tallies()
    op.execute(_INSERTED)
    op.execute(_UPDATED)
    # Last, because everybody who wants the table waits from here on until this transaction ends.
    _create_trigger("inserted", "INSERT", "NEW TABLE AS new_rows")
    _create_trigger("updated", "UPDATE", "OLD TABLE AS old_rows NEW TABLE AS new_rows")
    with op.get_context().autocommit_block():
        op.execute(_COUNT)


def downgrade() -> None:
    for name in ("inserted", "updated"):
        op.execute(f"DROP TRIGGER jobs_{name} ON jobs")
        op.execute(f"DROP FUNCTION jobs_{name}()")
    for table in ("tallies", "tally_changes", "events"):
        op.drop_table(table)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=True),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_class", sa.SmallInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("left_state", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        postgresql_partition_by="RANGE (at)",
        if_not_exists=True,
    )
    op.create_index("events_stream", "events", ["xid", "position"], if_not_exists=True)
    op.execute("CREATE TABLE IF NOT EXISTS events_default PARTITION OF events DEFAULT")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (today + timedelta(days=n) for n in range(_FIRST_DAYS)):
        op.execute(
            f"CREATE TABLE IF NOT EXISTS events_{day:%Y%m%d} PARTITION OF events "
            f"FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + timedelta(days=1)).isoformat()}')"
        )


def _create_tallies() -> None:
    op.create_table("tally_changes", *_counted(), if_not_exists=True)
    op.create_table(
        "tallies",
        *_counted(),
        sa.PrimaryKeyConstraint("tenant", "job_class", "state", name=op.f("tallies_pkey")),
        if_not_exists=True,
    )


def _counted() -> list[sa.Column[object]]:
    return [
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_class", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("gpu_microseconds", sa.BigInteger(), nullable=False),
        sa.Column("unmeasured", sa.BigInteger(), nullable=False),
    ]


def _create_trigger(name: str, event: str, rows: str) -> None:
    op.execute(f"DROP TRIGGER IF EXISTS jobs_{name} ON jobs")
    op.execute(
        f"CREATE TRIGGER jobs_{name} AFTER {event} ON jobs REFERENCING {rows} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION jobs_{name}()"
    )
