"""The life of a submission: begun, joined, sealed; its end is decided in `generations`."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from twofold_schema.database import read_in_order
from twofold_schema.errors import SubmissionNotFound
from twofold_schema.ids import new_id
from twofold_schema.job import DEFAULT_TENANT
from twofold_schema.ledger import webhooks
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import JobState
from twofold_schema.submission import SubmissionReport

# Takes a submission's key if it is free or forgotten. A transaction still open is waited for.
_RESERVE_KEY = text("""
    INSERT INTO submission_keys AS held (tenant, key, submission_id, expires_at)
    VALUES (:tenant, :key, :id, clock_timestamp() + :remember)
    ON CONFLICT (tenant, key) DO UPDATE
    SET submission_id = excluded.submission_id, expires_at = excluded.expires_at
    WHERE held.expires_at <= clock_timestamp()
""")

_KEY_HOLDER = text("""
    SELECT submission_id FROM submission_keys WHERE tenant = :tenant AND key = :key
""")

# Begins a submission, unless the same call did so before.
_BEGIN = text("""
    INSERT INTO submissions (id, tenant, key, webhook_id) VALUES (:id, :tenant, :key, :webhook)
    ON CONFLICT (id) DO NOTHING
""")


def _join(turn: str, lock: str) -> TextClause:
    """Whether a submission is sealed, with a lock of its row until this transaction ends.

    An advisory lock comes before it, which is given in turn: those that share a row's lock pass by
    whoever waits for a stronger one, and with several at it all the time that one would wait until
    all of them are done.
    """
    return text(f"""
        SELECT sealed_at IS NOT NULL
        FROM (SELECT {turn}(hashtextextended('twofold.join.' || :id, 0))) AS turn, submissions
        WHERE id = CAST(:id AS uuid) FOR {lock} OF submissions
    """)  # noqa: S608 - built from constants of this module


# Nobody seals it before this transaction ends.
_JOIN = _join("pg_advisory_xact_lock_shared", "SHARE")

# For whoever will seal it: two that share it would wait for each other.
_JOIN_TO_SEAL = _join("pg_advisory_xact_lock", "NO KEY UPDATE")

# As those that will seal it, by whoever gives ended jobs of submissions work again.
_TURNS = text("""
    SELECT pg_advisory_xact_lock(hashtextextended('twofold.join.' || id, 0))
    FROM (SELECT id FROM unnest(CAST(:ids AS text[])) AS id ORDER BY id) AS sorted
""")

# Says that a submission gets no more jobs.
_SEAL = text("""
    UPDATE submissions SET sealed_at = clock_timestamp() WHERE id = :id AND sealed_at IS NULL
""")

# Seals submissions that nobody added to for long: their producers died. Their last job says when;
# those that somebody adds to right now are locked. A submission's jobs are a range here, not an
# equality: then the order is that of one index only; else the planner may walk through the jobs
# of everybody in the order of their ids.
_SEAL_ABANDONED = text(f"""
    WITH abandoned AS (
        SELECT id FROM submissions
        WHERE sealed_at IS NULL AND finished_at IS NULL
          AND created_at <= clock_timestamp() - :age
          AND coalesce((
              SELECT jobs.created_at FROM {ALL_JOBS} AS jobs
              WHERE jobs.submission_id >= submissions.id AND jobs.submission_id <= submissions.id
              ORDER BY jobs.submission_id DESC, jobs.id DESC LIMIT 1
          ) <= clock_timestamp() - :age, true)
        ORDER BY id LIMIT :rows FOR UPDATE SKIP LOCKED
    )
    UPDATE submissions SET sealed_at = clock_timestamp()
    WHERE id = ANY(ARRAY(SELECT id FROM abandoned)) AND sealed_at IS NULL
""")  # noqa: S608 - built from a constant of this package

_GET = text("""
    SELECT id, tenant, key, generation, created_at, sealed_at, finished_at, counts, results, errors
    FROM submissions WHERE id = :id AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
""")

# Which of these have not ended.
_UNFINISHED = text("""
    SELECT id FROM submissions WHERE id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NULL
""")

# How many jobs are in each state: looks at all of them.
_COUNT = text(f"""
    SELECT state, count(*) AS jobs FROM {ALL_JOBS} AS jobs
    WHERE submission_id = :id GROUP BY state
