"""New jobs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, text

from twofold_schema import table
from twofold_schema.errors import KeyReused
from twofold_schema.ids import new_id
from twofold_schema.job import Output, Parameters
from twofold_schema.lanes import Measure
from twofold_schema.states import JobClass, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that was checked and may be written.

    Attributes:
        source: URI of the picture or latents.
        output_prefix: URI under which the result is stored.
        output: What the result's file shall be.
        publish_to: URI to which the result is copied after completion; `{job}` is the job's id.
        parameters: With the seed drawn.
        seed_drawn: Whether the seed is ours: then it is no part of what the caller asked for.
        measure: The lane and cost, when the caller stated the size.
        key: The caller's own name for the job, unique per tenant while it is remembered.
        start_at: Not before this time.
        start_by: Expire unless claimed by then.
        finish_by: Expire unless finished by then.
    """

    source: str
    output_prefix: str
    parameters: Parameters
    seed_drawn: bool
    max_attempts: int
    output: Output = field(default_factory=Output)
    publish_to: str | None = None
    job_class: JobClass = JobClass.STANDARD
    tenant: str = "default"
    measure: Measure | None = None
    key: str | None = None
    metadata: dict[str, str] | None = None
    start_at: datetime | None = None
    start_by: datetime | None = None
    finish_by: datetime | None = None

    def fingerprint(self) -> bytes:
        """A digest of what the caller asked for: the same key must mean the same digest."""
        # Without what has its default: a field that a later version adds must not make every
        # key that is remembered look reused.
        drawn = {"seed"} if self.seed_drawn else None
        payload = {
            "source": self.source,
            "output_prefix": self.output_prefix,
            "parameters": self.parameters.model_dump(exclude=drawn, exclude_defaults=True),
            **self.output.model_dump(exclude_defaults=True),
            **({"publish_to": self.publish_to} if self.publish_to else {}),
            "size": (self.measure.width, self.measure.height) if self.measure else None,
            "job_class": self.job_class,
            "metadata": self.metadata or {},
            "start_at": self.start_at,
            "start_by": self.start_by,
            "finish_by": self.finish_by,
        }
        return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).digest()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that is in the ledger.

    Attributes:
        job_id: Of the job.
        created: False when its key was known with the same payload: nothing was written.
    """

    job_id: UUID
    created: bool


# Takes the keys that are free or expired. A key held by a transaction still open is waited for.
_RESERVE_KEYS = text("""
    INSERT INTO job_keys AS held (tenant, key, job_id, fingerprint, expires_at)
    SELECT tenant, key, job_id, fingerprint, clock_timestamp() + :remember
    FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:job_ids AS uuid[]),
                CAST(:fingerprints AS bytea[])) AS wanted (tenant, key, job_id, fingerprint)
    ORDER BY tenant, key
    ON CONFLICT (tenant, key) DO UPDATE
    SET job_id = excluded.job_id, fingerprint = excluded.fingerprint,
        expires_at = excluded.expires_at
    WHERE held.expires_at <= clock_timestamp()
""")

# Who holds these keys now.
_KEY_HOLDERS = text("""
    SELECT held.tenant, held.key, held.job_id, held.fingerprint
    FROM job_keys AS held
    JOIN unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS wanted (tenant, key)
      ON held.tenant = wanted.tenant AND held.key = wanted.key
""")

# Opens a submission.
_OPEN_SUBMISSION = text("INSERT INTO submissions (id, tenant) VALUES (:id, :tenant)")

# Says that a submission gets no more jobs.
_SEAL = text("""
    UPDATE submissions SET sealed_at = clock_timestamp() WHERE id = :id AND sealed_at IS NULL
