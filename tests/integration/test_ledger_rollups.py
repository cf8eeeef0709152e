"""Rollups are the events added up: each once, whoever adds them, and whatever fails."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from tests.factories import begun, claimed, new_job, result_of, submitted
from tests.house import eventually
from tests.plans import rows_read

from twofold_schema.ledger import outcomes, rollups, submit, sweeps
from twofold_schema.ledger.rollups import BOUNDS, Rollup
from twofold_schema.states import JobClass, JobState

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

_TELL = text("""
    INSERT INTO events (xid, at, job_id, tenant, job_class, generation, fence, left_state, state,
                        seconds)
    SELECT 1, at, gen_random_uuid(), :tenant, 1, 1, 0, 'queued', 'running', seconds
    FROM unnest(CAST(:ats AS timestamptz[]), CAST(:seconds AS double precision[]))
         AS t (at, seconds)
""")
_WAYS = text("SELECT left_state, state, count(*) AS jobs FROM events GROUP BY left_state, state")
_MANY = text("""
    INSERT INTO events (xid, at, job_id, tenant, job_class, generation, fence, state)
    SELECT n, clock_timestamp(), gen_random_uuid(), 'default', 1, 1, 0, 'queued'
    FROM generate_series(1, 5000) AS n
""")
_ANALYZE = text("ANALYZE events")
_BUCKET = text("SELECT width_bucket(:seconds, CAST(:bounds AS double precision[]))")


def _tell(engine: Engine, *told: tuple[timedelta, float | None], tenant: str = "default") -> None:
    """Events of jobs that began to run so long after noon, and had waited for so many seconds."""
    with engine.begin() as connection:
        ats, seconds = [NOON + after for after, _ in told], [waited for _, waited in told]
        connection.execute(_TELL, {"ats": ats, "seconds": seconds, "tenant": tenant})


def _roll_up(engine: Engine) -> int:
    with engine.begin() as connection:
        return rollups.roll_up(connection)


def _all_rolled_up(engine: Engine, count: int) -> None:
    """Return once so many events have been added, and not one more."""
    added = 0

    def add() -> bool:
        nonlocal added
        added += _roll_up(engine)
        return added >= count

    eventually(add, within=20)
    assert (added, _roll_up(engine)) == (count, 0)


def _read(engine: Engine, every: timedelta = MINUTE, **options: str) -> list[Rollup]:
    with engine.connect() as connection:
        return list(rollups.read(connection, NOON - HOUR, NOON + HOUR, every=every, **options))


def _ways(engine: Engine) -> Counter[tuple[JobState | None, JobState]]:
    """How many jobs went each way, by the rollups of all time."""
    with engine.connect() as connection:
        every = rollups.read(
            connection, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        )
    ways: Counter[tuple[JobState | None, JobState]] = Counter()
    for one in every:
        ways[one.left_state, one.state] += one.jobs
        assert sum(one.histogram) == (one.jobs if one.left_state else 0)
    return ways


class TestRollUp:
    def test_adds_up_by_minute_with_a_histogram(self, engine: Engine) -> None:
        _tell(engine, (MINUTE / 2, 0.0), (MINUTE * 0.9, 3.0), (MINUTE, 2.0), (MINUTE, None))
        _all_rolled_up(engine, 4)

        first, second = _read(engine)

        assert (first.at, second.at) == (NOON, NOON + MINUTE)
        assert (first.jobs, first.seconds) == (2, 3.0)
        assert (second.jobs, second.seconds) == (2, 2.0)
        assert (first.left_state, first.state) == (JobState.QUEUED, JobState.RUNNING)
        assert first.job_class is JobClass.STANDARD
        of_two_seconds = BOUNDS.index(2.0) + 1
        expected = [0] * (len(BOUNDS) + 1)
        expected[0] = expected[of_two_seconds] = 1
        assert first.histogram == tuple(expected)
        assert [bucket for bucket, n in enumerate(second.histogram) if n] == [of_two_seconds]

    def test_adds_to_what_is_there_already(self, engine: Engine) -> None:
        for seconds in (1.0, 1.5, 100.0):
            _tell(engine, (MINUTE / 2, seconds))
            _all_rolled_up(engine, 1)

        (one,) = _read(engine)

        assert (one.jobs, one.seconds) == (3, 102.5)
        assert [n for n in one.histogram if n] == [2, 1]

    def test_tells_lives_of_jobs(self, engine: Engine) -> None:
        submitted(engine, *[new_job()] * 3)
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        with engine.begin() as connection:
            outcomes.complete(connection, run_id, {one: result_of(one) for one in taken[:2]})
        _all_rolled_up(engine, 8)

        assert _ways(engine) == {
            (None, JobState.QUEUED): 3,
            (JobState.QUEUED, JobState.RUNNING): 3,
            (JobState.RUNNING, JobState.SUCCEEDED): 2,
        }

    def test_does_not_skip_what_is_committed_late(self, engine: Engine) -> None:
        with engine.connect() as late:
            submit.insert_jobs(late, [new_job()])
            submitted(engine)
            assert _roll_up(engine) == 0
            late.commit()
        _all_rolled_up(engine, 2)
        assert _ways(engine) == {(None, JobState.QUEUED): 2}

    def test_what_was_rolled_back_is_added_again(self, engine: Engine) -> None:
        submitted(engine)
        with engine.connect() as connection:
            eventually(lambda: rollups.roll_up(connection) == 1, within=20)
            connection.rollback()
        _all_rolled_up(engine, 1)
        assert _ways(engine) == {(None, JobState.QUEUED): 1}

    def test_adds_a_bounded_number_at_once(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rollups, "ROLL_UP_ROWS", 3)
        _tell(engine, *[(MINUTE, 1.0)] * 7)
        assert eventually(lambda: _roll_up(engine), within=20) == 3
        assert [_roll_up(engine) for _ in range(3)] == [3, 1, 0]
        assert [one.jobs for one in _read(engine)] == [7]

    def test_many_keepers_add_each_event_once(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rollups, "ROLL_UP_ROWS", 2)
        submitted(engine, *[new_job()] * 20)
        ready = Barrier(3)

        def keep(_: int) -> None:
            ready.wait()
            for _ in range(15):
                with engine.begin() as connection:
                    if sweeps.try_duty(connection, "roll_up"):
                        rollups.roll_up(connection)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(keep, range(3)))
        eventually(lambda: not _roll_up(engine), within=20)
        with engine.connect() as connection:
            counted = {(row.left_state, row.state): row.jobs for row in connection.execute(_WAYS)}
        assert _ways(engine) == counted == {(None, "queued"): 20}

    def test_reads_no_event_twice(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(_MANY)
            connection.execute(_ANALYZE)
        parameters = {"bounds": list(BOUNDS), "rows": 10}
        # Besides the events: the cursor's row, to write it.
        assert rows_read(engine, rollups._ROLL_UP, {"xid": 2500, "position": 0, **parameters}) <= 12


class TestRead:
    def test_adds_minutes_up_to_longer_spans(self, engine: Engine) -> None:
        _tell(engine, *[(MINUTE * n, 1.0) for n in (0, 4, 5, 9, 59)])
        _all_rolled_up(engine, 5)

        spans = _read(engine, every=5 * MINUTE)

        assert [(span.at - NOON, span.jobs) for span in spans] == [
            (timedelta(0), 2),
            (5 * MINUTE, 2),
            (55 * MINUTE, 1),
        ]
        assert [sum(span.histogram) for span in spans] == [2, 2, 1]

    def test_a_range_holds_its_beginning_and_not_its_end(self, engine: Engine) -> None:
        _tell(engine, *[(MINUTE * n, 1.0) for n in range(4)])
        _all_rolled_up(engine, 4)
        with engine.connect() as connection:
            found = rollups.read(connection, NOON + MINUTE, NOON + 3 * MINUTE)
        assert [one.at for one in found] == [NOON + MINUTE, NOON + 2 * MINUTE]

    def test_is_of_one_tenant_or_of_all(self, engine: Engine) -> None:
        _tell(engine, (MINUTE, 1.0))
        _tell(engine, (MINUTE, 4.0), tenant="zoo")
        _all_rolled_up(engine, 2)
        assert [one.seconds for one in _read(engine)] == [5.0]
        assert [one.seconds for one in _read(engine, tenant="zoo")] == [4.0]


def test_old_minutes_are_forgotten(engine: Engine) -> None:
    _tell(engine, (MINUTE, 1.0))
    submitted(engine)
    _all_rolled_up(engine, 2)
    with engine.begin() as connection:
        assert rollups.forget(connection, older_than=timedelta(days=1)) == 1
        assert rollups.forget(connection, older_than=timedelta(days=1)) == 0
    assert _read(engine) == []
    assert _ways(engine) == {(None, JobState.QUEUED): 1}


def test_each_bucket_begins_at_its_bound(engine: Engine) -> None:
    @given(st.floats(0, 2.0**22), st.sampled_from(BOUNDS))
    def holds(seconds: float, bound: float) -> None:
        for value in (seconds, bound):
            parameters = {"seconds": value, "bounds": list(BOUNDS)}
            with engine.connect() as connection:
                bucket = connection.execute(_BUCKET, parameters).scalar_one()
            assert bucket == sum(begin <= value for begin in BOUNDS)

    holds()
