"""What was asked for that concerns many jobs: by whom, why, and how far it is."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("filter", postgresql.JSONB(), nullable=False),
        sa.Column("change", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("expected", sa.BigInteger(), nullable=True),
        sa.Column(
            "counts", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("last_id", sa.Uuid(), nullable=True),
        sa.Column("cursor", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("advanced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_by", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('cancel', 'retry', 'pause', 'resume', 'share')",
            name=op.f("operations_kind_known"),
        ),
        sa.CheckConstraint(
            "stopped_by IS NULL OR finished_at IS NOT NULL",
            name=op.f("operations_stopped_has_time"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("operations_pkey")),
        if_not_exists=True,
    )
    op.create_index(
        "operations_unfinished",
        "operations",
        ["id"],
        postgresql_where=sa.text("finished_at IS NULL"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("operations", if_exists=True)