""")


def open_submission(connection: Connection, tenant: str = "default") -> UUID:
    """Begin a submission; it takes jobs until it is sealed."""
    submission_id = new_id()
    connection.execute(_OPEN_SUBMISSION, {"id": submission_id, "tenant": tenant})
    return submission_id


def seal(connection: Connection, submission_id: UUID) -> None:
    """Say that a submission is complete. Safe to repeat."""
    connection.execute(_SEAL, {"id": submission_id})


def insert_jobs(
    connection: Connection,
    new_jobs: Sequence[NewJob],
    *,
    submission_id: UUID | None = None,
    remember_keys: timedelta = timedelta(days=30),
) -> list[Accepted]:
    """Write jobs, each once per key.

    Returns:
        One answer per job, in order.

    Raises:
        KeyReused: A key belongs to a job with another payload; the caller must roll back.
    """
    accepted = _reserve(connection, new_jobs, remember_keys)
    rows = [
        _row(new_job, answer.job_id, submission_id)
        for new_job, answer in zip(new_jobs, accepted, strict=True)
        if answer.created
    ]
    queued = [row for row in rows if row["state"] is JobState.QUEUED]
    scheduled = [row for row in rows if row["state"] is JobState.SCHEDULED]
    if queued:
        connection.execute(insert(table.jobs).values(queued_at=func.clock_timestamp()), queued)
    if scheduled:
        connection.execute(insert(table.jobs), scheduled)
    return accepted


def _reserve(
    connection: Connection, new_jobs: Sequence[NewJob], remember_keys: timedelta
) -> list[Accepted]:
    proposed = [new_id() for _ in new_jobs]
    first_with_key: dict[tuple[str, str], tuple[UUID, bytes]] = {}
    for job_id, new_job in zip(proposed, new_jobs, strict=True):
        if new_job.key is not None:
            holder = (job_id, new_job.fingerprint())
            first_with_key.setdefault((new_job.tenant, new_job.key), holder)
    holders = _hold_keys(connection, first_with_key, remember_keys) if first_with_key else {}

    accepted = []
    for job_id, new_job in zip(proposed, new_jobs, strict=True):
        if new_job.key is None:
            accepted.append(Accepted(job_id, created=True))
            continue
        holder_id, fingerprint = holders[new_job.tenant, new_job.key]
        if fingerprint != new_job.fingerprint():
            raise KeyReused(
                f"The key {new_job.key!r} belongs to job {holder_id}, which asks for something "
                "else; use a new key for a new job."
            )
        accepted.append(Accepted(holder_id, created=holder_id == job_id))
    return accepted


def _hold_keys(
    connection: Connection,
    wanted: dict[tuple[str, str], tuple[UUID, bytes]],
    remember_keys: timedelta,
) -> dict[tuple[str, str], tuple[UUID, bytes]]:
    keys = {"tenants": [tenant for tenant, _ in wanted], "keys": [key for _, key in wanted]}
    connection.execute(
        _RESERVE_KEYS,
        keys
        | {
            "job_ids": [job_id for job_id, _ in wanted.values()],
            "fingerprints": [fingerprint for _, fingerprint in wanted.values()],
            "remember": remember_keys,
        },
    )
    return {
        (row.tenant, row.key): (row.job_id, bytes(row.fingerprint))
        for row in connection.execute(_KEY_HOLDERS, keys)
    }


def _row(new_job: NewJob, job_id: UUID, submission_id: UUID | None) -> dict[str, Any]:
    measure = new_job.measure
    return {
        "id": job_id,
        "tenant": new_job.tenant,
        "job_class": new_job.job_class.rank,
        "key": new_job.key,
        "submission_id": submission_id,
        "state": JobState.QUEUED if new_job.start_at is None else JobState.SCHEDULED,
        "max_attempts": new_job.max_attempts,
        "source": new_job.source,
        "output_prefix": new_job.output_prefix,
        "output": new_job.output.model_dump(mode="json", exclude_defaults=True),
        "publish_to": new_job.publish_to,
        "width": measure and measure.width,
        "height": measure and measure.height,
        "parameters": new_job.parameters.model_dump(mode="json"),
        "metadata": new_job.metadata or {},
        "model_revision": new_job.parameters.model_revision,
        "lane": measure and measure.lane,
        "pixels": measure and measure.pixels,
        "lattice_pixels": measure and measure.lattice_pixels,
        "est_gpu_seconds": measure and measure.est_gpu_seconds,
        "scheduled_at": new_job.start_at,
        "start_by": new_job.start_by,
        "finish_by": new_job.finish_by,
    }
