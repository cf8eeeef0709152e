"""What claims read stays small while somebody holds a snapshot open, and nothing can be vacuumed.

Changes of tallies say who wrote them, so that nobody looks for those that were folded, and a run
that holds isolated work is found without its other work.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed. The table holds
    # what was written since the last fold, and is written again with the column.
    op.execute("""
        ALTER TABLE tally_changes ADD COLUMN IF NOT EXISTS xid bigint NOT NULL
        DEFAULT ((pg_current_xact_id())::text)::bigint
    """)
    op.create_index("tally_changes_xid", "tally_changes", ["xid"], if_not_exists=True)
    with op.get_context().autocommit_block():
        # What a try left that was cut off is no index that anybody could use.
        _drop_isolated()
        op.create_index(
            "jobs_running_isolated",
            "jobs",
            ["run_id"],
            postgresql_where=sa.text("state = 'running' AND isolation IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop_isolated()
    op.execute("DELETE FROM folds WHERE journal = 'tally_changes'")
    op.drop_column("tally_changes", "xid")


def _drop_isolated() -> None:
    op.drop_index("jobs_running_isolated", "jobs", if_exists=True, postgresql_concurrently=True)
