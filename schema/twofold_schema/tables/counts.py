"""What happened to jobs, and how many there are."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY

from twofold_schema.tables.base import metadata, xid

#: What happened to jobs: a row per change of state, written by a trigger of `jobs`. A partition per
#: day, `events_YYYYMMDD`, and `events_default` for days that have none.
events = Table(
    "events",
    metadata,
    # Who wrote it, and when in the order of writing: the place in the stream is both.
    Column("xid", BigInteger, nullable=False),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("submission_id", Uuid),
    Column("tenant", Text, nullable=False),
    Column("job_class", SmallInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("run_id", Uuid),
    # None: it is new.
    Column("left_state", Text),
    Column("state", Text, nullable=False),
    Column("seconds", Double),
    Column("error", Text),
    Index("events_stream", "xid", "position"),
    postgresql_partition_by="RANGE (at)",
)


def _counted() -> list[Column[Any]]:
    """How many jobs of a tenant, class and state there are, or how many there are more."""
    return [
        Column("tenant", Text, nullable=False),
        Column("job_class", SmallInteger, nullable=False),
        Column("state", Text, nullable=False),
        Column("jobs", BigInteger, nullable=False),
        Column("gpu_microseconds", BigInteger, nullable=False),
        Column("unmeasured", BigInteger, nullable=False),
    ]


#: Written by triggers of `jobs`, and only ever added to, so that no writer waits for another; the
#: keeper folds them into `tallies`. What there is, is both together.
tally_changes = Table(
    "tally_changes", metadata, *_counted(), xid(), Index("tally_changes_xid", "xid")
)
tallies = Table(
    "tallies", metadata, *_counted(), PrimaryKeyConstraint("tenant", "job_class", "state")
)

#: Events added up by the minute.
rollups = Table(
    "rollups",
    metadata,
    Column("minute", DateTime(timezone=True), primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("job_class", SmallInteger, primary_key=True),
    # Empty: they are new.
    Column("left_state", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("jobs", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("histogram", ARRAY(BigInteger), nullable=False),
)

#: One row: the last event that is in `rollups`.
rollup_cursor = Table(
    "rollup_cursor",
    metadata,
    Column("id", SmallInteger, primary_key=True, server_default="1"),
    Column("xid", BigInteger, nullable=False, server_default="0"),
    Column("position", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("id = 1", "one_row"),
)
