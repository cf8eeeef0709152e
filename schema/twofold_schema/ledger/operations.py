"""What was asked for that concerns many jobs: who, why, and how far it is.

A cancel or a retry by filter is a row that a keeper carries out, batch by batch. What a batch does,
what it counts and how far it came are one transaction, under a lock of the row: whoever dies in
between leaves an operation that another goes on with where it was. Pauses and shares are done at
once and leave a row as well, so that there is one place that says who did what.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import InvalidOperation, OperationNotFound
from twofold_schema.ids import new_id
from twofold_schema.ledger import matching, requests
from twofold_schema.ledger.matching import CHANGEABLE, Bounds, Page
from twofold_schema.ledger.requests import CancelAnswer
from twofold_schema.operation import JobFilter, Operation, OperationKind
from twofold_schema.states import JobState

#: How many jobs one batch changes.
BATCH_JOBS = 1000

# Writes an operation down; one that is not bound to a moment has been done.
_INSERT = text("""
    INSERT INTO operations (id, kind, filter, change, who, reason, expected, last_id, created_at,
                            finished_at)
    VALUES (:id, :kind, CAST(:filter AS jsonb), CAST(:change AS jsonb), :who, :reason, :expected,
            :last_id, coalesce(CAST(:asked_at AS timestamptz), clock_timestamp()),
            CASE WHEN CAST(:asked_at AS timestamptz) IS NULL THEN clock_timestamp() END)
    RETURNING *
""")

_GET = text("SELECT * FROM operations WHERE id = :id")

# Newest first; ids are in order of time.
_FIND = text("""
    SELECT * FROM operations
    WHERE (CAST(:kinds AS text[]) IS NULL OR kind = ANY(CAST(:kinds AS text[])))
      AND (NOT :unfinished OR finished_at IS NULL)
      AND (CAST(:before AS uuid) IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
""")

# Ends an operation whose batch, if one is under way, has committed.
_STOP = text("""
    UPDATE operations SET finished_at = clock_timestamp(), stopped_by = :who
    WHERE id = :id AND finished_at IS NULL
""")

# Takes the operation whose last batch is the longest ago, unless somebody is at it. One whose
# filter states what this version does not know is left to a keeper that does.
_TAKE = text("""
    SELECT * FROM operations
    WHERE finished_at IS NULL AND kind = ANY(CAST(:kinds AS text[]))
      AND NOT EXISTS (SELECT FROM jsonb_object_keys(filter) AS stated
                      WHERE stated <> ALL(CAST(:known AS text[])))
    ORDER BY advanced_at NULLS FIRST, id LIMIT 1
    FOR UPDATE SKIP LOCKED
""")

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


def begin(
    connection: Connection,
    kind: OperationKind,
    where: JobFilter,
    *,
    reason: str,
    who: str,
    expected: int | None = None,
) -> Operation:
    """Ask for a cancel or a retry of all jobs that match and were submitted before.

    Args:
        connection: Whose transaction ends soon after: jobs that are submitted until then are not
            touched either.
        kind: Cancel or retry.
        where: Which jobs.
        reason: Why, for people.
        who: Asks for it.
        expected: How many there are, if they were counted.

    Raises:
        InvalidOperation: The filter states nothing, or what no such job can be.
    """
    _check(kind, where, reason=reason)
    within = matching.bounds(connection, kind, where)
    return _insert(
        connection, kind, where, reason=reason, who=who, within=within, expected=expected
    )


def note(
    connection: Connection,
    kind: OperationKind,
    where: JobFilter,
    *,
    reason: str,
    who: str,
    change: Mapping[str, Any] | None = None,
) -> None:
    """Write down what this transaction has done.

    Args:
        connection: In whose transaction it was done.
        kind: Pause, resume or share.
        where: Its scope.
        reason: Why, for people.
        who: Did it.
        change: What a share was set to.
    """
    _insert(connection, kind, where, reason=reason, who=who, change=change)


def get(connection: Connection, operation_id: UUID) -> Operation:
    """One operation.

    Raises:
        OperationNotFound: None has this id.
    """
    row = connection.execute(_GET, {"id": operation_id}).mappings().one_or_none()
    if row is None:
        raise OperationNotFound(f"No operation has the id {operation_id}.")
    return Operation.from_row(row)


def find(
    connection: Connection,
    *,
    kinds: Collection[OperationKind] | None = None,
    unfinished: bool = False,
    before: UUID | None = None,
    limit: int = 50,
) -> Sequence[Operation]:
    """A page of operations, newest first.

    Args:
        connection: Of the database.
        kinds: Only these; None for all.
        unfinished: Only those that go on.
        before: The last id of the page before.
        limit: 1 or more.
    """
    parameters = {
        "kinds": None if kinds is None else list(kinds),
        "unfinished": unfinished,
        "before": before,
        "limit": limit,
    }
    return [Operation.from_row(row) for row in connection.execute(_FIND, parameters).mappings()]


def stop(connection: Connection, operation_id: UUID, *, who: str) -> Operation:
    """End an operation; what it has done stays. One that has finished stays as it is.

    Raises:
        OperationNotFound: None has this id.
    """
    connection.execute(_STOP, {"id": operation_id, "who": who})
    return get(connection, operation_id)


def count(connection: Connection, kind: OperationKind, where: JobFilter) -> Mapping[str, int]:
    """How many jobs a cancel or a retry would concern now, by what would come of them.

    Looks at them as the operation would, in statements of some thousand jobs, and writes nothing.

    Raises:
        InvalidOperation: As of `begin`.
    """
    _check(kind, where)
    within, after = matching.bounds(connection, kind, where), None
    counted = Counter[str]()
    while True:
        page = matching.look(connection, kind, where, within, after=after, most=matching.LOOK_ROWS)
        counted.update(_answer(kind, state) for state in page.jobs.values())
        if page.last is None:
            return counted
        after = page.last


def advance(connection: Connection) -> Batch | None:
    """Do the next batch of an operation: each has its turn.

    Args:
        connection: In a transaction of its own.

    Returns:
        What was done; None where there is no operation to go on with, or somebody is at each.
    """
    known = {"kinds": list(CHANGEABLE), "known": list(JobFilter.model_fields)}
    row = connection.execute(_TAKE, known).one_or_none()
    if row is None:
        return None
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


def _insert(
    connection: Connection,
    kind: OperationKind,
    where: JobFilter,
    *,
    reason: str,
    who: str,
    within: Bounds | None = None,
    expected: int | None = None,
    change: Mapping[str, Any] | None = None,
) -> Operation:
    if not who.strip():
        raise InvalidOperation("Say who asks for it.")
    values = {
        "id": new_id(),
        "kind": kind,
        "filter": json.dumps(where.to_json()),
        "change": change and json.dumps(change),
        "who": who,
        "reason": reason,
        "expected": expected,
        "last_id": within and within.last,
        "asked_at": within and within.asked_at,
    }
    return Operation.from_row(connection.execute(_INSERT, values).mappings().one())


def _check(kind: OperationKind, where: JobFilter, *, reason: str | None = None) -> None:
    if not where.to_json():
        raise InvalidOperation(
            f"A {kind} by filter states at least one thing, so that none means everything by "
            "accident; name all states to mean every job."
        )
    if not matching.states(kind, where):
        possible = ", ".join(CHANGEABLE[kind])
        raise InvalidOperation(f"A {kind} concerns jobs that are {possible}, and no others.")
    if reason is not None and not reason.strip():
        raise InvalidOperation("Say why, for whoever reads it later.")
