"""The end of a sealed submission, decided and told once per generation."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.database import read_in_order
from twofold_schema.job import JOB_COLUMNS, Job
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import JobState

#: Lower than every id.
_BEFORE_ALL = UUID(int=0)

# Sealed submissions that have not ended, oldest first.
_SEALED = text("""
    SELECT id, generation FROM submissions
    WHERE finished_at IS NULL AND sealed_at IS NOT NULL
      AND (CAST(:after AS uuid) IS NULL OR id > :after)
    ORDER BY id LIMIT :limit
""")

# Below, a submission's jobs are a range, not an equality: then the order is that of one index only.
# With an equality the planner may walk through the jobs of everybody in the order of their ids.

# The first job of a page that has not ended, and the last of the page. A page, because whoever
# comes to a million jobs that have ended must not look through them in one statement. What is in
# the history has ended.
_LOOK_ON = text("""
    WITH page AS (
        SELECT id, finished_at FROM jobs
        WHERE (submission_id, id) > (CAST(:id AS uuid), CAST(:after AS uuid))
          AND submission_id <= :id
        ORDER BY submission_id, id LIMIT :limit
    )
    SELECT (SELECT id FROM page WHERE finished_at IS NULL ORDER BY id LIMIT 1) AS unfinished,
           (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last
""")

# A page of a submission's jobs, in the order in which they were submitted.
_JOBS = text(f"""
    SELECT {JOB_COLUMNS} FROM {ALL_JOBS} AS jobs
    WHERE (submission_id, id) > (CAST(:id AS uuid), CAST(:after AS uuid)) AND submission_id <= :id
    ORDER BY submission_id, id LIMIT :limit
""")  # noqa: S608 - built from constants of this package

# One process at a time writes the manifests of a submission. Its transaction may wait for storage,
# and touches no table: whoever would change one then would wait as long, and everybody behind him.
_HOLD_END = text("""
    SELECT pg_try_advisory_xact_lock(hashtextextended('twofold.end.' || :id, 0)),
           set_config('idle_in_transaction_session_timeout', :milliseconds, true)
""")

# Whether a generation has not ended, and no other has begun.
_HAS_NO_END = text("""
    SELECT EXISTS (SELECT FROM submissions
                   WHERE id = :id AND generation = :generation AND finished_at IS NULL)
""")

# Ends a generation whose jobs have all ended, and notes down for the endpoints of its tenant that
# it has. A retry since then would have begun another one.
_FINISH = text("""
    WITH ended AS (
        UPDATE submissions
        SET finished_at = clock_timestamp(), results = :results, errors = :errors,
            counts = CAST(:counts AS jsonb)
        WHERE id = :id AND generation = :generation
          AND sealed_at IS NOT NULL AND finished_at IS NULL
        RETURNING id, tenant, key, generation, webhook_id, finished_at, counts, results, errors
    ), told AS (
        INSERT INTO deliveries (webhook_id, tenant, type, submission_id, body)
        SELECT webhooks.id, ended.tenant, 'submission.finished', ended.id,
               CAST(json_build_object(
                   'type', 'submission.finished',
                   'timestamp', to_char(finished_at AT TIME ZONE 'UTC',
                                        'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                   'data', json_build_object(
                       'submission_id', ended.id,
                       'generation', generation,
                       'tenant', ended.tenant,
                       'key', key,
                       'counts', counts,
                       'results_uri', results,
                       'errors_uri', errors)) AS text)
        FROM ended JOIN webhooks ON webhooks.tenant = ended.tenant
        WHERE disabled_at IS NULL AND (everything OR webhooks.id = ended.webhook_id)
          AND (events IS NULL OR 'submission.finished' = ANY(events))
    )
    SELECT EXISTS (SELECT FROM ended)
""")

# Leaves a generation whose manifests' names are taken by something else.
_SKIP_GENERATION = text("""
    UPDATE submissions SET generation = generation + 1
    WHERE id = :id AND generation = :generation AND finished_at IS NULL
""")


@dataclass(frozen=True, slots=True)
class Look:
    """A page of a submission's jobs.

    Attributes:
        unfinished: The first that has not ended.
        last: The last; None where the page is empty.
    """

    unfinished: UUID | None
    last: UUID | None


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation of a sealed submission that has not ended."""

    id: UUID
    generation: int


def sealed(connection: Connection, *, after: UUID | None, limit: int) -> list[Generation]:
    """A page of the sealed submissions that have not ended, oldest first."""
    rows = connection.execute(_SEALED, {"after": after, "limit": limit})
    return [Generation(row.id, row.generation) for row in rows]


def look_on(connection: Connection, submission_id: UUID, *, after: UUID | None, limit: int) -> Look:
    """Look for a job that has not ended among the next ones of a submission."""
    parameters = {"id": submission_id, "after": after or _BEFORE_ALL, "limit": limit}
    row = connection.execute(_LOOK_ON, parameters).one()
    return Look(row.unfinished, row.last)


def jobs_of(connection: Connection, submission_id: UUID, *, page: int) -> Iterator[Job]:
    """A submission's jobs in the order in which they were submitted, read `page` at a time.

    Args:
        connection: In a transaction of its own.
        submission_id: Of the submission.
        page: 1 or more.
    """
    read_in_order(connection)
    after = _BEFORE_ALL
    while True:
        parameters = {"id": submission_id, "after": after, "limit": page}
        rows = connection.execute(_JOBS, parameters).mappings().all()
        yield from map(Job.from_row, rows)
        if len(rows) < page:
            return
        after = rows[-1]["id"]


def try_hold(connection: Connection, submission_id: UUID, *, idle_seconds: float) -> bool:
    """Whether this process may write the manifests of a submission until this transaction ends.

    Args:
        connection: In a transaction of its own, in which nothing else is done.
        submission_id: Of the submission.
        idle_seconds: How long the transaction may wait for storage before the database ends it.
    """
    parameters = {"id": str(submission_id), "milliseconds": str(round(1000 * idle_seconds))}
    return bool(connection.execute(_HOLD_END, parameters).scalar_one())


def has_no_end(connection: Connection, generation: Generation) -> bool:
    """Whether a generation has not ended, and no other has begun since."""
    parameters = {"id": generation.id, "generation": generation.generation}
    return bool(connection.execute(_HAS_NO_END, parameters).scalar_one())


def finish(
    connection: Connection,
    generation: Generation,
    *,
    results: str,
    errors: str,
    counts: Mapping[JobState, int],
) -> bool:
    """End a generation; False where a retry has begun another one since.

    Args:
        connection: In a transaction.
        generation: All of whose jobs have ended.
        results: The URI of the manifest of those that succeeded.
        errors: The URI of the manifest of the others.
        counts: How many jobs ended in each state.
    """
    parameters = {
        "id": generation.id,
        "generation": generation.generation,
        "results": results,
        "errors": errors,
        "counts": json.dumps(counts),
    }
    return bool(connection.execute(_FINISH, parameters).scalar_one())


def skip_generation(connection: Connection, generation: Generation) -> None:
    """Leave a generation whose manifests cannot be written: something else has their names."""
    parameters = {"id": generation.id, "generation": generation.generation}
    connection.execute(_SKIP_GENERATION, parameters)
