"""What was asked for that concerns many jobs."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB

from twofold_schema.operation import OperationKind
from twofold_schema.tables.base import metadata, one_of, time

#: What was asked for that concerns many jobs, and by whom; see `operations`.
operations = Table(
    "operations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("filter", JSONB, nullable=False),
    # What a share or rights were set to, which API key it was, or what was done to an endpoint.
    Column("change", JSONB(none_as_null=True)),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # How many jobs matched when somebody counted them, and what came of how many since.
    Column("expected", BigInteger),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # The last job on the way when it was asked for, and the last that was done.
    Column("last_id", Uuid),
    Column("cursor", Uuid),
    time("created_at", required=True),
    time("advanced_at"),
    time("finished_at"),
    Column("stopped_by", Text),
    CheckConstraint(one_of("kind", tuple(OperationKind)), "kind_known"),
    CheckConstraint("stopped_by IS NULL OR finished_at IS NOT NULL", "stopped_has_time"),
    Index("operations_unfinished", "id", postgresql_where=text("finished_at IS NULL")),
)
