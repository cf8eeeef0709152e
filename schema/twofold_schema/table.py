"""The tables. Enums, CHECKs and partial indexes derive from `states`, so that they cannot drift."""

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
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from twofold_schema.operation import OperationKind
from twofold_schema.states import FINAL_STATES, JobClass, JobState

#: A run in one of these keeps its jobs as long as its lease lasts.
HOLDING_RUN_STATES = ("live", "draining")
ENDED_RUN_STATES = ("stopped", "lost")

metadata = MetaData(
    naming_convention={
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)


# The transaction's id, as a number that SQLAlchemy has a type for.
_XID = text("((pg_current_xact_id())::text)::bigint")


def _one_of(column: str, values: tuple[str, ...]) -> str:
    quoted = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({quoted})"


_FINAL = _one_of("state", tuple(state for state in JobState if state in FINAL_STATES))
_WAITING = _one_of("state", (JobState.SCHEDULED, JobState.QUEUED))
_UNFINISHED = _one_of("state", tuple(state for state in JobState if state not in FINAL_STATES))

#: What nothing is left to do for: it has ended, and has its fixed name if it wants one.
OVER = (
    "finished_at IS NOT NULL"
    " AND (state <> 'succeeded' OR publish_to IS NULL OR published_at IS NOT NULL)"
)


def _time(name: str, *, required: bool = False) -> Column[object]:
    default = func.clock_timestamp() if required else None
    return Column(name, DateTime(timezone=True), nullable=not required, server_default=default)


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
    _time("created_at", required=True),
    _time("sealed_at"),
    _time("finished_at"),
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
    _time("lease_expires_at", required=True),
    _time("drain_requested_at"),
    _time("started_at", required=True),
    _time("ended_at"),
    CheckConstraint(_one_of("state", HOLDING_RUN_STATES + ENDED_RUN_STATES), "state_known"),
    CheckConstraint(
        f"({_one_of('state', ENDED_RUN_STATES)}) = (ended_at IS NOT NULL)", "ended_has_time"
    ),
    Index(
        "runs_holding",
        "lease_expires_at",
        postgresql_where=text(_one_of("state", HOLDING_RUN_STATES)),
    ),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False, server_default="default"),
    Column("job_class", SmallInteger, nullable=False, server_default=str(JobClass.STANDARD.rank)),
    Column("key", Text),
    # No foreign key: it costs a lock and a look for each job, and whoever adds jobs to a submission
    # shares its row anyway (`submissions.join`).
    Column("submission_id", Uuid),
    Column("state", Text, nullable=False),
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("run_id", Uuid),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("crashes", SmallInteger, nullable=False, server_default="0"),
    Column("isolation", Uuid),
    Column("source", Text, nullable=False),
    Column("source_version", Text),
    Column("output_prefix", Text, nullable=False),
    Column("output", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("publish_to", Text),
    Column("width", Integer),
    Column("height", Integer),
    Column("parameters", JSONB, nullable=False),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("model_revision", Text),
    Column("lane", Text),
    Column("pixels", BigInteger),
    # No part of `measured_whole`: the version before this column does not write it. None means
    # unknown, and anybody may try.
    Column("lattice_pixels", BigInteger),
    Column("est_gpu_seconds", Double),
    # What the last claim was charged, in GPU-seconds.
    Column("charged", Double),
    Column("result", JSONB(none_as_null=True)),
    Column("errors", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    _time("created_at", required=True),
    _time("queued_at"),
    _time("scheduled_at"),
    _time("start_by"),
    _time("finish_by"),
    _time("first_claimed_at"),
    _time("claimed_at"),
    _time("started_at"),
    _time("run_deadline"),
    _time("cancel_requested_at"),
    _time("finished_at"),
    _time("published_at"),
    CheckConstraint(_one_of("state", tuple(JobState)), "state_known"),
    CheckConstraint(f"({_FINAL}) = (finished_at IS NOT NULL)", "final_has_time"),
    CheckConstraint("(state = 'succeeded') = (result IS NOT NULL)", "succeeded_has_result"),
    CheckConstraint("(state = 'running') = (run_deadline IS NOT NULL)", "running_has_deadline"),
    CheckConstraint("state <> 'running' OR run_id IS NOT NULL", "running_has_run"),
    CheckConstraint(f"NOT ({_WAITING}) OR run_id IS NULL", "waiting_has_no_run"),
    CheckConstraint("state <> 'scheduled' OR scheduled_at IS NOT NULL", "scheduled_has_time"),
    CheckConstraint("state <> 'queued' OR queued_at IS NOT NULL", "queued_has_time"),
    CheckConstraint(
        "(lane IS NULL) = (pixels IS NULL) AND (lane IS NULL) = (est_gpu_seconds IS NULL)",
        "measured_whole",
    ),
    CheckConstraint("(width IS NULL) = (height IS NULL)", "size_whole"),
    CheckConstraint("attempts BETWEEN 0 AND max_attempts", "attempts_bounded"),
    CheckConstraint(f"job_class BETWEEN 0 AND {len(JobClass) - 1}", "class_known"),
    CheckConstraint(
        "fence >= 0 AND generation >= 1 AND crashes >= 0 AND max_attempts >= 1", "counters_positive"
    ),
    # The size last, so that a claim passes over jobs that do not fit it without reading them.
    Index(
        "jobs_queued_share",
        "job_class",
        "tenant",
        "id",
        text("coalesce(lattice_pixels, 0)"),
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "jobs_queued_mates",
        text("coalesce(lane, '')"),
        "job_class",
        "tenant",
        "id",
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "jobs_waiting_size",
        "lattice_pixels",
        postgresql_where=text(f"{_WAITING} AND lattice_pixels IS NOT NULL"),
    ),
    Index("jobs_scheduled", "scheduled_at", postgresql_where=text("state = 'scheduled'")),
    Index("jobs_running_run", "run_id", postgresql_where=text("state = 'running'")),
    Index("jobs_running_deadline", "run_deadline", postgresql_where=text("state = 'running'")),
    Index(
        "jobs_start_by",
        "start_by",
        postgresql_where=text(f"{_WAITING} AND first_claimed_at IS NULL AND start_by IS NOT NULL"),
    ),
    Index(
        "jobs_finish_by",
        "finish_by",
        postgresql_where=text(f"{_UNFINISHED} AND finish_by IS NOT NULL"),
    ),
    Index(
        "jobs_unpublished",
        "finished_at",
        postgresql_where=text(
            "state = 'succeeded' AND publish_to IS NOT NULL AND published_at IS NULL"
        ),
    ),
    Index("jobs_over", "finished_at", postgresql_where=text(OVER)),
    Index("jobs_publish_to", "publish_to", "id", postgresql_where=text("publish_to IS NOT NULL")),
    Index(
        "jobs_of_submission",
        "submission_id",
        "id",
        postgresql_where=text("submission_id IS NOT NULL"),
    ),
    Index("jobs_tenant", "tenant", "id"),
)

#: Where jobs lie that ended a while ago; a job is in one of the two. Columns are those of `jobs`
#: in their order. A partition per week, `history_YYYYMMDD` of its Monday, and `history_default`.
history = Table(
    "history",
    metadata,
    *(
        Column(one.name, one.type, nullable=one.nullable and one.name != "finished_at")
        for one in jobs.columns
    ),
    Index("history_id", "id"),
    Index("history_tenant", "tenant", "id"),
    Index(
        "history_submission",
        "submission_id",
        "id",
        postgresql_where=text("submission_id IS NOT NULL"),
    ),
    Index(
        "history_publish_to", "publish_to", "id", postgresql_where=text("publish_to IS NOT NULL")
    ),
    postgresql_partition_by="RANGE (finished_at)",
)

job_keys = Table(
    "job_keys",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("job_keys_expires", "expires_at"),
)

#: What tenants are due and may have at once. One that has no row weighs 1 and has no cap.
tenants = Table(
    "tenants",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("weight", Double, nullable=False, server_default="1"),
    Column("max_running", Integer),
    CheckConstraint("weight > 0", "weight_positive"),
    CheckConstraint("max_running >= 0", "max_running_counts"),
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
    _time("paused_at", required=True),
    Column("resumed_by", Text),
    _time("resumed_at"),
    CheckConstraint("(resumed_at IS NULL) = (resumed_by IS NULL)", "resumed_whole"),
    Index(
        "pauses_in_force",
        text("coalesce(tenant, '')"),
        text("coalesce(job_class, -1)"),
        unique=True,
        postgresql_where=text("resumed_at IS NULL"),
    ),
)

#: What was asked for that concerns many jobs, and by whom; see `operations`.
operations = Table(
    "operations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("filter", JSONB, nullable=False),
    # What a share was set to.
    Column("change", JSONB(none_as_null=True)),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # How many jobs matched when somebody counted them, and what came of how many since.
    Column("expected", BigInteger),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # The last job on the way when it was asked for, and the last that was done.
    Column("last_id", Uuid),
    Column("cursor", Uuid),
    _time("created_at", required=True),
    _time("advanced_at"),
    _time("finished_at"),
    Column("stopped_by", Text),
    CheckConstraint(_one_of("kind", tuple(OperationKind)), "kind_known"),
    CheckConstraint("stopped_by IS NULL OR finished_at IS NOT NULL", "stopped_has_time"),
    Index("operations_unfinished", "id", postgresql_where=text("finished_at IS NULL")),
)

#: What claims take of a tenant's share and give back, in the order of writing; see `shares`.
charges = Table(
    "charges",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("xid", BigInteger, nullable=False, server_default=_XID),
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

#: One row: when somebody last looked, and since when the database has been back.
pulse = Table(
    "pulse",
    metadata,
    Column("id", SmallInteger, primary_key=True, server_default="1"),
    _time("beat_at", required=True),
    _time("resumed_at", required=True),
    CheckConstraint("id = 1", "one_row"),
)

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
tally_changes = Table("tally_changes", metadata, *_counted())
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


def is_in_code(name: str | None, kind: str, _parents: object = None) -> bool:
    """Whether a thing in the database is one that this module describes: partitions are not.

    As Alembic's `include_name`.
    """
    return not (kind == "table" and name is not None and name.startswith(("events_", "history_")))
