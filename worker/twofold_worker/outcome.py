"""How a claim ends, as values, and how they are written to the ledger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection

from twofold_schema.errors import JobError, StorageUnavailable, UpscaleFailed
from twofold_schema.job import Claim, ClaimedJob, Result
from twofold_schema.ledger import outcomes

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Completed:
    """The result is stored."""

    claim: Claim
    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended in an error, which knows whether another one may help."""

    claim: Claim
    error: JobError


@dataclass(frozen=True, slots=True)
class Released:
    """The claim ends without an answer: called off, handed back, or of another lane."""

    claim: Claim


Outcome: TypeAlias = Completed | Failed | Released

#: Writes outcomes of one kind, by one statement.
Record: TypeAlias = Callable[[Connection], list[outcomes.Settled]]


def attempt(job: ClaimedJob, verb: Callable[[ClaimedJob], Answer]) -> Answer | Failed:
    """Do one thing for one job; the one place where what goes wrong becomes an outcome."""
    try:
        return verb(job)
    except JobError as error:
        return Failed(job.claim, error)
    except Exception as error:
        log.exception("surprise", job_id=str(job.id))
        return Failed(job.claim, UpscaleFailed(f"The worker failed: {error!r}"))


def is_unanswered(ended: object) -> bool:
    """Whether it failed for want of an answer from storage."""
    return isinstance(ended, Failed) and isinstance(ended.error, StorageUnavailable)


def records(run_id: UUID, ended: Sequence[Outcome]) -> list[Record]:
    """What to write for outcomes of all kinds.

    Each statement locks its rows in the order of their ids; two in one transaction would not.
    """
    completed = {o.claim: o.result for o in ended if isinstance(o, Completed)}
    failed = {o.claim: o.error for o in ended if isinstance(o, Failed)}
    final = {claim: error for claim, error in failed.items() if not error.retryable}
    again = {claim: error for claim, error in failed.items() if error.retryable}
    released = [o.claim for o in ended if isinstance(o, Released)]
    wanted: list[tuple[object, Record]] = [
        (completed, lambda connection: outcomes.complete(connection, run_id, completed)),
        (final, lambda connection: outcomes.fail(connection, run_id, final)),
        (again, lambda connection: outcomes.retry_later(connection, run_id, again)),
        (released, lambda connection: outcomes.release(connection, run_id, released)),
    ]
    return [record for concerned, record in wanted if concerned]
