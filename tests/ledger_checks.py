"""What a ledger's row must be after each step, and the ways to end a claim."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection
from tests.factories import AMPLE, result_of
from tests.ledger_model import Model, ModelJob

from twofold_schema.errors import CorruptSource, StorageUnavailable
from twofold_schema.job import Claim, Job
from twofold_schema.ledger import outcomes
from twofold_schema.states import TRANSITIONS, JobState


@dataclass(frozen=True, slots=True)
class Way:
    """A way to end claims.

    Attributes:
        stood: Whether the row shows that a claim with this fence ended so before.
    """

    ledger: Callable[[Connection, UUID, list[Claim]], list[outcomes.Settled]]
    model: Callable[[Model, ModelJob], None]
    stood: Callable[[ModelJob, int], bool]


def _noted(code: str) -> Callable[[ModelJob, int], bool]:
    return lambda job, fence: any((code, fence) == (noted, of) for noted, _, of in job.errors)


WAYS = {
    "complete": Way(
        lambda c, run, some: outcomes.complete(c, run, {one: result_of(one) for one in some}),
        Model.complete,
        lambda job, fence: job.result_fence == fence,
    ),
    "fail": Way(
        lambda c, run, some: outcomes.fail(c, run, dict.fromkeys(some, CorruptSource())),
        lambda model, job: model.fail(job, CorruptSource.code),
        _noted(CorruptSource.code),
    ),
    "retry_later": Way(
        lambda c, run, some: outcomes.retry_later(
            c, run, dict.fromkeys(some, StorageUnavailable()), base=AMPLE
        ),
        lambda model, job: model.retry_later(job, StorageUnavailable.code),
        _noted(StorageUnavailable.code),
    ),
    "release": Way(
        outcomes.release,
        Model.release,
        lambda job, fence: job.fence == fence and job.state in {"queued", "cancelled"},
    ),
}


def check_modelled(model: ModelJob, job: Job) -> None:
    """A row is what the model says."""
    running = job.state is JobState.RUNNING
    assert job.state is model.state
    assert job.run_id == model.run_id
    assert (job.generation, job.fence) == (model.generation, model.fence)
    assert (job.attempts, job.crashes) == (model.attempts, model.crashes)
    assert job.lane == model.lane
    assert (job.cancel_requested_at is not None) is model.is_flagged
    assert (job.first_claimed_at is not None) is model.was_claimed
    assert (job.started_at is not None) is model.is_started or not running
    assert [(e.code, e.generation, e.fence) for e in job.errors] == model.errors
    won = job.claim if job.state is JobState.SUCCEEDED else None
    assert job.result == (won and result_of(won))
    assert model.result_fence == (won and won.fence)


def check_step(before: Job, after: Job) -> None:
    """What holds between two looks at a row, whoever wrote it."""
    claims_made = after.state is JobState.RUNNING and before.state is not JobState.RUNNING
    assert after.fence == before.fence + claims_made
    assert after.attempts <= after.max_attempts
    assert after.errors[: len(before.errors)] == before.errors
    if after.state is not before.state:
        assert after.state in TRANSITIONS[before.state]
    if before.state.is_final:
        retried = after.state is JobState.QUEUED
        assert after.generation == before.generation + retried
        assert retried or after == before
    else:
        assert after.generation == before.generation
