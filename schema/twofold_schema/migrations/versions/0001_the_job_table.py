"""The job table, with the columns that later parts need."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("job_keys_pkey")),
    )
    op.create_index("job_keys_expires", "job_keys", ["expires_at"], unique=False)
    op.create_table(
        "pulse",
        sa.Column("id", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column(
            "beat_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "resumed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("id = 1", name=op.f("pulse_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pulse_pkey")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_revision", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="live", nullable=False),
        sa.Column("holding", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_seconds", sa.Double(), nullable=False),
        sa.Column(
            "lease_expires_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("drain_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('stopped', 'lost')) = (ended_at IS NOT NULL)",
            name=op.f("runs_ended_has_time"),
        ),
        sa.CheckConstraint(
            "state IN ('live', 'draining', 'stopped', 'lost')", name=op.f("runs_state_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("runs_pkey")),
    )
    op.create_index(
        "runs_holding",
        "runs",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('live', 'draining')"),
    )
    op.create_table(
        "submissions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), server_default="default", nullable=False),
        sa.Column("generation", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("submissions_pkey")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), server_default="default", nullable=False),
        sa.Column("job_class", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("submission_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), server_default="1", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("crashes", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("isolation", sa.Uuid(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("output_prefix", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("parameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("model_revision", sa.Text(), nullable=True),
        sa.Column("lane", sa.Text(), nullable=True),
        sa.Column("pixels", sa.BigInteger(), nullable=True),
        sa.Column("est_gpu_seconds", sa.Double(), nullable=True),
        sa.Column(
            "result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column(
            "errors",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("start_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finish_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (run_deadline IS NOT NULL)",
            name=op.f("jobs_running_has_deadline"),
        ),
        sa.CheckConstraint(
            "(state = 'succeeded') = (result IS NOT NULL)", name=op.f("jobs_succeeded_has_result")
        ),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)",
            name=op.f("jobs_final_has_time"),
        ),
        sa.CheckConstraint(
            "NOT (state IN ('scheduled', 'queued')) OR run_id IS NULL",
            name=op.f("jobs_waiting_has_no_run"),
        ),
        sa.CheckConstraint(
            "state <> 'queued' OR queued_at IS NOT NULL", name=op.f("jobs_queued_has_time")
        ),
        sa.CheckConstraint(
            "state <> 'running' OR run_id IS NOT NULL", name=op.f("jobs_running_has_run")
        ),
        sa.CheckConstraint(
            "state <> 'scheduled' OR scheduled_at IS NOT NULL", name=op.f("jobs_scheduled_has_time")
        ),
        sa.CheckConstraint(
            "state IN ('scheduled', 'queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name=op.f("jobs_state_known"),
        ),
        sa.CheckConstraint(
            "(lane IS NULL) = (pixels IS NULL) AND (lane IS NULL) = (est_gpu_seconds IS NULL)",
            name=op.f("jobs_measured_whole"),
        ),
        sa.CheckConstraint("(width IS NULL) = (height IS NULL)", name=op.f("jobs_size_whole")),
        sa.CheckConstraint(
            "attempts BETWEEN 0 AND max_attempts", name=op.f("jobs_attempts_bounded")
        ),
        sa.CheckConstraint(
            "fence >= 0 AND generation >= 1 AND crashes >= 0 AND max_attempts >= 1",
            name=op.f("jobs_counters_positive"),
        ),
        sa.CheckConstraint("job_class BETWEEN 0 AND 2", name=op.f("jobs_class_known")),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submissions.id"], name=op.f("jobs_submission_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
    )
    op.create_index(
        "jobs_finish_by",
        "jobs",
        ["finish_by"],
        unique=False,
        postgresql_where=sa.text(
            "state IN ('scheduled', 'queued', 'running') AND finish_by IS NOT NULL"
        ),
    )
    op.create_index(
        "jobs_queued",
        "jobs",
        ["job_class", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "jobs_queued_lane",
        "jobs",
        [sa.text("coalesce(lane, '')"), "job_class", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "jobs_running_deadline",
        "jobs",
        ["run_deadline"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "jobs_running_run",
        "jobs",
        ["run_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "jobs_scheduled",
        "jobs",
        ["scheduled_at"],
        unique=False,
        postgresql_where=sa.text("state = 'scheduled'"),
    )
    op.create_index(
        "jobs_start_by",
        "jobs",
        ["start_by"],
        unique=False,
        postgresql_where=sa.text(
            "state IN ('scheduled', 'queued') AND first_claimed_at IS NULL AND start_by IS NOT NULL"
        ),
    )
    op.create_index("jobs_submission", "jobs", ["submission_id", "id"], unique=False)
    op.create_index("jobs_tenant", "jobs", ["tenant", "id"], unique=False)


def downgrade() -> None:
    for table in ("jobs", "submissions", "runs", "pulse", "job_keys"):
        op.drop_table(table)
