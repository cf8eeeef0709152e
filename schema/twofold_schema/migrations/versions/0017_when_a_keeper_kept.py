"""When a keeper last kept: workers' heartbeats are noted in the pulse, too."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "pulse",
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=True),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_column("pulse", "kept_at", if_exists=True)
