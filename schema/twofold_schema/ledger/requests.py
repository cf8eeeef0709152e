"""The owner of a job changes his mind: cancel, retry."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import JobNotRetryable
from twofold_schema.ledger import history, reads, submissions
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.ledger.reads import OF_TENANT
from twofold_schema.states import CancelAnswer, JobState

# Ends waiting jobs at once and flags running ones; final ones stay as they are. They are locked
# too, so that no retry comes between this statement and the one that reads the answers.
_CANCEL = text(f"""
    WITH asked AS (
        SELECT id, state FROM jobs
        WHERE id = ANY(CAST(:ids AS uuid[])) AND {OF_TENANT} ORDER BY id FOR UPDATE
    )
    UPDATE jobs
    SET state = CASE jobs.state WHEN 'running' THEN 'running' ELSE 'cancelled' END,
        finished_at = CASE jobs.state WHEN 'running' THEN NULL ELSE clock_timestamp() END,
        cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
    FROM asked WHERE jobs.id = asked.id AND asked.state IN ('scheduled', 'queued', 'running')
""")  # noqa: S608 - built from a constant of this package

_STATES = text(f"""
    SELECT id, state, finished_at IS NULL AND cancel_requested_at IS NULL AS goes_on
    FROM {ALL_JOBS} AS jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND {OF_TENANT}
""")  # noqa: S608 - built from constants of this package

_RETRYABLE = (JobState.FAILED, JobState.EXPIRED)

# Begins a new generation of failed and expired jobs. The fence goes on rising: writes of an old
# generation's runs stay void. What was measured of a source is forgotten with its version: another
# one may be there by now.
_RETRY = text(f"""
    WITH asked AS (
        SELECT id FROM jobs
        WHERE id = ANY(CAST(:ids AS uuid[])) AND state IN ('failed', 'expired') AND {OF_TENANT}
        ORDER BY id FOR UPDATE
    )
    UPDATE jobs
    SET state = 'queued', generation = generation + 1, queued_at = clock_timestamp(),
        run_id = NULL, attempts = 0, crashes = 0, isolation = NULL, source_version = NULL,
        lane = CASE WHEN width IS NOT NULL THEN lane END,
        pixels = CASE WHEN width IS NOT NULL THEN pixels END,
        lattice_pixels = CASE WHEN width IS NOT NULL THEN lattice_pixels END,
        est_gpu_seconds = CASE WHEN width IS NOT NULL THEN est_gpu_seconds END,
        start_by = :start_by, finish_by = :finish_by, scheduled_at = NULL,
        first_claimed_at = NULL, claimed_at = NULL, started_at = NULL,
        cancel_requested_at = NULL, finished_at = NULL
    FROM asked WHERE jobs.id = asked.id
    RETURNING jobs.id, jobs.submission_id
""")  # noqa: S608 - built from a constant of this package

# A submission that got work again after it was sealed has another end: somebody may just be at
# the manifests of this one. It is locked in any case, so that no end comes in between.
_REOPEN = text("""
    WITH reopened AS (
        SELECT id FROM submissions
        WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE submissions
    SET generation = generation + CAST(sealed_at IS NOT NULL AS integer), finished_at = NULL
    FROM reopened WHERE submissions.id = reopened.id
""")


def cancel(
    connection: Connection, job_ids: Sequence[UUID], *, tenant: str | None = None
) -> dict[UUID, CancelAnswer]:
    """Call jobs off. Safe to repeat.

    Args:
        connection: Of the database.
        job_ids: Of the jobs.
        tenant: Whose they have to be, or they are not found; None for whosoever.

    Returns:
        An answer for every id.
    """
    states: dict[UUID, str] = {}
    left = list(job_ids)
    while left:
        asked = {"ids": left, "tenant": tenant}
        connection.execute(_CANCEL, asked)
        found = connection.execute(_STATES, asked).all()
        states |= {row.id: row.state for row in found}
        # A job that was in the history, and that somebody retried between the two statements.
        left = [row.id for row in found if row.goes_on]
    return {
        job_id: CancelAnswer.CANCELLING
        if states.get(job_id) == JobState.RUNNING
        else CancelAnswer(states.get(job_id, CancelAnswer.NOT_FOUND))
        for job_id in job_ids
    }


def retry(
    connection: Connection,
    job_ids: Sequence[UUID],
    *,
    tenant: str | None = None,
    start_by: datetime | None = None,
    finish_by: datetime | None = None,
) -> None:
    """Begin a new generation of failed or expired jobs, all or none; attempts start anew.

    Args:
        connection: Whose transaction the caller rolls back on an error.
        job_ids: Of the jobs.
        tenant: Whose they have to be, or they are unknown; None for whosoever.
        start_by: The new generation's deadlines; the old ones do not carry over.
        finish_by: As `start_by`.

    Raises:
        JobNotFound: One of the ids is unknown.
        JobNotRetryable: One of the jobs has neither failed nor expired.
    """
    retried = retry_ended(
        connection, job_ids, tenant=tenant, start_by=start_by, finish_by=finish_by
    )
    refused = set(job_ids) - retried
    if refused:
        asked = {"ids": list(refused), "tenant": tenant}
        states = {row.id: row.state for row in connection.execute(_STATES, asked)}
        for job_id in sorted(refused):
            if job_id not in states:
                raise reads.not_found(job_id)
            raise JobNotRetryable(
                f"Job {job_id} is {states[job_id]}; only a failed or expired job can be retried."
            )


def retry_ended(
    connection: Connection,
    job_ids: Sequence[UUID],
    *,
    tenant: str | None = None,
    start_by: datetime | None = None,
    finish_by: datetime | None = None,
) -> set[UUID]:
    """As `retry`, of those that have failed or expired; returns their ids."""
    stated = {"tenant": tenant, "start_by": start_by, "finish_by": finish_by}
    retried = list(connection.execute(_RETRY, {"ids": list(job_ids)} | stated))
    left = set(job_ids) - {row.id for row in retried}
    # After the statement above: it has waited for whoever was moving one of them.
    back = left and history.bring_back(connection, left, states=_RETRYABLE, tenant=tenant)
    if back:
        retried += connection.execute(_RETRY, {"ids": back} | stated)
    if reopened := {row.submission_id for row in retried if row.submission_id}:
        submissions.take_turns(connection, reopened)
        connection.execute(_REOPEN, {"ids": list(reopened)})
    return {row.id for row in retried}
