"""Whose turn it is: what tenants have used and may use, and what is paused."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A claim charges what its jobs are estimated to take. Once it has ended, whoever ended it and
# however, the charge is corrected: to what a job took if it succeeded, to nothing if it never began.
# A claim of the version before was charged nothing. Why no nested loop: see the triggers of 0004.
_CORRECT_CHARGES = """
    CREATE OR REPLACE FUNCTION correct_charges() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off AS $$
    BEGIN
        INSERT INTO charges (tenant, job_class, advance, jobs, gpu_seconds)
        SELECT tenant, job_class, sum(spent - charged) / coalesce(weight, 1),
               count(*) FILTER (WHERE succeeded), coalesce(sum(spent) FILTER (WHERE succeeded), 0)
        FROM (
            SELECT job.tenant, job.job_class, past.charged,
                   job.state = 'succeeded' AS succeeded,
                   CASE WHEN job.state = 'succeeded'
                        THEN coalesce((job.result ->> 'gpu_seconds')::double precision,
                                      job.est_gpu_seconds, past.charged)
                        WHEN past.started_at IS NULL THEN 0
                        ELSE past.charged END AS spent
            FROM old_rows AS past JOIN new_rows AS job USING (id)
            WHERE past.state = 'running' AND job.state <> 'running'
              AND past.charged IS NOT NULL
        ) AS ended
        LEFT JOIN tenants USING (tenant)
        GROUP BY tenant, job_class, weight
        HAVING sum(spent - charged) <> 0 OR bool_or(succeeded);
        RETURN NULL;
    END $$
"""

_SIZE, _LANE = sa.text("coalesce(lattice_pixels, 0)"), sa.text("coalesce(lane, '')")

_TRIGGER = """
    CREATE OR REPLACE TRIGGER correct_charges AFTER UPDATE ON jobs
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION correct_charges()
"""


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed.
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("weight", sa.Double(), server_default="1", nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.CheckConstraint("weight > 0", name=op.f("tenants_weight_positive")),
        sa.CheckConstraint("max_running >= 0", name=op.f("tenants_max_running_counts")),
        sa.PrimaryKeyConstraint("tenant", name=op.f("tenants_pkey")),
        if_not_exists=True,
    )
    op.create_table(
        "pauses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("job_class", sa.SmallInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.Column(
            "paused_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("resumed_by", sa.Text(), nullable=True),
        sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(resumed_at IS NULL) = (resumed_by IS NULL)", name=op.f("pauses_resumed_whole")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pauses_pkey")),
        if_not_exists=True,
    )
    op.create_index(
        "pauses_in_force",
        "pauses",
        [sa.text("coalesce(tenant, '')"), sa.text("coalesce(job_class, -1)")],
        unique=True,
        postgresql_where=sa.text("resumed_at IS NULL"),
        if_not_exists=True,
    )
    op.create_table(
        "charges",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "xid",
            sa.BigInteger(),
            server_default=sa.text("((pg_current_xact_id())::text)::bigint"),
            nullable=False,
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_class", sa.SmallInteger(), nullable=False),
        sa.Column("start", sa.Double(), nullable=True),
        sa.Column("advance", sa.Double(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("gpu_seconds", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("charges_pkey")),
        if_not_exists=True,
    )
    op.create_index("charges_xid", "charges", ["xid"], if_not_exists=True)
    op.create_table(
        "shares",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_class", sa.SmallInteger(), nullable=False),
        sa.Column("vtime", sa.Double(), nullable=False),
        sa.Column("start", sa.Double(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "job_class", name=op.f("shares_pkey")),
        if_not_exists=True,
    )
    op.create_table(
        "folds",
        sa.Column("journal", sa.Text(), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("journal", name=op.f("folds_pkey")),
        if_not_exists=True,
    )
    op.add_column("jobs", sa.Column("charged", sa.Double(), nullable=True), if_not_exists=True)
    op.execute(_CORRECT_CHARGES)
    op.execute(_TRIGGER)
    with op.get_context().autocommit_block():
        _build(
            "jobs_queued_share",
            ["job_class", "tenant", "id", _SIZE],
        )
        _build("jobs_queued_mates", [_LANE, "job_class", "tenant", "id"])
        # The old code's claims get slower without, as long as it runs.
        _drop("jobs_queued_size")
        _drop("jobs_queued_lane")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _build("jobs_queued_size", ["job_class", "id", _SIZE])
        _build("jobs_queued_lane", [_LANE, "job_class", "id"])
        _drop("jobs_queued_mates")
        _drop("jobs_queued_share")
    op.execute("DROP TRIGGER IF EXISTS correct_charges ON jobs")
    op.execute("DROP FUNCTION IF EXISTS correct_charges")
    op.drop_column("jobs", "charged", if_exists=True)
    for table in ("folds", "shares", "charges", "pauses", "tenants"):
        op.drop_table(table, if_exists=True)


def _build(name: str, columns: list[str | sa.TextClause]) -> None:
    # What a try left that was cut off is no index that anybody could use.
    _drop(name)
    op.create_index(
        name,
        "jobs",
        columns,
        postgresql_where=sa.text("state = 'queued'"),
        postgresql_concurrently=True,
    )


def _drop(name: str) -> None:
    op.drop_index(name, "jobs", if_exists=True, postgresql_concurrently=True)
