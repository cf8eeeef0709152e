"""Who works, and whether anybody looks after them."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from twofold_schema.tables.base import metadata, one_of, time

#: A run in one of these keeps its jobs as long as its lease lasts.
HOLDING_RUN_STATES = ("live", "draining")
ENDED_RUN_STATES = ("stopped", "lost")

runs = Table(
    "runs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_revision", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="live"),
    Column("holding", Integer, nullable=False, server_default="0"),
    # None: no limit is known, as of runs of the version before this column.
    Column("max_lattice_pixels", BigInteger),
    Column("lease_seconds", Double, nullable=False),
    time("lease_expires_at", required=True),
    time("drain_requested_at"),
    time("started_at", required=True),
    time("ended_at"),
    CheckConstraint(one_of("state", HOLDING_RUN_STATES + ENDED_RUN_STATES), "state_known"),
    CheckConstraint(
        f"({one_of('state', ENDED_RUN_STATES)}) = (ended_at IS NOT NULL)", "ended_has_time"
    ),
    Index(
        "runs_holding",
        "lease_expires_at",
        postgresql_where=text(one_of("state", HOLDING_RUN_STATES)),
    ),
)

#: One row: when somebody last looked, since when the database has been back, and when a keeper last
#: kept, which is more than a look.
pulse = Table(
    "pulse",
    metadata,
    Column("id", SmallInteger, primary_key=True, server_default="1"),
    time("beat_at", required=True),
    time("resumed_at", required=True),
    time("kept_at"),
    CheckConstraint("id = 1", "one_row"),
)
