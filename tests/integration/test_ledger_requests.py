"""The owner of a job calls it off, or has it tried again."""

import pytest
from sqlalchemy import Engine, text
from tests.factories import (
    FUTURE,
    PAST,
    begun,
    claimed,
    crashed,
    job_of,
    new_job,
    result_of,
    submitted,
)

from twofold_schema.errors import CorruptSource, JobNotFound, JobNotRetryable
from twofold_schema.ids import new_id
from twofold_schema.ledger import (
    generations,
    holds,
    outcomes,
    requests,
    runs,
    submissions,
    submit,
    sweeps,
)
from twofold_schema.states import CancelAnswer, JobState

_AS_EXPIRED = text("""
    UPDATE jobs SET state = 'expired', run_deadline = NULL, finished_at = clock_timestamp()
""")
_SUBMISSION = text("SELECT generation, finished_at IS NULL FROM submissions")


def test_a_waiting_job_is_cancelled_at_once_and_stays_so(engine: Engine) -> None:
    job_ids = submitted(engine, new_job(), new_job(start_at=FUTURE))
    with engine.begin() as connection:
        answers = requests.cancel(connection, job_ids)
    assert answers == dict.fromkeys(job_ids, CancelAnswer.CANCELLED)
    jobs = [job_of(engine, job_id) for job_id in job_ids]
    assert {job.state for job in jobs} == {JobState.CANCELLED}
    with engine.begin() as connection:
        assert requests.cancel(connection, job_ids) == answers
        sweeps.promote(connection)
        sweeps.expire(connection)
    assert claimed(engine, begun(engine)) == []
    assert [job_of(engine, job_id) for job_id in job_ids] == jobs


