"""Time alone moves jobs on: they are promoted when due and expire when late."""

from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, TextClause, text
from tests.factories import (
    FUTURE,
    PAST,
    begun,
    claimed,
    job_of,
    new_job,
    result_of,
    submitted,
)
from tests.plans import rows_read, settle

from twofold_schema.ledger import outcomes, requests, sweeps
from twofold_schema.states import JobState

_LATE = text("UPDATE jobs SET finish_by = '2020-01-01Z'")

# Deadlines far ahead of many waiting jobs, behind many finished ones.
_FILL = text("""
    INSERT INTO jobs (id, state, max_attempts, source, output_prefix, parameters, queued_at,
                      scheduled_at, start_by, finish_by, finished_at)
    SELECT gen_random_uuid(), state, 3, 's3://twofold/a', 's3://twofold/b', '{}',
           clock_timestamp(), '2100-01-01Z', '2100-01-01Z', '2100-01-01Z',
           CASE WHEN state = 'failed' THEN clock_timestamp() END
    FROM (SELECT CASE WHEN n <= 20000 THEN 'failed' WHEN n <= 22000 THEN 'queued'
                 ELSE 'scheduled' END AS state FROM generate_series(1, 25000) AS n) AS jobs
""")


def _sweep(engine: Engine, duty: Callable[[Connection], int]) -> int:
    with engine.begin() as connection:
        return duty(connection)


def _states(engine: Engine, job_ids: list[UUID]) -> list[JobState]:
    return [job_of(engine, job_id).state for job_id in job_ids]


def test_a_scheduled_job_is_queued_when_its_time_has_come(engine: Engine) -> None:
    job_ids = submitted(engine, new_job(start_at=PAST), new_job(start_at=FUTURE))
    assert _sweep(engine, sweeps.promote) == 1
    assert _states(engine, job_ids) == [JobState.QUEUED, JobState.SCHEDULED]
    assert _sweep(engine, sweeps.promote) == 0


def test_waiting_jobs_expire_at_either_deadline(engine: Engine) -> None:
    job_ids = submitted(
        engine,
        new_job(start_by=PAST),
        new_job(finish_by=PAST),
        new_job(start_by=PAST, finish_by=PAST, start_at=FUTURE),
        new_job(start_by=FUTURE, finish_by=FUTURE),
        new_job(),
    )
    assert _sweep(engine, sweeps.expire) == 3
    assert _states(engine, job_ids) == [JobState.EXPIRED] * 3 + [JobState.QUEUED] * 2
    assert job_of(engine, job_ids[0]).finished_at is not None


def test_start_by_spares_a_job_that_was_claimed_once(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    taken = claimed(engine, run_id)
    with engine.begin() as connection:
        outcomes.release(connection, run_id, taken)
        connection.execute(text("UPDATE jobs SET start_by = '2020-01-01Z'"))
    assert _sweep(engine, sweeps.expire) == 0
    assert _states(engine, [job_id]) == [JobState.QUEUED]


def test_a_running_job_expires_at_finish_by_and_its_worker_finds_out(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    (held,) = claimed(engine, run_id)
    with engine.begin() as connection:
        connection.execute(_LATE)
    assert _sweep(engine, sweeps.expire) == 1
    with engine.begin() as connection:
        (settled,) = outcomes.complete(connection, run_id, {held: result_of(held)})
    assert settled == outcomes.Settled(job_id, stands=False, state=JobState.EXPIRED)


def test_a_job_that_was_called_off_is_cancelled_at_finish_by_too(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    claimed(engine, begun(engine))
    with engine.begin() as connection:
        requests.cancel(connection, [job_id])
        connection.execute(_LATE)
    assert _sweep(engine, sweeps.expire) == 1
    assert _states(engine, [job_id]) == [JobState.CANCELLED]


def test_one_process_at_a_time_does_a_duty(engine: Engine) -> None:
    with engine.begin() as one, engine.begin() as other:
        assert sweeps.try_duty(one, "promote")
        assert not sweeps.try_duty(other, "promote")
        assert sweeps.try_duty(other, "expire")
        one.rollback()
        assert sweeps.try_duty(other, "promote")


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (sweeps._PROMOTE, {"rows": 1000}),
        (sweeps._EXPIRE, {"rows": 1000}),
        (sweeps._OVERDUE, {"rows": 1000, "resumed_at": PAST, "beat_at": FUTURE}),
        (sweeps._ENDED_RUNS, {"runs": 100}),
        (sweeps._LOCK_ORPHANS, {"runs": []}),
    ],
    ids=["promote", "expire", "overdue", "ended runs", "orphans"],
)
def test_a_sweep_with_nothing_to_do_reads_no_rows(
    engine: Engine, statement: TextClause, parameters: dict[str, object]
) -> None:
    with engine.begin() as connection:
        connection.execute(_FILL)
    settle(engine)
    assert rows_read(engine, statement, parameters) == 0


def test_a_sweep_takes_a_bounded_number_of_rows(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(_FILL)
        connection.execute(text("UPDATE jobs SET finish_by = '2020-01-01Z'"))
    turns = 0
    while _sweep(engine, sweeps.expire):
        turns += 1
    assert turns == 5000 / sweeps.SWEEP_ROWS
