"""Writes new jobs: one or thousands, each once per key."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import compress
from typing import Self
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import (
    InvalidParameter,
    KeyReused,
    QueueFull,
    SubmissionSealed,
)
from twofold_schema.ids import PackedId, new_packed_id
from twofold_schema.ledger import copying, keys, tallies, webhooks
from twofold_schema.ledger.new_jobs import Accepted, NewJob, Written

# By whose clock jobs are queued and keys forgotten, and which of the tenants have a quota.
_CLOCK = text("""
    SELECT clock_timestamp() AS now, clock_timestamp() + :remember AS expires_at,
           (SELECT jsonb_object_agg(tenant, max_queued) FROM tenants
            WHERE tenant = ANY(CAST(:tenants AS text[])) AND max_queued IS NOT NULL) AS quotas
""")

# Whether any of these jobs was written.
_WRITTEN = text("SELECT EXISTS (SELECT FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])))")


def insert_jobs(
    connection: Connection,
    new_jobs: Sequence[NewJob],
    *,
    submission_id: UUID | None = None,
    remember_keys: timedelta = timedelta(days=30),
) -> list[Accepted]:
    """Write jobs, all or none, each once per key.

    Args:
        connection: In a transaction.
        new_jobs: What to write.
        submission_id: Of all of them; this transaction has joined it.
        remember_keys: How long keys are held.

    Returns:
        One answer per job, in order.

    Raises:
        KeyReused: A key belongs to a job with another payload; the caller must roll back.
        QueueFull: As of `insert_each`.
        InvalidParameter: A job names an endpoint that its tenant does not have; the same.
    """
    written = insert_each(
        connection,
        new_jobs,
        job_ids=[new_packed_id() for _ in new_jobs],
        submission_id=submission_id,
        remember_keys=remember_keys,
    )
    for fault in written.faults.values():
        raise fault
    return [
        Accepted(UUID(bytes=job_id), bool(created))
        for job_id, created in zip(written.job_ids, written.created, strict=True)
    ]


def insert_each(
    connection: Connection,
    new_jobs: Sequence[NewJob],
    *,
    job_ids: Sequence[PackedId],
    submission_id: UUID | None = None,
    remember_keys: timedelta = timedelta(days=30),
    sealed: bool = False,
    likely_new: bool = False,
    again: bool = False,
) -> Written:
    """Write jobs, each once per key; one that cannot be written does not stop the others.

    That is one whose key is taken, or that names an endpoint which its tenant does not have.

    Args:
        connection: In a transaction.
        new_jobs: What to write.
        job_ids: As many, fresh: those of the jobs that are new.
        submission_id: Of all of them; this transaction has joined it.
        remember_keys: How long keys are held.
        sealed: Whether the submission takes no more jobs: then all have to be known.
        likely_new: Their keys are believed to be free: a matter of speed only.
        again: Whether the same call was made before and its commit may have been what was lost.

    Returns:
        What came of each, faults in the order of their places.

    Raises:
        SubmissionSealed: One of the jobs is new, and the submission is sealed.
        QueueFull: With those that are new a tenant would have more jobs waiting than it may; the
            caller must roll back. What others submit at this moment is not counted.
    """
    strays = _strays(connection, new_jobs)
    if strays:
        good = [at for at in range(len(new_jobs)) if at not in strays]
        written = insert_each(
            connection,
            [new_jobs[at] for at in good],
            job_ids=[job_ids[at] for at in good],
            submission_id=submission_id,
            remember_keys=remember_keys,
            sealed=sealed,
            likely_new=likely_new,
            again=again,
        )
        return _among(written, good, job_ids, strays)
    proposed = _Proposed.of(new_jobs, job_ids)
    if again and _any_written(connection, job_ids):
        return proposed.beside(keys.holders(connection, proposed.first))
    if sealed:
        held = keys.holders(connection, proposed.first)
        if len(held) < len(proposed.first) or any(new_job.key is None for new_job in new_jobs):
            raise SubmissionSealed(
                f"The submission {submission_id} is sealed, and not all of these jobs are its own; "
                "submit them under another key, or under none."
            )
        return proposed.beside(held)
    tenants = list({new_job.terms.tenant for new_job in new_jobs})
    clock = connection.execute(_CLOCK, {"remember": remember_keys, "tenants": tenants}).one()
    others = keys.hold(
        connection,
        proposed.first,
        proposed.holder,
        expires_at=clock.expires_at,
        likely_free=likely_new,
    )
    written = proposed.beside(others)
    if any(written.created):
        if clock.quotas:
            new = Counter(new_job.terms.tenant for new_job in compress(new_jobs, written.created))
            _check_room(new, clock.quotas, tallies.waiting(connection, clock.quotas))
        created = compress(zip(job_ids, new_jobs, strict=True), written.created)
        copying.copy_jobs(connection, created, submission_id=submission_id, now=clock.now)
    return replace(written, limited=bool(clock.quotas)) if new_jobs else written


@dataclass(frozen=True, slots=True)
class _Proposed:
    """Jobs that may be written, their ids and digests, and the first place of each key."""

    new_jobs: Sequence[NewJob]
    job_ids: Sequence[PackedId]
    digests: Sequence[bytes]
    first: Mapping[keys.TenantKey, int]

    @classmethod
    def of(cls, new_jobs: Sequence[NewJob], job_ids: Sequence[PackedId]) -> Self:
        digests = [b"" if new_job.key is None else new_job.fingerprint() for new_job in new_jobs]
        first: dict[keys.TenantKey, int] = {}
        for at, new_job in enumerate(new_jobs):
            if new_job.key is not None:
                first.setdefault((new_job.terms.tenant, new_job.key), at)
        return cls(new_jobs, job_ids, digests, first)

    def holder(self, key: keys.TenantKey) -> keys.Holder:
        """Who holds a key if nobody else does."""
        at = self.first[key]
        return self.job_ids[at], self.digests[at]

    def beside(self, others: Mapping[keys.TenantKey, keys.Holder]) -> Written:
        """What comes of them while others hold these keys."""
        ids, created = list(self.job_ids), bytearray(b"\1" * len(self.job_ids))
        faults: dict[int, KeyReused | InvalidParameter] = {}
        if not others and len(self.first) == len(self.new_jobs):
            return Written(job_ids=ids, created=created, faults=faults)
        for at, new_job in enumerate(self.new_jobs):
            if new_job.key is None:
                continue
            key = new_job.terms.tenant, new_job.key
            holder_id, asked = others.get(key) or self.holder(key)
            if asked != self.digests[at]:
                created[at] = False
                faults[at] = KeyReused(
                    f"The key {new_job.key!r} belongs to job {UUID(bytes=holder_id)}, which asks "
                    "for something else; use a new key for a new job."
                )
            elif holder_id != ids[at]:
                ids[at], created[at] = holder_id, False
        return Written(job_ids=ids, created=created, faults=faults)


def _any_written(connection: Connection, job_ids: Sequence[PackedId]) -> bool:
    ids = [job_id.hex() for job_id in job_ids]
    return bool(connection.execute(_WRITTEN, {"ids": ids}).scalar_one())


def _check_room(
    new: Mapping[str, int], quotas: Mapping[str, int], waiting: Mapping[str, int]
) -> None:
    for tenant, jobs in new.items():
        most, there = quotas.get(tenant), waiting.get(tenant, 0)
        if most is not None and there + jobs > most:
            raise QueueFull(
                f"The tenant {tenant} has {there} jobs waiting and may have {most}; {jobs} more do "
                "not fit. Submit them when some have begun, or fewer at once."
            )


def _strays(connection: Connection, new_jobs: Sequence[NewJob]) -> dict[int, InvalidParameter]:
    """What is wrong with jobs that name another tenant's endpoint or none that is, by place."""
    named = {webhook for new_job in new_jobs if (webhook := new_job.terms.webhook)}
    if not named:
        return {}
    tenants = webhooks.tenants(connection, named)
    return {
        at: webhooks.unknown(terms.tenant, terms.webhook)
        for at, terms in enumerate(new_job.terms for new_job in new_jobs)
        if terms.webhook and tenants.get(terms.webhook) != terms.tenant
    }


def _among(
    written: Written,
    places: Sequence[int],
    job_ids: Sequence[PackedId],
    strays: Mapping[int, InvalidParameter],
) -> Written:
    """The same of some jobs among others that are strays."""
    ids, created = list(job_ids), bytearray(len(job_ids))
    for at, job_id, is_new in zip(places, written.job_ids, written.created, strict=True):
        ids[at], created[at] = job_id, is_new
    faults = {places[at]: fault for at, fault in written.faults.items()} | dict(strays)
    return replace(written, job_ids=ids, created=created, faults=dict(sorted(faults.items())))