def test_a_running_job_is_cancelling_until_its_run_confirms(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    (held,) = claimed(engine, run_id)
    with engine.begin() as connection:
        assert requests.cancel(connection, [job_id]) == {job_id: CancelAnswer.CANCELLING}
    job = job_of(engine, job_id)
    assert job.cancelling
    with engine.begin() as connection:
        assert requests.cancel(connection, [job_id]) == {job_id: CancelAnswer.CANCELLING}
        assert runs.renew(connection, run_id, holding=1).held == {held: True}
        assert holds.start(connection, run_id, {held: "v1"}) == {}
        outcomes.release(connection, run_id, [held])
    cancelled = job_of(engine, job_id)
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.cancel_requested_at == job.cancel_requested_at


def test_a_final_job_answers_what_it_came_to(engine: Engine) -> None:
    done, failed, expired = submitted(engine, new_job(), new_job(), new_job(finish_by=PAST))
    run_id = begun(engine)
    taken = claimed(engine, run_id)
    with engine.begin() as connection:
        outcomes.complete(connection, run_id, {taken[0]: result_of(taken[0])})
        outcomes.fail(connection, run_id, {taken[1]: CorruptSource()})
        sweeps.expire(connection)
        unknown = new_id()
        answers = requests.cancel(connection, [done, failed, expired, unknown])
    assert answers == {
        done: CancelAnswer.SUCCEEDED,
        failed: CancelAnswer.FAILED,
        expired: CancelAnswer.EXPIRED,
        unknown: CancelAnswer.NOT_FOUND,
    }
    assert job_of(engine, failed).cancel_requested_at is None


def test_a_retry_begins_a_generation_whose_fence_goes_on(engine: Engine) -> None:
    (job_id,) = submitted(engine, new_job(max_attempts=1))
    run_id = begun(engine)
    (held,) = claimed(engine, run_id, started=True)
    with engine.begin() as connection:
        outcomes.fail(connection, run_id, {held: CorruptSource()})
        requests.retry(connection, [job_id], start_by=FUTURE, finish_by=FUTURE)
    job = job_of(engine, job_id)
    assert (job.state, job.generation, job.fence, job.attempts) == (JobState.QUEUED, 2, 1, 0)
    assert (job.start_by, job.finish_by) == (FUTURE, FUTURE)
    assert (job.first_claimed_at, job.started_at, job.finished_at) == (None, None, None)
    assert job.error is None
    assert [error.generation for error in job.errors] == [1]
    with engine.begin() as connection:
        (settled,) = outcomes.complete(connection, run_id, {held: result_of(held)})
    assert not settled.stands
    (again,) = claimed(engine, run_id)
    assert again.fence == 2


def test_old_deadlines_do_not_carry_over_to_a_retry(engine: Engine) -> None:
    (job_id,) = submitted(engine, new_job(start_by=PAST, finish_by=PAST))
    with engine.begin() as connection:
        sweeps.expire(connection)
        requests.retry(connection, [job_id])
        assert sweeps.expire(connection) == 0
    assert job_of(engine, job_id).state is JobState.QUEUED


def test_a_retry_clears_a_job_of_suspicion(engine: Engine) -> None:
    (job_id,) = submitted(engine, new_job(max_attempts=1))
    run_id = begun(engine)
    claimed(engine, run_id, started=True)
    crashed(engine, run_id)
    assert job_of(engine, job_id).isolation is not None
    with engine.begin() as connection:
        requests.retry(connection, [job_id])
    job = job_of(engine, job_id)
    assert (job.state, job.crashes, job.isolation) == (JobState.QUEUED, 0, None)


def test_a_cancel_that_came_to_nothing_does_not_carry_over_to_a_retry(engine: Engine) -> None:
    """Earlier versions let such jobs expire."""
    (job_id,) = submitted(engine)
    claimed(engine, begun(engine))
    with engine.begin() as connection:
        requests.cancel(connection, [job_id])
        connection.execute(_AS_EXPIRED)
        requests.retry(connection, [job_id])
    assert job_of(engine, job_id).cancel_requested_at is None


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "cancelled"])
def test_only_failed_and_expired_jobs_are_retried_all_or_none(engine: Engine, state: str) -> None:
    good, bad = submitted(engine, new_job(finish_by=PAST), new_job())
    run_id = begun(engine)
    with engine.begin() as connection:
        sweeps.expire(connection)
    held = claimed(engine, run_id) if state != "queued" else []
    with engine.begin() as connection:
        if state == "succeeded":
            outcomes.complete(connection, run_id, {held[0]: result_of(held[0])})
        if state == "cancelled":
            requests.cancel(connection, [bad])
            outcomes.release(connection, run_id, held)
    with pytest.raises(JobNotRetryable, match=f"{bad} is {state}"), engine.begin() as connection:
        requests.retry(connection, [good, bad])
    assert job_of(engine, good).state is JobState.EXPIRED


def test_a_retry_of_an_unknown_job_is_refused(engine: Engine) -> None:
    unknown = new_id()
    with pytest.raises(JobNotFound, match=str(unknown)), engine.begin() as connection:
        requests.retry(connection, [unknown])


def test_a_sealed_submission_has_another_end_after_a_retry(engine: Engine) -> None:
    """Whether it had ended or was just about to: the old end's manifests would be wrong."""
    with engine.begin() as connection:
        submission_id = submissions.begin(connection)
        late = [new_job(finish_by=PAST), new_job(finish_by=PAST), new_job(finish_by=PAST)]
        answers = submit.insert_jobs(connection, late, submission_id=submission_id)
        sweeps.expire(connection)
        requests.retry(connection, [answers[0].job_id])
        assert connection.execute(_SUBMISSION).one() == (1, True)
        submissions.seal(connection, submission_id)
        (sealed,) = generations.sealed(connection, after=None, limit=10)
        assert generations.finish(connection, sealed, results="s3://a/b", errors="", counts={})
        requests.retry(connection, [answers[1].job_id])
        assert connection.execute(_SUBMISSION).one() == (2, True)
        (sealed,) = generations.sealed(connection, after=None, limit=10)
        requests.retry(connection, [answers[2].job_id])
        assert not generations.finish(connection, sealed, results="s3://a/b", errors="", counts={})
        assert connection.execute(_SUBMISSION).one() == (3, True)
