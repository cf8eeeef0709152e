"""Cancels and retries by filter, carried out batch by batch.

What a batch does, what it counts and how far it came are one transaction, under a lock of the
operation's row: whoever dies in between leaves an operation that another goes on with where it was.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from twofold_schema.ledger import matching, operations, requests
from twofold_schema.ledger.matching import CHANGEABLE, Bounds, Page
from twofold_schema.operation import JobFilter, OperationKind
from twofold_schema.states import CancelAnswer, JobState

log = structlog.get_logger(__name__)

#: How many jobs one batch changes.
BATCH_JOBS = 1000

# Takes the operation whose last batch is the longest ago, unless somebody is at it. One whose
# filter states what this version does not know is left to a keeper that does.
_TAKE = text("""
    SELECT id, kind, filter, created_at, last_id, cursor, counts FROM operations
    WHERE finished_at IS NULL AND kind = ANY(CAST(:kinds AS text[]))
      AND NOT EXISTS (SELECT FROM jsonb_object_keys(filter) AS stated
                      WHERE stated <> ALL(CAST(:known AS text[])))
    ORDER BY advanced_at NULLS FIRST, id LIMIT 1
    FOR UPDATE SKIP LOCKED
""")

# Leaves an operation to others until all of those have had their turn.
_PUT_OFF = text("UPDATE operations SET advanced_at = clock_timestamp() WHERE id = :id")

# Notes what a batch came to.
_ADVANCE = text("""
    UPDATE operations
    SET counts = CAST(:counts AS jsonb), cursor = coalesce(CAST(:cursor AS uuid), cursor),
        advanced_at = clock_timestamp(),
        finished_at = CASE WHEN CAST(:cursor AS uuid) IS NULL THEN clock_timestamp() END
    WHERE id = :id
""")


@dataclass(frozen=True, slots=True)
class Batch:
    """What was done of an operation.

    Attributes:
        counts: How many jobs, by what came of them.
        finished: Whether it was the last batch.
    """

    operation: UUID
    counts: Mapping[str, int]
    finished: bool

    @property
    def queued(self) -> int:
        """How many jobs wait for a run since then."""
        return self.counts.get(JobState.QUEUED, 0)


def count(connection: Connection, kind: OperationKind, where: JobFilter) -> Mapping[str, int]:
    """How many jobs a cancel or a retry would concern now, by what would come of them.

    Looks at them as the operation would, in statements of some thousand jobs, and writes nothing.

    Raises:
        InvalidOperation: As of `begin`.
    """
    operations.check(kind, where)
    within, after = matching.bounds(connection, kind, where), None
    counted = Counter[str]()
    while True:
        page = matching.look(connection, kind, where, within, after=after, most=matching.LOOK_ROWS)
        counted.update(str(_answer(kind, state)) for state in page.jobs.values())
        if page.last is None:
            return counted
        after = page.last


def advance(connection: Connection) -> Batch | None:
    """Do the next batch of an operation: each has its turn.

    One whose batch cannot be done is put off until all others have had theirs, and the log says
    why: its filter may be of a later version, or take longer than a statement may.

    Args:
        connection: In a transaction of its own.

    Returns:
        What was done; None where there is no operation to go on with, or somebody is at each, or
        where the one whose turn it is was put off.

    Raises:
        DBAPIError: The connection was lost.
    """
    known = {"kinds": list(CHANGEABLE), "known": list(JobFilter.model_fields)}
    row = connection.execute(_TAKE, known).one_or_none()
    if row is None:
        return None
    try:
        with connection.begin_nested():
            return _next_batch(connection, row)
    except (ValidationError, DBAPIError) as error:
        if connection.invalidated:
            raise
        connection.execute(_PUT_OFF, {"id": row.id})
        # With its statement it would name a thousand jobs.
        why = error.orig if isinstance(error, DBAPIError) else error
        log.warning("operation_put_off", operation_id=str(row.id), error=str(why))
        return None


def _next_batch(connection: Connection, row: Row[Any]) -> Batch:
    kind, where = OperationKind(row.kind), JobFilter.model_validate(row.filter)
    page = matching.look(
        connection,
        kind,
        where,
        Bounds(row.created_at, row.last_id),
        after=row.cursor,
        most=BATCH_JOBS,
    )
    counts = _carry_out(connection, kind, where, page)
    connection.execute(
        _ADVANCE,
        {
            "id": row.id,
            "counts": json.dumps(Counter(row.counts) + counts),
            "cursor": page.last,
        },
    )
    return Batch(row.id, counts, page.last is None)


def _carry_out(
    connection: Connection, kind: OperationKind, where: JobFilter, page: Page
) -> Counter[str]:
    if kind is OperationKind.RETRY:
        retried = requests.retry_ended(connection, list(page.jobs))
        return Counter({str(JobState.QUEUED): len(retried)})
    locked = matching.lock(connection, kind, where, page)
    return Counter(map(str, requests.cancel(connection, locked).values()))


def _answer(kind: OperationKind, state: JobState) -> str:
    if kind is OperationKind.RETRY:
        return JobState.QUEUED
    running = state is JobState.RUNNING
    return CancelAnswer.CANCELLING if running else CancelAnswer.CANCELLED
