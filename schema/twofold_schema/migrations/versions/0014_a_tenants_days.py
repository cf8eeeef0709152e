"""How long a tenant's jobs are kept, where that is not as long as everybody's."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tenants", sa.Column("jobs_days", sa.Integer(), nullable=True), if_not_exists=True
    )
    op.execute("ALTER TABLE tenants DROP CONSTRAINT IF EXISTS tenants_jobs_days_positive")
    op.create_check_constraint(op.f("tenants_jobs_days_positive"), "tenants", "jobs_days > 0")


def downgrade() -> None:
    op.drop_column("tenants", "jobs_days", if_exists=True)
