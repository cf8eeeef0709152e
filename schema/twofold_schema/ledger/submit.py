"""Writes new jobs: one or thousands, each once per key."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import (
    InvalidParameter,
    KeyReused,
    QueueFull,
    SubmissionSealed,
    SubmitError,
)
from twofold_schema.ids import new_id
from twofold_schema.ledger import copying, keys, tallies, webhooks
from twofold_schema.ledger.new_jobs import Accepted, NewJob

#: What comes of one job of several.
Answer: TypeAlias = Accepted | KeyReused | InvalidParameter

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
    answers = insert_each(
        connection,
        new_jobs,
        job_ids=[new_id() for _ in new_jobs],
        submission_id=submission_id,
        remember_keys=remember_keys,
    )
    accepted = []
    for answer in answers:
        if isinstance(answer, SubmitError):
            raise answer
        accepted.append(answer)
    return accepted


def insert_each(
    connection: Connection,
    new_jobs: Sequence[NewJob],
    *,
    job_ids: Sequence[UUID],
    submission_id: UUID | None = None,
    remember_keys: timedelta = timedelta(days=30),
    sealed: bool = False,
    likely_new: bool = False,
    again: bool = False,
) -> list[Answer]:
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
        One answer per job, in order.

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
        by_place: dict[int, Answer] = {**strays, **dict(zip(good, written, strict=True))}
        return [by_place[at] for at in range(len(new_jobs))]
    digests = (b"" if new_job.key is None else new_job.fingerprint() for new_job in new_jobs)
    proposals = list(zip(job_ids, new_jobs, digests, strict=True))
    first: dict[keys.TenantKey, keys.Holder] = {}
    for job_id, new_job, fingerprint in proposals:
        if new_job.key is not None:
            first.setdefault((new_job.terms.tenant, new_job.key), (job_id, fingerprint))
    if again and connection.execute(_WRITTEN, {"ids": list(job_ids)}).scalar_one():
        return _answers(proposals, keys.holders(connection, first))
    if sealed:
        held = keys.holders(connection, first)
        if len(held) < len(first) or any(new_job.key is None for new_job in new_jobs):
            raise SubmissionSealed(
                f"The submission {submission_id} is sealed, and not all of these jobs are its own; "
                "submit them under another key, or under none."
            )
        return _answers(proposals, held)
    tenants = list({new_job.terms.tenant for new_job in new_jobs})
    clock = connection.execute(_CLOCK, {"remember": remember_keys, "tenants": tenants}).one()
    held = keys.hold(connection, first, expires_at=clock.expires_at, likely_free=likely_new)
    answers = _answers(proposals, held)
    created = [
        (job_id, new_job)
        for job_id, new_job, answer in zip(job_ids, new_jobs, answers, strict=True)
        if isinstance(answer, Accepted) and answer.created
    ]
    if created:
        if clock.quotas:
            new = Counter(new_job.terms.tenant for _, new_job in created)
            _check_room(new, clock.quotas, tallies.waiting(connection, clock.quotas))
        copying.copy_jobs(connection, created, submission_id=submission_id, now=clock.now)
    return answers


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


def _answers(
    proposals: Iterable[tuple[UUID, NewJob, bytes]], held: Mapping[keys.TenantKey, keys.Holder]
) -> list[Answer]:
    answers: list[Answer] = []
    for job_id, new_job, fingerprint in proposals:
        if new_job.key is None:
            answers.append(Accepted(job_id, created=True))
            continue
        # A key may have been forgotten since, where this is a repeat.
        holder_id, asked = held.get((new_job.terms.tenant, new_job.key), (job_id, fingerprint))
        if asked == fingerprint:
            is_new = holder_id is job_id or holder_id == job_id
            answers.append(Accepted(holder_id, is_new))
        else:
            answers.append(
                KeyReused(
                    f"The key {new_job.key!r} belongs to job {holder_id}, which asks for something "
                    "else; use a new key for a new job."
                )
            )
    return answers
