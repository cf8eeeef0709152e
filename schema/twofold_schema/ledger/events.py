"""What happened to jobs: a row per change of state, in an order that never changes.

Triggers of `jobs` write the rows, in the transaction that changes the state. Transactions commit in
another order than they write, so the stream is in the order of transactions, and is read only up to
the oldest one that is still open: nothing is ever added before a place that was read. A transaction
that is left open holds the stream up, in any database of the server; it never makes it skip.

Of one job, the event with the greatest `number` is the latest. Nearly always the stream has them in
that order; a transaction that began to write, and changed the job only after a younger one had,
comes first all the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import UUID

from sqlalchemy import Connection, text

from twofold_schema.errors import InvalidPosition
from twofold_schema.states import JobClass, JobState

_ENCODED = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the stream.

    Attributes:
        xid: The transaction's number.
        number: The event's own; rises with every event that is written.
    """

    xid: int
    number: int

    def __str__(self) -> str:
        """A short text that `parse` takes, as for `Last-Event-ID`."""
        return f"{self.xid:x}-{self.number:x}"

    @classmethod
    def parse(cls, encoded: str) -> Self:
        """What `str` gave.

        Raises:
            InvalidPosition: It is something else.
        """
        found = _ENCODED.fullmatch(encoded)
        if found is None:
            raise InvalidPosition
        xid, number = (int(part, 16) for part in found.groups())
        if max(xid, number) > _LARGEST:
            raise InvalidPosition
        return cls(xid, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A job changed its state.

    Attributes:
        at: When, by the database's clock.
        fence: Of its latest claim then; 0 for none.
        run_id: Of the run that took it, or that had it until now; None if no run had to do with it.
        left_state: The state before; None if the job is new.
        seconds: How long it was queued or running before; None where it was neither.
        error: The code of the error that ended its claim; None for none.
    """

    position: Position
    at: datetime
    job_id: UUID
    submission_id: UUID | None
    tenant: str
    job_class: JobClass
    generation: int
    fence: int
    run_id: UUID | None
    left_state: JobState | None
    state: JobState
    seconds: float | None
    error: str | None


# The next events of those that no open transaction can come before.
_READ = text("""
    SELECT xid, position, at, job_id, submission_id, tenant, job_class, generation, fence, run_id,
           left_state, state, seconds, error
    FROM events
    WHERE (xid, position) > (:xid, :position)
      AND xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
      AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)
      AND (CAST(:submission_id AS uuid) IS NULL OR submission_id = :submission_id)
      AND (CAST(:job_id AS uuid) IS NULL OR job_id = :job_id)
    ORDER BY xid, position
    LIMIT :limit
""")

# Whether an event is there.
_IS_KEPT = text("SELECT EXISTS (SELECT FROM events WHERE (xid, position) = (:xid, :position))")

# Before everything that is not in the stream yet.
_END = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")


def read(
    connection: Connection,
    after: Position | None = None,
    *,
    limit: int,
    tenant: str | None = None,
    submission_id: UUID | None = None,
    job_id: UUID | None = None,
) -> Sequence[Event]:
    """The next events, in the order of the stream; none if there are no more yet.

    Args:
        connection: Of the database.
        after: The last position that was read; None for the oldest event that is kept.
        limit: 1 or more.
        tenant: Only of this tenant. What does not match is read and passed over, here and below: a
            filter is for following the stream, from `end` on.
        submission_id: Only of this submission.
        job_id: Only of this job.
    """
    start = after or Position(0, 0)
    rows = connection.execute(
        _READ,
        {
            "xid": start.xid,
            "position": start.number,
            "tenant": tenant,
            "submission_id": submission_id,
            "job_id": job_id,
            "limit": limit,
        },
    )
    return [
        Event(
            position=Position(row.xid, row.position),
            at=row.at,
            job_id=row.job_id,
            submission_id=row.submission_id,
            tenant=row.tenant,
            job_class=list(JobClass)[row.job_class],
            generation=row.generation,
            fence=row.fence,
            run_id=row.run_id,
            left_state=row.left_state and JobState(row.left_state),
            state=JobState(row.state),
            seconds=row.seconds,
            error=row.error,
        )
        for row in rows
    ]


def is_kept(connection: Connection, position: Position) -> bool:
    """Whether the event of a position is still there."""
    of = {"xid": position.xid, "position": position.number}
    return bool(connection.execute(_IS_KEPT, of).scalar_one())


def end(connection: Connection) -> Position:
    """The end of the stream now: whoever reads after it gets only what is still to come."""
    return Position(connection.execute(_END).scalar_one(), 0)
