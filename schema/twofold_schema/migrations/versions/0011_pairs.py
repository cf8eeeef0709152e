"""Jobs are found by their metadata: a row per pair, in partitions by the week of the job's id.

A trigger writes them, so that the version before this one, which knows nothing of them, does too.
"""

from datetime import UTC, datetime, timedelta

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

#: The weeks that have a partition until a keeper of this version makes more.
_FIRST_WEEKS = 3

# The first characters of a value, because an entry of an index is bounded. Rows that have ended
# come back from the history: they have their pairs already.
_PAIRS = """
    SELECT tenant, name, left(value, 128), id
    FROM {jobs} AS jobs CROSS JOIN LATERAL jsonb_each_text(jobs.metadata) AS pair (name, value)
"""
_PAIRED = f"""
CREATE OR REPLACE FUNCTION jobs_paired() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM new_rows WHERE metadata <> '{{}}' AND finished_at IS NULL) THEN
        INSERT INTO pairs (tenant, name, value_start, job_id)
        {_PAIRS.format(jobs="new_rows")} WHERE finished_at IS NULL;
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed.
    op.execute("""
        CREATE TABLE IF NOT EXISTS pairs (
            tenant text NOT NULL, name text NOT NULL, value_start text NOT NULL,
            job_id uuid NOT NULL,
            CONSTRAINT pairs_pkey PRIMARY KEY (tenant, name, value_start, job_id)
        ) PARTITION BY RANGE (job_id)
    """)
    op.execute("CREATE TABLE IF NOT EXISTS pairs_default PARTITION OF pairs DEFAULT")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    for week in (monday + timedelta(weeks=n) for n in range(_FIRST_WEEKS)):
        op.execute(
            f"CREATE TABLE IF NOT EXISTS pairs_{week:%Y%m%d} PARTITION OF pairs "
            f"FOR VALUES FROM ('{_first_id(week)}') TO ('{_first_id(week + timedelta(weeks=1))}')"
        )
    op.execute(_PAIRED)
    op.execute("DROP TRIGGER IF EXISTS jobs_paired ON jobs")
    # Last, because everybody who wants the table waits from here on until this transaction ends.
    op.execute("""
        CREATE TRIGGER jobs_paired AFTER INSERT ON jobs REFERENCING NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION jobs_paired()
    """)
    with op.get_context().autocommit_block():
        for table in ("jobs", "history"):
            op.execute(f"""
                INSERT INTO pairs (tenant, name, value_start, job_id)
                {_PAIRS.format(jobs=table)} ON CONFLICT DO NOTHING
            """)


def downgrade() -> None:
    op.execute("DROP TRIGGER jobs_paired ON jobs")
    op.execute("DROP FUNCTION jobs_paired()")
    op.execute("DROP TABLE pairs")


def _first_id(moment: datetime) -> str:
    """The first UUID version 7 of a moment."""
    return f"{int(moment.timestamp() * 1000):012x}".ljust(32, "0")
