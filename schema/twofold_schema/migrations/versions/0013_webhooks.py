"""Who is told what by webhook, and the outbox of what is to be told."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_KINDS = (
    "cancel",
    "retry",
    "pause",
    "resume",
    "share",
    "rights",
    "create_key",
    "rotate_key",
    "revoke_key",
)

# Notes down for the endpoints of their tenants which jobs this statement has ended. Jobs come to
# their ends by updates only. Most statements end none, and most tenants have no endpoint: both are
# found out before rows are joined. Metadata that would make a message large is left to whoever
# asks for the job. Why no nested loop: see the triggers of 0004.
_TELL = """
    CREATE OR REPLACE FUNCTION tell_webhooks() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off AS $$
    DECLARE
        moment CONSTANT text :=
            to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
        told uuid[];
    BEGIN
        IF NOT EXISTS (SELECT FROM webhooks WHERE disabled_at IS NULL) THEN
            RETURN NULL;
        END IF;
        told := ARRAY(
            SELECT id FROM webhooks
            WHERE disabled_at IS NULL AND tenant = ANY(ARRAY(
                SELECT DISTINCT tenant FROM new_rows WHERE finished_at IS NOT NULL)));
        IF cardinality(told) = 0 THEN
            RETURN NULL;
        END IF;
        INSERT INTO deliveries (webhook_id, tenant, type, job_id, submission_id, body)
        SELECT webhook.id, job.tenant, 'job.' || job.state, job.id, job.submission_id,
               CAST(json_build_object(
                   'type', 'job.' || job.state,
                   'timestamp', moment,
                   'data', json_build_object(
                       'job_id', job.id,
                       'state', job.state,
                       'generation', job.generation,
                       'submission_id', job.submission_id,
                       'tenant', job.tenant,
                       'key', job.key,
                       'metadata', CASE WHEN octet_length(CAST(job.metadata AS text)) <= 12000
                                        THEN job.metadata END,
                       'result_uri', job.result ->> 'uri',
                       'error_code', CASE
                           WHEN job.state <> 'succeeded'
                            AND CAST(job.errors -> -1 ->> 'generation' AS integer) = job.generation
                           THEN job.errors -> -1 ->> 'code' END)) AS text)
        FROM old_rows AS past
        JOIN new_rows AS job USING (id)
        JOIN webhooks AS webhook ON webhook.tenant = job.tenant AND webhook.id = ANY(told)
        WHERE past.state <> job.state AND job.finished_at IS NOT NULL
          AND (webhook.everything OR webhook.id = job.webhook_id)
          AND (webhook.events IS NULL OR 'job.' || job.state = ANY(webhook.events));
        RETURN NULL;
    END $$
"""

_TRIGGER = """
    CREATE OR REPLACE TRIGGER tell_webhooks AFTER UPDATE ON jobs
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tell_webhooks()
"""


def upgrade() -> None:
    _create_webhooks()
    _create_deliveries()
    _allow((*_KINDS, "webhook"))
    # Last, because everybody who wants these tables waits from here on until this transaction
    # ends. The column is the last one of both, because rows go to and fro whole.
    for table in ("submissions", "jobs", "history"):
        op.add_column(table, sa.Column("webhook_id", sa.Uuid(), nullable=True), if_not_exists=True)
    op.execute(_TELL)
    op.execute(_TRIGGER)


def downgrade() -> None:
    op.execute("DROP TRIGGER IF EXISTS tell_webhooks ON jobs")
    op.execute("DROP FUNCTION IF EXISTS tell_webhooks")
    for table in ("submissions", "jobs", "history"):
        op.drop_column(table, "webhook_id", if_exists=True)
    op.execute("DELETE FROM operations WHERE kind = 'webhook'")
    _allow(_KINDS)
    for table in ("deliveries", "webhook_secrets", "webhooks"):
        op.drop_table(table, if_exists=True)


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("everything", sa.Boolean(), nullable=False),
        _moment("created_at", required=True),
        _moment("disabled_at"),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        _moment("failing_since"),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        _moment("retry_at"),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)",
            name=op.f("webhooks_disabled_whole"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("webhooks_pkey")),
        if_not_exists=True,
    )
    op.create_index(
        "webhooks_in_use",
        "webhooks",
        ["tenant"],
        postgresql_where=sa.text("disabled_at IS NULL"),
        if_not_exists=True,
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        _moment("created_at", required=True),
        _moment("expires_at"),
        sa.PrimaryKeyConstraint("webhook_id", "created_at", name=op.f("webhook_secrets_pkey")),
        if_not_exists=True,
    )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), server_default=sa.func.gen_random_uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("submission_id", sa.Uuid(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("log", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        _moment("created_at", required=True),
        sa.Column(
            "next_try_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.clock_timestamp(),
            nullable=True,
        ),
        _moment("ended_at"),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("deliveries_state_known")
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (next_try_at IS NOT NULL)",
            name=op.f("deliveries_pending_has_time"),
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (ended_at IS NULL)", name=op.f("deliveries_ended_has_time")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("deliveries_pkey")),
        if_not_exists=True,
    )
    for name, columns, where in (
        ("deliveries_due", ["webhook_id", "next_try_at"], "state = 'pending'"),
        ("deliveries_of_webhook", ["webhook_id", "created_at", "id"], None),
        ("deliveries_recent", ["created_at", "id"], None),
        ("deliveries_ended", ["ended_at"], "ended_at IS NOT NULL"),
    ):
        op.create_index(
            name,
            "deliveries",
            columns,
            postgresql_where=None if where is None else sa.text(where),
            if_not_exists=True,
        )


def _allow(kinds: tuple[str, ...]) -> None:
    """Say which kinds of operations there are."""
    op.execute("ALTER TABLE operations DROP CONSTRAINT IF EXISTS operations_kind_known")
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    op.create_check_constraint(op.f("operations_kind_known"), "operations", f"kind IN ({listed})")


def _moment(name: str, *, required: bool = False) -> sa.Column[object]:
    default = sa.text("clock_timestamp()") if required else None
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=default, nullable=not required
    )
