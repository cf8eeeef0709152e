"""Who is told what, and the outbox of what is to be told."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from twofold_schema.tables.base import metadata, one_of, time
from twofold_schema.webhook import DeliveryState

#: Endpoints. A row stays for ever: jobs and deliveries name it.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("url", Text, nullable=False),
    # None: all there are, and those of later versions.
    Column("events", ARRAY(Text)),
    Column("everything", Boolean, nullable=False),
    time("created_at", required=True),
    time("disabled_at"),
    Column("disabled_reason", Text),
    # Of tries one after the other: none has succeeded since, and the next is not before.
    time("failing_since"),
    Column("failures", Integer, nullable=False, server_default="0"),
    time("retry_at"),
    CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", "disabled_whole"),
    Index("webhooks_in_use", "tenant", postgresql_where=text("disabled_at IS NULL")),
)

#: What endpoints' messages are signed with, readable, because it signs. A table of its own, without
#: a check, so that no error of the database quotes a row of it, and so that it may have rights of
#: its own.
webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("webhook_id", Uuid, nullable=False),
    Column("secret", Text, nullable=False),
    time("created_at", required=True),
    # None: the one in use.
    time("expires_at"),
    PrimaryKeyConstraint("webhook_id", "created_at"),
)

#: The outbox: a row per message and endpoint, written in the transaction that changes what it tells
#: of, by a trigger of `jobs` or where a submission ends.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
    Column("webhook_id", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("job_id", Uuid),
    Column("submission_id", Uuid),
    # As text, which is sent: `jsonb` would be written anew by another version of Postgres.
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=DeliveryState.PENDING),
    Column("tries", SmallInteger, nullable=False, server_default="0"),
    # The last ones, oldest first.
    Column("log", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    time("created_at", required=True),
    # While a keeper sends it, the end of the keeper's lease.
    Column("next_try_at", DateTime(timezone=True), server_default=func.clock_timestamp()),
    time("ended_at"),
    CheckConstraint(one_of("state", tuple(DeliveryState)), "state_known"),
    CheckConstraint("(state = 'pending') = (next_try_at IS NOT NULL)", "pending_has_time"),
    CheckConstraint("(state = 'pending') = (ended_at IS NULL)", "ended_has_time"),
    Index(
        "deliveries_due", "webhook_id", "next_try_at", postgresql_where=text("state = 'pending'")
    ),
    Index("deliveries_of_webhook", "webhook_id", "created_at", "id"),
    Index("deliveries_recent", "created_at", "id"),
    Index("deliveries_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
)
