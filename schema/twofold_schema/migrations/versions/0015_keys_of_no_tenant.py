"""Keys of no tenant that are no admin's: they may look and operate, and submit nothing."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_OLD = "tenant IS NOT NULL OR 'admin' = ANY (scopes)"
_NEW = f"{_OLD} OR NOT 'submit' = ANY (scopes)"


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys DROP CONSTRAINT IF EXISTS api_keys_tenant_or_admin")
    op.execute("ALTER TABLE api_keys DROP CONSTRAINT IF EXISTS api_keys_submits_for_somebody")
    op.create_check_constraint(op.f("api_keys_submits_for_somebody"), "api_keys", _NEW)


def downgrade() -> None:
    # The table of the version before refuses such keys.
    op.execute(f"DELETE FROM api_keys WHERE NOT ({_OLD})")  # noqa: S608 - a constant
    op.execute("ALTER TABLE api_keys DROP CONSTRAINT IF EXISTS api_keys_submits_for_somebody")
    op.execute("ALTER TABLE api_keys DROP CONSTRAINT IF EXISTS api_keys_tenant_or_admin")
    op.create_check_constraint(op.f("api_keys_tenant_or_admin"), "api_keys", _OLD)
