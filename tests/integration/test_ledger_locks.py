"""What the ledger's writers wait for, what they step over, and that no two wait for each other."""

from datetime import timedelta
from time import monotonic
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError
from tests.factories import (
    AMPLE,
    begun,
    claimed,
    job_of,
    new_job,
    rescued,
    result_of,
    silence,
    submitted,
)
from tests.rivals import DEADLINE_SECONDS, Rival, rivals

from twofold_schema import database
from twofold_schema.errors import CorruptSource
from twofold_schema.job import Claim
from twofold_schema.ledger import claims, outcomes, requests, submit, sweeps
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import CancelAnswer, JobState

_LOCK = text("SELECT FROM jobs WHERE id = :id FOR UPDATE")
_LONG_UP = text("INSERT INTO pulse (beat_at, resumed_at) VALUES (clock_timestamp(), '2020-01-01Z')")
_LEASE_IS_OVER = text("SELECT lease_expires_at <= clock_timestamp() FROM runs WHERE id = :id")


def _claim(connection: Connection, run_id: UUID, limit: int = 1) -> list[Claim]:
    jobs = claims.claim(connection, run_id, limit=limit, run_deadline=AMPLE)
    return [job.claim for job in jobs]


def _rescue(connection: Connection) -> int:
    return sweeps.rescue(connection, every_seconds=AMPLE.total_seconds())


def test_rescue_leaves_a_job_alone_that_moved_to_a_live_run_meanwhile(engine: Engine) -> None:
    first, second = submitted(engine, new_job(), new_job())
    ended, live = begun(engine), begun(engine)
    claimed(engine, ended, started=True)
    held = {job_id: job_of(engine, job_id).claim for job_id in (first, second)}
    silence(engine, ended)
    with rivals(engine) as rival, engine.begin() as connection:
        outcomes.complete(connection, ended, {held[first]: result_of(held[first])})
        rescuer = rival(_rescue)
        with engine.begin() as zombie:
            outcomes.release(zombie, ended, [held[second]])
        (taken,) = claimed(engine, live, limit=1, started=True)
        connection.commit()
        rescuer.answer()
    rescued(engine)
    assert job_of(engine, second).claim == taken
    assert job_of(engine, second).state is JobState.RUNNING


def test_a_run_that_froze_in_a_transaction_holds_up_no_other_runs_rescue(engine: Engine) -> None:
    frozen_job, other_job = submitted(engine, new_job(), new_job())
    frozen, other = begun(engine), begun(engine)
    claimed(engine, frozen, limit=1)
    claimed(engine, other, limit=1)
    silence(engine, frozen)
    silence(engine, other)
    with rivals(engine) as rival, engine.begin() as connection:
        connection.execute(_LOCK, {"id": frozen_job})
        rescuer = rival(_rescue)
        assert not rescuer.blocked
        assert rescuer.answer() == 1
    assert job_of(engine, other_job).state is JobState.QUEUED
    assert rescued(engine) == 1
    assert job_of(engine, frozen_job).state is JobState.QUEUED


def test_no_suspect_is_judged_alone_while_another_is_out_of_reach(engine: Engine) -> None:
    job_ids = submitted(engine, new_job(), new_job())
    run_id = begun(engine)
    claimed(engine, run_id, started=True)
    silence(engine, run_id)
    with rivals(engine) as rival, engine.begin() as connection:
        connection.execute(_LOCK, {"id": job_ids[0]})
        assert rival(_rescue).answer() == 0
    assert rescued(engine) == 2
    assert [job_of(engine, job_id).attempts for job_id in job_ids] == [0, 0]


def test_a_run_is_not_lost_while_it_claims_and_its_jobs_come_back_afterwards(
    engine: Engine,
) -> None:
    (job_id,) = submitted(engine)
    with engine.begin() as connection:
        connection.execute(_LONG_UP)
    run_id = begun(engine, lease=timedelta(seconds=1))
    with rivals(engine) as rival, engine.begin() as connection:
        assert _claim(connection, run_id)
        deadline = monotonic() + DEADLINE_SECONDS
        while not connection.execute(_LEASE_IS_OVER, {"id": run_id}).scalar_one():
            assert monotonic() < deadline
        rescuer = rival(_rescue)
        assert not rescuer.blocked
        assert rescuer.answer() == 0
    assert job_of(engine, job_id).state is JobState.RUNNING
    assert rescued(engine) == 1
    assert job_of(engine, job_id).state is JobState.QUEUED


@pytest.mark.parametrize("commit", [True, False])
def test_a_claim_waits_for_the_verdict_on_its_run(engine: Engine, *, commit: bool) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    with rivals(engine) as rival, engine.connect() as connection:
        connection.execute(text("UPDATE runs SET state = 'lost', ended_at = clock_timestamp()"))
        claimer = rival(lambda c: _claim(c, run_id))
        assert claimer.blocked
        (connection.commit if commit else connection.rollback)()
        assert len(claimer.answer()) == (0 if commit else 1)
    assert job_of(engine, job_id).state is (JobState.QUEUED if commit else JobState.RUNNING)


