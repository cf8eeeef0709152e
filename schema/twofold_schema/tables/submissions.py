"""Jobs that were submitted together."""

from sqlalchemy import CheckConstraint, Column, DateTime, Index, Integer, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from twofold_schema.tables.base import metadata, time

submissions = Table(
    "submissions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False, server_default="default"),
    Column("key", Text),
    Column("generation", Integer, nullable=False, server_default="1"),
    # The URIs of what its last end was written to, and how many jobs were in each state then.
    Column("results", Text),
    Column("errors", Text),
    Column("counts", JSONB(none_as_null=True)),
    time("created_at", required=True),
    time("sealed_at"),
    time("finished_at"),
    Column("webhook_id", Uuid),
    CheckConstraint(
        "finished_at IS NULL OR sealed_at IS NOT NULL AND results IS NOT NULL"
        " AND errors IS NOT NULL AND counts IS NOT NULL",
        "finished_whole",
    ),
    Index("submissions_unfinished", "id", postgresql_where=text("finished_at IS NULL")),
)

submission_keys = Table(
    "submission_keys",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("submission_id", Uuid, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("submission_keys_expires", "expires_at"),
)
