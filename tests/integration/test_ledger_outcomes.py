"""Each way to end a claim: what it writes, to whom it is closed, and that it may be repeated."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, text
from tests.factories import begun, claimed, crashed, job_of, new_job, result_of, submitted

from twofold_schema.errors import CorruptSource, StorageUnavailable
from twofold_schema.ids import new_id
from twofold_schema.job import Claim
from twofold_schema.ledger import outcomes, requests, sweeps
from twofold_schema.ledger.outcomes import Settled
from twofold_schema.states import JobState

_MAKE_LATE = text("UPDATE jobs SET finish_by = '2020-01-01Z'")
_BACKOFF_ENDS = text("UPDATE jobs SET scheduled_at = '2020-01-01Z' WHERE state = 'scheduled'")
_DELETE = text("DELETE FROM jobs")

End = Callable[[Connection, Claim], list[Settled]]

ENDS: dict[str, End] = {
    "complete": lambda c, held: outcomes.complete(c, held.run_id, {held: result_of(held)}),
    "fail": lambda c, held: outcomes.fail(c, held.run_id, {held: CorruptSource()}),
    "retry_later": lambda c, held: outcomes.retry_later(
        c, held.run_id, {held: StorageUnavailable()}
    ),
    "release": lambda c, held: outcomes.release(c, held.run_id, [held]),
}


def _held(engine: Engine, **changes: object) -> Claim:
    submitted(engine, new_job(**changes))
    return claimed(engine, begun(engine), started=True)[0]


def _end(engine: Engine, name: str, held: Claim) -> Settled:
    with engine.begin() as connection:
        return ENDS[name](connection, held)[0]


@pytest.mark.parametrize(
    ("name", "state", "attempts", "codes"),
    [
        ("complete", JobState.SUCCEEDED, 1, []),
        ("fail", JobState.FAILED, 1, ["corrupt_source"]),
        ("retry_later", JobState.SCHEDULED, 1, ["storage_unavailable"]),
        ("release", JobState.QUEUED, 0, []),
    ],
)
def test_an_outcome_ends_the_claim_and_repeating_it_changes_nothing(
    engine: Engine, name: str, state: JobState, attempts: int, codes: list[str]
) -> None:
    held = _held(engine)
    assert _end(engine, name, held) == Settled(held.job_id, stands=True, state=state)
    job = job_of(engine, held.job_id)
    assert (job.state, job.attempts, [error.code for error in job.errors]) == (
        state,
        attempts,
        codes,
    )
    assert job.run_deadline is None
    assert job.result == (result_of(held) if name == "complete" else None)
    assert job.run_id == (held.run_id if state.is_final else None)
    assert _end(engine, name, held) == Settled(held.job_id, stands=True, state=state)
    assert job_of(engine, held.job_id) == job


@pytest.mark.parametrize("name", list(ENDS))
def test_an_outcome_that_lost_its_job_to_another_claim_changes_nothing(
    engine: Engine, name: str
) -> None:
    stale = _held(engine)
    crashed(engine, stale.run_id)
    (new,) = claimed(engine, begun(engine))
    job = job_of(engine, new.job_id)
    assert _end(engine, name, stale) == Settled(new.job_id, stands=False, state=JobState.RUNNING)
    assert job_of(engine, new.job_id) == job
    assert _end(engine, "complete", new).stands


@pytest.mark.parametrize("name", list(ENDS))
def test_a_run_that_has_a_job_again_cannot_end_it_by_its_first_claim(
    engine: Engine, name: str
) -> None:
    stale = _held(engine)
    _end(engine, "release", stale)
    (new,) = claimed(engine, stale.run_id)
    assert not _end(engine, name, stale).stands
    assert job_of(engine, new.job_id).claim == new


@pytest.mark.parametrize("name", list(ENDS))
def test_an_outcome_does_not_stand_because_that_of_another_claim_does(
    engine: Engine, name: str
) -> None:
    stale = _held(engine)
    crashed(engine, stale.run_id)
    (new,) = claimed(engine, begun(engine))
    assert _end(engine, name, new).stands
    assert not _end(engine, name, stale).stands
    assert _end(engine, name, new).stands


@pytest.mark.parametrize("name", list(ENDS))
def test_an_outcome_must_come_from_the_run_that_holds_the_job(engine: Engine, name: str) -> None:
    held = _held(engine)
    forged = Claim(job_id=held.job_id, fence=held.fence, run_id=new_id())
    assert not _end(engine, name, forged).stands
    assert job_of(engine, held.job_id).state is JobState.RUNNING


@pytest.mark.parametrize("name", list(ENDS))
def test_an_outcome_of_a_job_that_is_gone_says_so(engine: Engine, name: str) -> None:
    held = _held(engine)
    with engine.begin() as connection:
        connection.execute(_DELETE)
    assert _end(engine, name, held) == Settled(held.job_id, stands=False, state=None)


def test_an_outcome_of_many_answers_for_each_in_order(engine: Engine) -> None:
    submitted(engine, *[new_job() for _ in range(3)])
    held = claimed(engine, begun(engine))
    _end(engine, "release", held[1])
    with engine.begin() as connection:
        settled = outcomes.complete(
            connection, held[0].run_id, {one: result_of(one) for one in held}
        )
    assert [(one.job_id, one.stands) for one in settled] == [
        (held[0].job_id, True),
        (held[1].job_id, False),
        (held[2].job_id, True),
    ]


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("complete", JobState.SUCCEEDED),
        ("fail", JobState.CANCELLED),
        ("retry_later", JobState.CANCELLED),
        ("release", JobState.CANCELLED),
    ],
)
def test_a_flagged_job_ends_cancelled_unless_it_completes(
    engine: Engine, name: str, state: JobState
) -> None:
    held = _held(engine)
    with engine.begin() as connection:
        requests.cancel(connection, [held.job_id])
    assert _end(engine, name, held) == Settled(held.job_id, stands=True, state=state)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("complete", JobState.EXPIRED),
        ("fail", JobState.FAILED),
        ("retry_later", JobState.EXPIRED),
        ("release", JobState.QUEUED),
    ],
)
def test_after_finish_by_no_result_counts_and_nothing_is_tried_again(
    engine: Engine, name: str, state: JobState
) -> None:
    held = _held(engine)
    with engine.begin() as connection:
        connection.execute(_MAKE_LATE)
    assert _end(engine, name, held).state is state
    assert job_of(engine, held.job_id).result is None


@pytest.mark.parametrize("name", ["complete", "fail", "retry_later", "release"])
def test_after_finish_by_a_job_that_was_called_off_is_cancelled_whatever_its_end(
    engine: Engine, name: str
) -> None:
    held = _held(engine)
    with engine.begin() as connection:
        requests.cancel(connection, [held.job_id])
        connection.execute(_MAKE_LATE)
    assert _end(engine, name, held).state is JobState.CANCELLED
    assert job_of(engine, held.job_id).result is None


def test_the_last_attempts_error_is_final(engine: Engine) -> None:
    held = _held(engine, max_attempts=2)
    assert _end(engine, "retry_later", held).state is JobState.SCHEDULED
    _promote(engine)
    (held,) = claimed(engine, held.run_id)
    assert _end(engine, "retry_later", held).state is JobState.FAILED
    job = job_of(engine, held.job_id)
    assert job.attempts == job.max_attempts
    assert [(error.attempt, error.fence) for error in job.errors] == [(1, 1), (2, 2)]
    assert {error.run_id for error in job.errors} == {held.run_id}


def test_retries_wait_twice_as_long_each_time_up_to_five_minutes_and_are_spread_by_half(
    engine: Engine,
) -> None:
    held = _held(engine, max_attempts=9)
    for wait in (5, 10, 20, 40, 80, 160, 300, 300):
        before = datetime.now(UTC)
        _end(engine, "retry_later", held)
        after = datetime.now(UTC)
        scheduled_at = job_of(engine, held.job_id).scheduled_at
        assert scheduled_at is not None
        least, most = timedelta(seconds=wait / 2), timedelta(seconds=wait)
        assert before + least <= scheduled_at <= after + most
        _promote(engine)
        (held,) = claimed(engine, held.run_id)


def test_an_error_is_noted_with_all_that_explains_it(engine: Engine) -> None:
    held = _held(engine)
    with engine.begin() as connection:
        outcomes.fail(connection, held.run_id, {held: CorruptSource("cut\x00 short \ud800")})
    error = job_of(engine, held.job_id).error
    assert error is not None
    assert error.code == "corrupt_source"
    assert error.message.startswith("cut")
    assert (error.generation, error.attempt, error.fence) == (1, 1, held.fence)
    assert error.run_id == held.run_id


def _promote(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(_BACKOFF_ENDS)
        sweeps.promote(connection)
