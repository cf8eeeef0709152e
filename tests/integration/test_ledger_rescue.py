"""Jobs of runs that hold no lease come back, charged to nobody but the guilty."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text
from tests.factories import (
    AMPLE,
    PAST,
    begun,
    claimed,
    crashed,
    job_of,
    new_job,
    renewed,
    rescued,
    result_of,
    silence,
    submitted,
)

from twofold_schema.errors import RunLost
from twofold_schema.ledger import outcomes, requests, runs, sweeps
from twofold_schema.states import JobState

_OVERDUE = text("UPDATE jobs SET run_deadline = '2020-01-01Z' WHERE state = 'running'")
_LEASES_END = text("UPDATE runs SET lease_expires_at = '2020-01-01Z'")
_LEASES_END_NOW = text("UPDATE runs SET lease_expires_at = clock_timestamp(), lease_seconds = 0")
_OVERDUE_NOW = text("UPDATE jobs SET run_deadline = clock_timestamp() WHERE state = 'running'")
_LATE = text("UPDATE jobs SET finish_by = '2020-01-01Z'")
_LOOKED = text("""
    INSERT INTO pulse (beat_at, resumed_at)
    VALUES (clock_timestamp() - :ago, '2020-01-01Z')
""")
_RESUMED = text("SELECT resumed_at FROM pulse")
_FORGET_RUNS = text("DELETE FROM runs")


def _states(engine: Engine, job_ids: list[UUID]) -> list[JobState]:
    return [job_of(engine, job_id).state for job_id in job_ids]


def test_a_live_runs_jobs_are_left_alone(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    claimed(engine, run_id, started=True)
    with engine.begin() as connection:
        runs.drain(connection, run_id)
    assert rescued(engine) == 0
    assert _states(engine, [job_id]) == [JobState.RUNNING]


def test_a_lost_run_may_do_nothing_more(engine: Engine) -> None:
    submitted(engine)
    run_id = begun(engine)
    claimed(engine, run_id)
    crashed(engine, run_id)
    with pytest.raises(RunLost), engine.begin() as connection:
        runs.renew(connection, run_id, holding=0)
    assert claimed(engine, run_id) == []


def test_a_run_that_renews_before_rescue_looks_keeps_its_jobs(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    taken = claimed(engine, run_id)
    silence(engine, run_id)
    with engine.begin() as connection:
        assert renewed(connection, run_id).held == {taken[0]: False}
    assert rescued(engine) == 0
    assert _states(engine, [job_id]) == [JobState.RUNNING]


def test_a_heartbeat_brings_a_drain_order(engine: Engine) -> None:
    run_id = begun(engine)
    with engine.begin() as connection:
        assert not runs.renew(connection, run_id, holding=0).drain
        runs.order_drain(connection, run_id)
        assert runs.renew(connection, run_id, holding=0).drain


@pytest.mark.parametrize("end", [runs.stop, runs.give_up, None], ids=["stop", "give_up", "crash"])
def test_jobs_that_were_never_started_are_charged_nothing(
    engine: Engine, end: Callable[[Connection, UUID], None] | None
) -> None:
    job_ids = submitted(engine, new_job(), new_job())
    run_id = begun(engine)
    claimed(engine, run_id)
    if end is None:
        silence(engine, run_id)
    else:
        with engine.begin() as connection:
            end(connection, run_id)
    assert rescued(engine) == 2
    for job in (job_of(engine, job_id) for job_id in job_ids):
        assert (job.state, job.attempts, job.crashes) == (JobState.QUEUED, 0, 0)
        assert (job.isolation, job.errors) == (None, ())


def test_a_run_that_stopped_in_good_order_leaves_no_suspects(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    claimed(engine, run_id, started=True)
    with engine.begin() as connection:
        runs.stop(connection, run_id)
    assert rescued(engine) == 1
    job = job_of(engine, job_id)
    assert (job.state, job.attempts, job.crashes, job.isolation) == (JobState.QUEUED, 0, 0, None)


def test_jobs_of_a_run_that_nobody_remembers_are_rescued(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    claimed(engine, begun(engine))
    with engine.begin() as connection:
        connection.execute(_FORGET_RUNS)
    assert rescued(engine) == 1
    assert _states(engine, [job_id]) == [JobState.QUEUED]


def test_a_rescue_takes_the_oldest_runs_first_and_the_next_one_the_rest(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "RESCUE_RUNS", 2, raising=False)
    submitted(engine, *[new_job() for _ in range(6)])
    held = []
    for _ in range(3):
        run_id = begun(engine)
        held.append([claim.job_id for claim in claimed(engine, run_id, limit=2)])
        silence(engine, run_id)
    assert rescued(engine) == 4
    assert _states(engine, held[0] + held[1]) == [JobState.QUEUED] * 4
    assert _states(engine, held[2]) == [JobState.RUNNING] * 2
    assert rescued(engine) == 2
    assert rescued(engine) == 0


def test_what_many_lost_runs_left_is_judged_run_by_run_however_late_it_is(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet that lost its power, and a rescue that takes some of its runs at a time."""
    monkeypatch.setattr(sweeps, "RESCUE_RUNS", 1, raising=False)
    job_ids = submitted(engine, *[new_job(max_attempts=1) for _ in range(4)])
    for _ in range(2):
        run_id = begun(engine)
        claimed(engine, run_id, limit=2, started=True)
        silence(engine, run_id)
    with engine.begin() as connection:
        connection.execute(_OVERDUE)
    assert rescued(engine) == 2
    assert rescued(engine) == 2
    assert _states(engine, job_ids) == [JobState.QUEUED] * 4