""")  # noqa: S608 - built from a constant of this package


def begin(
    connection: Connection,
    *,
    submission_id: UUID | None = None,
    tenant: str = DEFAULT_TENANT,
    key: str | None = None,
    webhook: UUID | None = None,
    remember_key: timedelta = timedelta(days=30),
) -> UUID:
    """Begin a submission, or go on with the one that has this key; it takes jobs until sealed.

    Args:
        connection: In a transaction.
        submission_id: A fresh one: the same call repeated begins nothing twice.
        tenant: Whose it is.
        key: The caller's own name for it.
        webhook: The tenant's endpoint that is told of its end, whatever else is.
        remember_key: How long that is held.

    Returns:
        The submission's id, which is another one where the key is held; that keeps its endpoint.

    Raises:
        InvalidParameter: The tenant has no such endpoint.
    """
    if webhook is not None and webhooks.tenants(connection, [webhook]).get(webhook) != tenant:
        raise webhooks.unknown(tenant, webhook)
    submission_id = submission_id or new_id()
    named = {"id": submission_id, "tenant": tenant, "key": key, "webhook": webhook}
    if key is not None:
        connection.execute(_RESERVE_KEY, named | {"remember": remember_key})
        holder: UUID = connection.execute(_KEY_HOLDER, named).scalar_one()
        if holder != submission_id:
            return holder
    connection.execute(_BEGIN, named)
    return submission_id


def join(connection: Connection, submission_id: UUID, *, to_seal: bool = False) -> bool:
    """Whether a submission takes more jobs; if so, it does until this transaction ends.

    Args:
        connection: In a transaction.
        submission_id: Of the submission.
        to_seal: Whether this transaction will seal it.

    Raises:
        SubmissionNotFound: No submission has this id.
    """
    statement = _JOIN_TO_SEAL if to_seal else _JOIN
    sealed = connection.execute(statement, {"id": str(submission_id)}).scalar_one_or_none()
    if sealed is None:
        raise SubmissionNotFound(f"No submission has the id {submission_id}.")
    return not sealed


def take_turns(connection: Connection, submission_ids: Collection[UUID]) -> None:
    """Wait until nobody adds jobs to these submissions; nobody does until this transaction ends."""
    connection.execute(_TURNS, {"ids": [str(one) for one in submission_ids]})


def seal(connection: Connection, submission_id: UUID) -> None:
    """Say that a submission is complete. Safe to repeat."""
    connection.execute(_SEAL, {"id": submission_id})


def seal_abandoned(connection: Connection, *, age: timedelta, rows: int = 1000) -> int:
    """Seal submissions that nobody added to for so long; returns how many.

    Args:
        connection: In a transaction of its own.
        age: Since the last job was added.
        rows: The most that are sealed.
    """
    read_in_order(connection)
    return connection.execute(_SEAL_ABANDONED, {"age": age, "rows": rows}).rowcount


def unfinished(connection: Connection, submission_ids: Collection[UUID]) -> set[UUID]:
    """The ids among these of submissions that have not ended."""
    return set(connection.execute(_UNFINISHED, {"ids": list(submission_ids)}).scalars())


def report(
    connection: Connection, submission_id: UUID, *, tenant: str | None = None
) -> SubmissionReport:
    """How far a submission is. Counts its jobs one by one unless it has ended.

    Args:
        connection: Of the database.
        submission_id: Of the submission.
        tenant: Whose it has to be; None for whosoever.

    Raises:
        SubmissionNotFound: No submission of theirs has this id.
    """
    found = get(connection, submission_id, tenant=tenant)
    if found.finished_at is None:
        return replace(found, counts=count(connection, submission_id))
    return found


def get(
    connection: Connection, submission_id: UUID, *, tenant: str | None = None
) -> SubmissionReport:
    """A submission as its row has it: with counts only if it has ended.

    Args:
        connection: Of the database.
        submission_id: Of the submission.
        tenant: Whose it has to be; None for whosoever.

    Raises:
        SubmissionNotFound: No submission of theirs has this id.
    """
    row = connection.execute(_GET, {"id": submission_id, "tenant": tenant}).one_or_none()
    if row is None:
        raise SubmissionNotFound(f"No submission has the id {submission_id}.")
    counts = row.counts if row.finished_at else {}
    return SubmissionReport(
        id=row.id,
        tenant=row.tenant,
        key=row.key,
        generation=row.generation,
        created_at=row.created_at,
        sealed_at=row.sealed_at,
        finished_at=row.finished_at,
        counts=MappingProxyType({JobState(state): number for state, number in counts.items()}),
        results=row.results,
        errors=row.errors,
    )


def count(connection: Connection, submission_id: UUID) -> Mapping[JobState, int]:
    """How many of a submission's jobs are in each state: looks at all of them."""
    counted = connection.execute(_COUNT, {"id": submission_id})
    return MappingProxyType({JobState(entry.state): entry.jobs for entry in counted})
