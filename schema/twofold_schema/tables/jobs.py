"""The job table, and where jobs lie that have ended. What is of a state derives from `states`."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from twofold_schema.states import FINAL_STATES, JobClass, JobState
from twofold_schema.tables.base import metadata, one_of, time

_FINAL = one_of("state", tuple(state for state in JobState if state in FINAL_STATES))
_WAITING = one_of("state", (JobState.SCHEDULED, JobState.QUEUED))
_UNFINISHED = one_of("state", tuple(state for state in JobState if state not in FINAL_STATES))

#: What nothing is left to do for: it has ended, and has its fixed name if it wants one.
OVER = (
    "finished_at IS NOT NULL"
    " AND (state <> 'succeeded' OR publish_to IS NULL OR published_at IS NOT NULL)"
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
    time("created_at", required=True),
    time("queued_at"),
    time("scheduled_at"),
    time("start_by"),
    time("finish_by"),
    time("first_claimed_at"),
    time("claimed_at"),
    time("started_at"),
    time("run_deadline"),
    time("cancel_requested_at"),
    time("finished_at"),
    time("published_at"),
    # The endpoint that is told of its end, besides those that are told of everything.
    Column("webhook_id", Uuid),
    CheckConstraint(one_of("state", tuple(JobState)), "state_known"),
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
    # Few rows ever: whether a run holds one is asked by every claim.
    Index(
        "jobs_running_isolated",
        "run_id",
        postgresql_where=text("state = 'running' AND isolation IS NOT NULL"),
    ),
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

#: Jobs by the pairs of their metadata, whichever table they are in. Of a long value its start,
#: since an index has a limit. A partition per week of the ids' time, `pairs_YYYYMMDD` of its
#: Monday, and `pairs_default`.
pairs = Table(
    "pairs",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value_start", Text, primary_key=True),
    Column("job_id", Uuid, primary_key=True),
    postgresql_partition_by="RANGE (job_id)",
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
