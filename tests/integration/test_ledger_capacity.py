"""What is too large for every pool is failed; what fits no live run is only counted."""

import pytest
from sqlalchemy import Connection, Engine, TextClause, text
from tests.factories import (
    FUTURE,
    begun,
    claimed,
    job_of,
    new_job,
    of_side,
    silence,
    submitted,
)
from tests.plans import rows_read, settle

from twofold_schema.errors import TooLargeForFleet
from twofold_schema.job import Job
from twofold_schema.lanes import measure
from twofold_schema.ledger import capacity, holds, outcomes, requests, sweeps
from twofold_schema.states import JobState

SMALL, LARGE = 512 * 512, 1024 * 1024

# Many queued, scheduled and finished jobs of one size, and many of none.
_FILL = text("""
    INSERT INTO jobs (id, state, max_attempts, source, output_prefix, parameters, queued_at,
                      scheduled_at, finished_at, lane, pixels, est_gpu_seconds, lattice_pixels)
    SELECT gen_random_uuid(), state, 3, 's3://twofold/a', 's3://twofold/b', '{}',
           clock_timestamp(), '2100-01-01Z',
           CASE WHEN state = 'failed' THEN clock_timestamp() END,
           CASE WHEN known THEN 'lane' END, CASE WHEN known THEN 1 END,
           CASE WHEN known THEN 1 END, CASE WHEN known THEN 262144 END
    FROM (SELECT CASE WHEN n <= 10000 THEN 'failed' WHEN n <= 13000 THEN 'queued'
                 ELSE 'scheduled' END AS state, n % 2 = 0 AS known
          FROM generate_series(1, 15000) AS n) AS jobs
""")


def _fail_oversized(engine: Engine, largest: int = SMALL) -> int:
    with engine.begin() as connection:
        return capacity.fail_oversized(connection, largest=largest)


def _unfit(engine: Engine, most: int = 10) -> int:
    with engine.begin() as connection:
        return capacity.count_unfit(connection, most=most)


class TestFailOversized:
    def test_ends_what_waits_and_is_larger_without_an_attempt(self, engine: Engine) -> None:
        oversized = submitted(engine, of_side(513), of_side(1024, start_at=FUTURE))
        others = submitted(engine, of_side(512), new_job(measure=None))

        assert _fail_oversized(engine) == 2

        for job_id in oversized:
            job = job_of(engine, job_id)
            assert (job.state, job.attempts, job.fence) == (JobState.FAILED, 0, 0)
            assert job.finished_at is not None
            assert job.error is not None
            assert (job.error.code, job.error.attempt) == (TooLargeForFleet.code, 0)
            assert job.error.run_id is None
            assert f"({SMALL})" in job.error.message
        assert {job_of(engine, job_id).state for job_id in others} == {JobState.QUEUED}
        assert _fail_oversized(engine) == 0

    def test_leaves_what_a_run_has_until_it_is_given_back(self, engine: Engine) -> None:
        (job_id,) = submitted(engine, new_job(measure=None))
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        with engine.begin() as connection:
            found = measure(job_of(engine, job_id).parameters, 1024, 1024)
            holds.measure(connection, run_id, dict.fromkeys(taken, found))
        assert _fail_oversized(engine) == 0

        with engine.begin() as connection:
            outcomes.release(connection, run_id, taken)

        assert _fail_oversized(engine) == 1
        assert job_of(engine, job_id).fence == 1

    def test_spares_a_retried_job_once_a_pool_takes_it(self, engine: Engine) -> None:
        (job_id,) = submitted(engine, of_side(1024))
        _fail_oversized(engine)
        with engine.begin() as connection:
            requests.retry(connection, [job_id])

        assert _fail_oversized(engine, largest=LARGE) == 0
        job: Job = job_of(engine, job_id)
        assert (job.state, job.error, len(job.errors)) == (JobState.QUEUED, None, 1)

    def test_spares_a_retried_job_whose_source_may_be_another_one_by_now(
        self, engine: Engine
    ) -> None:
        (job_id,) = submitted(engine, new_job(measure=None))
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        with engine.begin() as connection:
            found = measure(job_of(engine, job_id).parameters, 1024, 1024)
            holds.measure(connection, run_id, dict.fromkeys(taken, found))
            outcomes.release(connection, run_id, taken)
        assert _fail_oversized(engine) == 1
        with engine.begin() as connection:
            requests.retry(connection, [job_id])

        assert _fail_oversized(engine) == 0
        assert job_of(engine, job_id).lane is None
        assert len(claimed(engine, run_id)) == 1

    def test_takes_a_bounded_number_and_passes_over_what_others_hold(self, engine: Engine) -> None:
        job_ids = submitted(engine, *[of_side(1024)] * (sweeps.SWEEP_ROWS + 2))
        with engine.begin() as other:
            other.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_ids[0]})
            assert [_fail_oversized(engine) for _ in range(3)] == [sweeps.SWEEP_ROWS, 1, 0]
        assert _fail_oversized(engine) == 1


class TestCountUnfit:
    def test_counts_queued_jobs_that_are_larger_than_every_live_run_takes(
        self, engine: Engine
    ) -> None:
        submitted(engine, *[of_side(1024)] * 3, of_side(512), of_side(1024, start_at=FUTURE))
        submitted(engine, new_job(measure=None))
        begun(engine, max_lattice_pixels=64 * 64)
        begun(engine, max_lattice_pixels=SMALL)

        assert _unfit(engine) == 3
        assert _unfit(engine, most=2) == 2

    def test_counts_none_where_a_live_run_may_take_them(self, engine: Engine) -> None:
        submitted(engine, of_side(1024))
        begun(engine, max_lattice_pixels=SMALL)
        begun(engine)

        assert _unfit(engine) == 0

    def test_counts_none_where_no_run_is_live(self, engine: Engine) -> None:
        submitted(engine, of_side(1024))
        assert _unfit(engine) == 0
        silence(engine, begun(engine, max_lattice_pixels=SMALL))
        assert _unfit(engine) == 0


def _small_run(connection: Connection) -> None:
    connection.execute(text("UPDATE runs SET max_lattice_pixels = :room"), {"room": SMALL})


@pytest.mark.parametrize(
    ("statement", "parameters", "runs"),
    [
        (
            capacity._FAIL_OVERSIZED,
            {"largest": SMALL, "rows": 1000, "code": "c", "message": "m"},
            0,
        ),
        (capacity._COUNT_UNFIT, {"most": 1000}, 1),
    ],
    ids=["fail_oversized", "count_unfit"],
)
def test_nothing_that_fits_is_read(
    engine: Engine, statement: TextClause, parameters: dict[str, object], runs: int
) -> None:
    begun(engine)
    with engine.begin() as connection:
        connection.execute(_FILL)
        _small_run(connection)
    settle(engine)
    assert rows_read(engine, statement, parameters) == runs
