"""What tenants are due and may do, what they have had, and what is paused."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from twofold_schema.tables.base import metadata, time, xid

#: What tenants are due, may have at once, and may do. One that has no row weighs 1, has no cap and
#: may do all that is open to Twofold.
tenants = Table(
    "tenants",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("weight", Double, nullable=False, server_default="1"),
    Column("max_running", Integer),
    # NULL for any; see `tenant_places`.
    Column("may_read", ARRAY(Text)),
    Column("may_write", ARRAY(Text)),
    Column("max_queued", BigInteger),
    # Requests per second, and at once.
    Column("rate", Double),
    Column("burst", Integer),
    # How long its jobs are kept after their end; NULL for as long as everybody's.
    Column("jobs_days", Integer),
    CheckConstraint("weight > 0", "weight_positive"),
    CheckConstraint("max_running >= 0", "max_running_counts"),
    CheckConstraint("max_queued >= 0", "max_queued_counts"),
    CheckConstraint("rate > 0", "rate_positive"),
    CheckConstraint("burst > 0", "burst_positive"),
    CheckConstraint("jobs_days > 0", "jobs_days_positive"),
)

#: What is not claimed from: a tenant, a class, a tenant's class, or, where neither is named, all.
pauses = Table(
    "pauses",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text),
    Column("job_class", SmallInteger),
    Column("reason", Text, nullable=False),
    Column("paused_by", Text, nullable=False),
    time("paused_at", required=True),
    Column("resumed_by", Text),
    time("resumed_at"),
    CheckConstraint("(resumed_at IS NULL) = (resumed_by IS NULL)", "resumed_whole"),
    Index(
        "pauses_in_force",
        text("coalesce(tenant, '')"),
        text("coalesce(job_class, -1)"),
        unique=True,
        postgresql_where=text("resumed_at IS NULL"),
    ),
)

#: What claims take of a tenant's share and give back, in the order of writing; see `shares`.
charges = Table(
    "charges",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    xid(),
    Column("tenant", Text, nullable=False),
    Column("job_class", SmallInteger, nullable=False),
    Column("start", Double),
    Column("advance", Double, nullable=False),
    Column("jobs", BigInteger, nullable=False, server_default="0"),
    Column("gpu_seconds", Double, nullable=False, server_default="0"),
    Index("charges_xid", "xid"),
)

#: What came of the charges that were folded.
shares = Table(
    "shares",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("job_class", SmallInteger, primary_key=True),
    Column("vtime", Double, nullable=False),
    Column("start", Double, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    Column("gpu_seconds", Double, nullable=False),
)

#: Of each journal, the transaction before which everything is folded and gone.
folds = Table(
    "folds",
    metadata,
    Column("journal", Text, primary_key=True),
    Column("xid", BigInteger, nullable=False),
)