def test_claims_step_over_each_other_and_no_job_is_taken_twice(engine: Engine) -> None:
    first, second = submitted(engine, new_job(), new_job())
    with rivals(engine) as rival, engine.begin() as connection:
        (mine,) = _claim(connection, begun(engine))
        others = rival(lambda c: _claim(c, begun(engine), limit=2))
        nobody = rival(lambda c: _claim(c, begun(engine), limit=2))
        assert not others.blocked
        assert not nobody.blocked
        assert [mine.job_id, *(held.job_id for held in others.answer())] == [first, second]
        assert nobody.answer() == []


def test_of_two_rescues_at_once_one_does_it(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    claimed(engine, run_id, started=True)
    silence(engine, run_id)
    with rivals(engine) as rival, engine.begin() as connection:
        assert _rescue(connection) == 1
        second = rival(_rescue)
        assert not second.blocked
        assert second.answer() == 0
    assert job_of(engine, job_id).crashes == 1


def test_writers_of_many_rows_in_opposite_orders_never_wait_for_each_other(
    engine: Engine,
) -> None:
    job_ids = submitted(engine, *[new_job() for _ in range(9)])
    run_id = begun(engine)
    held = claimed(engine, run_id)
    # The first begins at one end and the second at the other: were it not for the order of their
    # locks, each would hold what the other wants by the time the middle is free.
    with rivals(engine) as rival, engine.begin() as connection:
        connection.execute(_LOCK, {"id": job_ids[4]})
        upward = rival(
            lambda c: outcomes.complete(c, run_id, {one: result_of(one) for one in held})
        )
        downward = rival(lambda c: outcomes.release(c, run_id, held[::-1]))
        canceller = rival(lambda c: requests.cancel(c, job_ids[::-1]))
        assert upward.blocked
        assert downward.blocked
        assert canceller.blocked
        connection.commit()
        done = sum(one.stands for one in upward.answer())
        assert done + sum(one.stands for one in downward.answer()) == len(job_ids)
        assert set(canceller.answer()) == set(job_ids)


def test_a_cancel_answers_a_job_that_is_retried_under_its_hands(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    outcome = {claimed(engine, run_id)[0]: CorruptSource()}
    with engine.begin() as connection:
        outcomes.fail(connection, run_id, outcome)
    with rivals(engine) as rival, engine.begin() as connection:
        retries: list[Rival[None]] = []

        @event.listens_for(connection, "after_cursor_execute")
        def _retried_after_the_first_statement(*_: object) -> None:
            if not retries:
                retries.append(rival(lambda c: requests.retry(c, [job_id])))

        answers = requests.cancel(connection, [job_id])
        connection.commit()
        retries[0].answer()
    assert answers[job_id] in {CancelAnswer.FAILED, CancelAnswer.CANCELLED}
    assert job_of(engine, job_id).generation == 2


@pytest.mark.parametrize("commit", [True, False])
def test_of_two_submits_with_one_key_one_creates_the_job(engine: Engine, *, commit: bool) -> None:
    keyed = new_job(key="cat")
    with rivals(engine) as rival, engine.connect() as connection:
        (mine,) = submit.insert_jobs(connection, [keyed])
        other = rival(lambda c: submit.insert_jobs(c, [keyed]))
        assert other.blocked
        (connection.commit if commit else connection.rollback)()
        (theirs,) = other.answer()
    assert mine.created
    assert theirs.created is not commit
    assert (theirs.job_id == mine.job_id) is commit
    assert job_of(engine, theirs.job_id).key == "cat"


def test_submits_with_the_same_keys_in_opposite_orders_both_return(engine: Engine) -> None:
    keyed = [new_job(key=str(number)) for number in range(9)]
    with rivals(engine) as rival, engine.begin() as connection:
        submit.insert_jobs(connection, keyed[4:5])
        upward = rival(lambda c: submit.insert_jobs(c, keyed))
        downward = rival(lambda c: submit.insert_jobs(c, keyed[::-1]))
        connection.commit()
        ids = {answer.job_id for answer in upward.answer()}
        assert {answer.job_id for answer in downward.answer()} == ids
        assert len(ids) == len(keyed)


def test_what_a_savepoint_takes_back_never_happened(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    (held,) = claimed(engine, run_id)
    keyed = new_job(key="cat")
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        (undone,) = submit.insert_jobs(connection, [keyed])
        outcomes.release(connection, run_id, [held])
        savepoint.rollback()
        (done,) = submit.insert_jobs(connection, [keyed])
        (settled,) = outcomes.complete(connection, run_id, {held: result_of(held)})
    assert undone.created
    assert done.created
    assert done.job_id != undone.job_id
    assert settled.stands
    assert job_of(engine, job_id).state is JobState.SUCCEEDED
    assert job_of(engine, done.job_id).state is JobState.QUEUED


def test_a_process_that_freezes_inside_a_transaction_lets_go(
    database_settings: DatabaseSettings, engine: Engine
) -> None:
    """Its connection is ended by the database, so that others get at the rows it had locked."""
    (job_id,) = submitted(engine)
    impatient = database.connect(
        database_settings.model_copy(update={"database_timeout_seconds": 0.2})
    )
    frozen = impatient.connect()
    frozen.execute(_LOCK, {"id": job_id})

    with engine.begin() as connection:
        connection.execute(_LOCK, {"id": job_id})
    with pytest.raises(DBAPIError):
        frozen.execute(_LOCK, {"id": job_id})
    frozen.invalidate()
    frozen.close()
    impatient.dispose()
