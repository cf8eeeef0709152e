"""What the caller wants of a result, and which content of the source the job is about."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("source_version", sa.Text(), nullable=True))
    op.add_column(
        "jobs",
        sa.Column(
            "output",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column("jobs", sa.Column("publish_to", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("published_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "jobs_unpublished",
        "jobs",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text(
            "state = 'succeeded' AND publish_to IS NOT NULL AND published_at IS NULL"
        ),
    )
    op.create_index(
        "jobs_publish_to",
        "jobs",
        ["publish_to", "id"],
        unique=False,
        postgresql_where=sa.text("publish_to IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("jobs_publish_to", "jobs")
    op.drop_index("jobs_unpublished", "jobs")
    for column in ("published_at", "publish_to", "output", "source_version"):
        op.drop_column("jobs", column)