def test_poison_is_halved_down_to_the_guilty_job_and_only_that_is_charged(engine: Engine) -> None:
    job_ids = submitted(engine, *[new_job(max_attempts=2) for _ in range(8)])
    guilty = job_ids[5]
    crashes = 0
    while taken := claimed(engine, run_id := begun(engine), started=True):
        if guilty in {held.job_id for held in taken}:
            crashes += 1
            crashed(engine, run_id)
        else:
            with engine.begin() as connection:
                outcomes.complete(connection, run_id, {held: result_of(held) for held in taken})
    jobs = {job_id: job_of(engine, job_id) for job_id in job_ids}
    # Together, in fours, in twos, alone, and alone for the last time.
    assert crashes == 5
    assert Counter(job.state for job in jobs.values()) == {
        JobState.FAILED: 1,
        JobState.SUCCEEDED: 7,
    }
    assert {error.code for error in jobs[guilty].errors} == {"worker_crashed"}
    assert (jobs[guilty].attempts, jobs[guilty].crashes) == (2, 5)
    assert {job.attempts for job_id, job in jobs.items() if job_id != guilty} == {1}


@pytest.mark.parametrize(
    ("change", "state"),
    [("cancel", JobState.CANCELLED), ("late", JobState.EXPIRED), (None, JobState.QUEUED)],
)
def test_rescue_ends_jobs_that_nobody_wants_any_more(
    engine: Engine, change: str | None, state: JobState
) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    claimed(engine, run_id)
    with engine.begin() as connection:
        if change == "cancel":
            requests.cancel(connection, [job_id])
        if change == "late":
            connection.execute(_LATE)
    crashed(engine, run_id)
    job = job_of(engine, job_id)
    assert (job.state, job.run_id) == (state, run_id if state.is_final else None)


@pytest.mark.parametrize("started", [True, False])
def test_a_claim_that_outlasts_its_run_deadline_ends_whatever_the_lease_says(
    engine: Engine, *, started: bool
) -> None:
    (job_id,) = submitted(engine, new_job(max_attempts=2))
    run_id = begun(engine)
    silence(engine, run_id)
    with engine.begin() as connection:
        renewed(connection, run_id)
    (held,) = claimed(engine, run_id, started=started)
    with engine.begin() as connection:
        connection.execute(_OVERDUE)
    assert rescued(engine) == 1
    job = job_of(engine, job_id)
    assert job.state is JobState.QUEUED
    assert [error.code for error in job.errors] == ["run_deadline_exceeded"] * started
    assert job.attempts == started
    with engine.begin() as connection:
        assert not outcomes.complete(connection, run_id, {held: result_of(held)})[0].stands
        assert runs.renew(connection, run_id, holding=0).held == {}


def test_the_last_attempt_past_the_run_deadline_fails(engine: Engine) -> None:
    (job_id,) = submitted(engine, new_job(max_attempts=1))
    run_id = begun(engine)
    silence(engine, run_id)
    with engine.begin() as connection:
        renewed(connection, run_id)
    claimed(engine, run_id, started=True)
    with engine.begin() as connection:
        connection.execute(_OVERDUE)
    rescued(engine)
    job = job_of(engine, job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "run_deadline_exceeded"


def test_an_outage_of_the_database_costs_no_run_its_lease(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    claimed(engine, begun(engine), started=True)
    with engine.begin() as connection:
        connection.execute(_LOOKED, {"ago": AMPLE})
        connection.execute(_LEASES_END)
        connection.execute(_OVERDUE)
    assert rescued(engine, every_seconds=1.0) == 0
    assert _states(engine, [job_id]) == [JobState.RUNNING]


def test_a_database_that_freezes_in_the_middle_of_a_rescue_costs_no_run_its_lease(
    engine: Engine,
) -> None:
    (job_id,) = submitted(engine)
    claimed(engine, begun(engine), started=True)
    with engine.begin() as connection:
        connection.execute(_LOOKED, {"ago": timedelta(0)})

    def freeze(_connection: Connection, statement: object, *_: object) -> None:
        """Everything that was good at the look is over by now."""
        if statement is sweeps._LOSE_RUNS:
            with engine.begin() as clock:
                clock.execute(_LEASES_END_NOW)
                clock.execute(_OVERDUE_NOW)

    with engine.begin() as connection:
        event.listen(connection, "before_execute", freeze)
        assert sweeps.rescue(connection, every_seconds=AMPLE.total_seconds()) == 0
    assert _states(engine, [job_id]) == [JobState.RUNNING]
    assert rescued(engine) == 1


@pytest.mark.parametrize(
    ("ago", "lease", "every_seconds", "is_outage"),
    [
        (timedelta(seconds=16), timedelta(seconds=30), 1.0, True),
        (timedelta(seconds=14), timedelta(seconds=30), 1.0, False),
        (timedelta(seconds=16), timedelta(seconds=30), 6.0, False),
        (timedelta(seconds=19), timedelta(seconds=30), 6.0, True),
    ],
)
def test_a_gap_is_an_outage_from_half_the_shortest_lease_or_three_of_the_callers_turns(
    engine: Engine, ago: timedelta, lease: timedelta, every_seconds: float, *, is_outage: bool
) -> None:
    begun(engine)
    begun(engine, lease=lease)
    with engine.begin() as connection:
        connection.execute(_LOOKED, {"ago": ago})
    before = datetime.now(UTC)
    rescued(engine, every_seconds=every_seconds)
    with engine.begin() as connection:
        resumed_at = connection.execute(_RESUMED).scalar_one()
    assert resumed_at >= before - timedelta(seconds=1) if is_outage else resumed_at == PAST
