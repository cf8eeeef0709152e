"""Where jobs lie that ended a while ago, so that the table whose rows change stays small."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

#: The weeks that have a partition until a keeper of this version makes more.
_FIRST_WEEKS = 3

_OVER = (
    "finished_at IS NOT NULL"
    " AND (state <> 'succeeded' OR publish_to IS NULL OR published_at IS NOT NULL)"
)

# As in 0004, but for rows that have ended: these come back from the history, where they were told
# of and counted, and no job is new and has ended.
_INSERTED = """
CREATE OR REPLACE FUNCTION jobs_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    xid CONSTANT bigint := CAST(CAST(pg_current_xact_id() AS text) AS bigint);
BEGIN
    INSERT INTO events (xid, at, job_id, submission_id, tenant, job_class, generation, fence, state)
    SELECT xid, moment, id, submission_id, tenant, job_class, generation, fence, state
    FROM new_rows{which};
    INSERT INTO tally_changes (tenant, job_class, state, jobs, gpu_microseconds, unmeasured)
    SELECT tenant, job_class, state, count(*),
           coalesce(sum(CAST(est_gpu_seconds * 1e6 AS bigint)), 0),
           count(*) FILTER (WHERE est_gpu_seconds IS NULL)
    FROM new_rows{which} GROUP BY tenant, job_class, state;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed. The columns are
    # those of jobs in their order, because rows go to and fro whole.
    op.execute("CREATE TABLE IF NOT EXISTS history (LIKE jobs) PARTITION BY RANGE (finished_at)")
    op.alter_column("history", "finished_at", nullable=False)
    op.create_index("history_id", "history", ["id"], if_not_exists=True)
    op.create_index("history_tenant", "history", ["tenant", "id"], if_not_exists=True)
    for name, columns in (
        ("history_submission", ["submission_id", "id"]),
        ("history_publish_to", ["publish_to", "id"]),
    ):
        op.create_index(
            name,
            "history",
            columns,
            postgresql_where=sa.text(f"{columns[0]} IS NOT NULL"),
            if_not_exists=True,
        )
    op.execute("CREATE TABLE IF NOT EXISTS history_default PARTITION OF history DEFAULT")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    for week in (monday + timedelta(weeks=n) for n in range(_FIRST_WEEKS)):
        op.execute(
            f"CREATE TABLE IF NOT EXISTS history_{week:%Y%m%d} PARTITION OF history "
            f"FOR VALUES FROM ('{week.isoformat()}') "
            f"TO ('{(week + timedelta(weeks=1)).isoformat()}')"
        )
    op.execute(_INSERTED.format(which=" WHERE finished_at IS NULL"))
    with op.get_context().autocommit_block():
        # What a try left that was cut off is no index that anybody could use.
        _drop_over()
        op.create_index(
            "jobs_over",
            "jobs",
            ["finished_at"],
            postgresql_where=sa.text(_OVER),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop_over()
    # Back while the trigger still knows them.
    op.execute("INSERT INTO jobs SELECT * FROM history")
    op.drop_table("history")
    op.execute(_INSERTED.format(which=""))


def _drop_over() -> None:
    op.drop_index("jobs_over", "jobs", if_exists=True, postgresql_concurrently=True)
