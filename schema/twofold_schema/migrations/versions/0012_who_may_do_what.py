"""Who may do what: API keys, and the rights of tenants."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_OLD_KINDS = "'cancel', 'retry', 'pause', 'resume', 'share'"
_NEW_KINDS = "'rights', 'create_key', 'rotate_key', 'revoke_key'"

_RIGHTS: dict[str, sa.types.TypeEngine[Any]] = {
    "may_read": postgresql.ARRAY(sa.Text()),
    "may_write": postgresql.ARRAY(sa.Text()),
    "max_queued": sa.BigInteger(),
    "rate": sa.Double(),
    "burst": sa.Integer(),
}
_CHECKS = {
    "tenants_max_queued_counts": "max_queued >= 0",
    "tenants_rate_positive": "rate > 0",
    "tenants_burst_positive": "burst > 0",
}


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rotated_to", sa.Uuid(), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "scopes <@ ARRAY['submit', 'read', 'operate', 'admin']",
            name=op.f("api_keys_scopes_known"),
        ),
        sa.CheckConstraint("cardinality(scopes) > 0", name=op.f("api_keys_scopes_stated")),
        sa.CheckConstraint(
            "tenant IS NOT NULL OR 'admin' = ANY (scopes)", name=op.f("api_keys_tenant_or_admin")
        ),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("api_keys_digest_whole")),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        if_not_exists=True,
    )
    op.create_index("api_keys_digest", "api_keys", ["digest"], unique=True, if_not_exists=True)
    for column, kind in _RIGHTS.items():
        op.add_column("tenants", sa.Column(column, kind, nullable=True), if_not_exists=True)
    for name, condition in _CHECKS.items():
        _check("tenants", name, condition)
    _check("operations", "operations_kind_known", f"kind IN ({_OLD_KINDS}, {_NEW_KINDS})")


def downgrade() -> None:
    # The version before can read no kind that it does not know.
    op.execute(f"DELETE FROM operations WHERE kind IN ({_NEW_KINDS})")  # noqa: S608 - a constant
    _check("operations", "operations_kind_known", f"kind IN ({_OLD_KINDS})")
    for column in _RIGHTS:
        op.drop_column("tenants", column, if_exists=True)
    op.drop_table("api_keys", if_exists=True)


def _check(table: str, name: str, condition: str) -> None:
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    op.create_check_constraint(op.f(name), table, condition)
