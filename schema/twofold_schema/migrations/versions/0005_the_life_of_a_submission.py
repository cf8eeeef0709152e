"""A submission's key, and what its end was written to."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FINISHED_WHOLE = (
    "finished_at IS NULL OR sealed_at IS NOT NULL AND results IS NOT NULL"
    " AND errors IS NOT NULL AND counts IS NOT NULL"
)
_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "key": sa.Text(),
    "results": sa.Text(),
    "errors": sa.Text(),
    "counts": postgresql.JSONB(none_as_null=True),
}


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed.
    for name, kind in _COLUMNS.items():
        op.add_column("submissions", sa.Column(name, kind, nullable=True), if_not_exists=True)
    op.execute("ALTER TABLE submissions DROP CONSTRAINT IF EXISTS submissions_finished_whole")
    op.create_check_constraint(op.f("submissions_finished_whole"), "submissions", _FINISHED_WHOLE)
    op.execute("ALTER TABLE jobs DROP CONSTRAINT IF EXISTS jobs_submission_id_fkey")
    op.create_table(
        "submission_keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("submission_keys_pkey")),
        if_not_exists=True,
    )
    op.create_index(
        "submission_keys_expires", "submission_keys", ["expires_at"], if_not_exists=True
    )
    with op.get_context().autocommit_block():
        _drop_unfinished()
        op.create_index(
            "submissions_unfinished",
            "submissions",
            ["id"],
            postgresql_where=sa.text("finished_at IS NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop_unfinished()
    op.drop_table("submission_keys", if_exists=True)
    op.execute("ALTER TABLE jobs DROP CONSTRAINT IF EXISTS jobs_submission_id_fkey")
    op.create_foreign_key(
        op.f("jobs_submission_id_fkey"), "jobs", "submissions", ["submission_id"], ["id"]
    )
    op.execute("ALTER TABLE submissions DROP CONSTRAINT IF EXISTS submissions_finished_whole")
    for name in _COLUMNS:
        op.drop_column("submissions", name, if_exists=True)


def _drop_unfinished() -> None:
    op.drop_index(
        "submissions_unfinished", "submissions", if_exists=True, postgresql_concurrently=True
    )
