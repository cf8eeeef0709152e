"""Jobs that ended a while ago lie in the history: read as ever, brought back, dropped by weeks."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text
from structlog.testing import capture_logs
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
from tests.rivals import rivals

from twofold_producer.keeper.duties import count_duties
from twofold_producer.keeper.loop import Keeper
from twofold_schema import database
from twofold_schema.errors import CorruptSource, JobNotFound, JobNotRetryable
from twofold_schema.ledger import (
    audit,
    generations,
    history,
    objects,
    outcomes,
    reads,
    requests,
    retention,
    submissions,
    submit,
    sweeps,
    tallies,
)
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.ledger.new_jobs import Accepted, NewJob
from twofold_schema.settings import KeeperSettings
from twofold_schema.states import JobState

AT_ONCE, HOUR, DAY = timedelta(0), timedelta(hours=1), timedelta(days=1)

_COLUMNS = text("""
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = :table ORDER BY ordinal_position
""")
_MOVED = text("SELECT id FROM history")
_PARTITIONS = text("""
    SELECT relname, (SELECT count(*) FROM history WHERE history.tableoid = pg_class.oid) AS jobs
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'history'::regclass ORDER BY relname
""")
_AGE = text("UPDATE jobs SET finished_at = finished_at - :age WHERE id = ANY(:ids)")
_AGE_SUBMISSION = text("UPDATE submissions SET created_at = created_at - :age")
_CREATED_LONG_AGO = text("UPDATE jobs SET created_at = created_at - :age")
_EVENTS = text("SELECT count(*) FROM events")
_FILL = text("""
    INSERT INTO jobs (id, state, max_attempts, source, output_prefix, parameters, lane, pixels,
                      est_gpu_seconds, queued_at, finished_at, submission_id)
    SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'failed' ELSE 'queued' END, 3,
           's3://twofold/a', 's3://twofold/b', '{}', 'lane', 1, 1, clock_timestamp(),
           CASE WHEN n % 2 = 0 THEN clock_timestamp() END, :submission
    FROM generate_series(1, 20000) AS n
""")


def _ended(engine: Engine, *new_jobs: NewJob) -> list[UUID]:
    """Jobs that have succeeded."""
    ids = submitted(engine, *new_jobs)
    _end(engine, ids)
    return ids


def _end(engine: Engine, ids: Sequence[UUID]) -> None:
    run_id = begun(engine)
    while taken := claimed(engine, run_id, started=True):
        done = {one: result_of(one) for one in taken if one.job_id in ids}
        with engine.begin() as connection:
            outcomes.complete(connection, run_id, done)
            outcomes.fail(
                connection, run_id, {one: CorruptSource() for one in taken if one not in done}
            )


def _failed(engine: Engine, *new_jobs: NewJob) -> list[UUID]:
    ids = submitted(engine, *new_jobs)
    _end(engine, [])
    return ids


def _age(engine: Engine, ids: Sequence[UUID], age: timedelta) -> None:
    with engine.begin() as connection:
        connection.execute(_AGE, {"ids": list(ids), "age": age})


def _move(engine: Engine, age: timedelta = AT_ONCE) -> int:
    with engine.begin() as connection:
        return history.move(connection, age=age)


def _moved(engine: Engine) -> set[UUID]:
    with engine.connect() as connection:
        return set(connection.execute(_MOVED).scalars())


def _drop(engine: Engine, days: int) -> int:
    with engine.begin() as connection:
        return retention.drop_partitions(
            connection, retention.HISTORY, older_than=timedelta(days=days)
        )


def _keep(engine: Engine, **settings: Any) -> None:
    keeper = Keeper(count_duties(engine, KeeperSettings(**settings)), every_seconds=3600.0)
    with capture_logs():
        keeper.once()


def _counts(engine: Engine) -> dict[str, int]:
    """How many jobs are in each state, by the tallies, which a count must not contradict."""
    with engine.connect() as connection:
        assert tallies.differences(connection) == []
        assert audit.broken_lives(connection).count == 0
        counts: Counter[str] = Counter()
        for tally in tallies.overview(connection):
            counts[tally.state] += tally.jobs
        return counts


def _partitions(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {row.relname: row.jobs for row in connection.execute(_PARTITIONS)}


def _week(moment: datetime) -> str:
    return f"history_{moment - timedelta(days=moment.weekday()):%Y%m%d}"


def test_both_tables_have_the_same_columns_in_the_same_order(engine: Engine) -> None:
    """Rows go to and fro whole."""
    with engine.connect() as connection:
        jobs, moved = (
            connection.execute(_COLUMNS, {"table": table}).all() for table in ("jobs", "history")
        )
    assert jobs == moved


class TestMoving:
    def test_moves_what_ended_a_while_ago_and_nothing_else(self, engine: Engine) -> None:
        (done,) = _ended(engine)
        failed, late = _failed(engine, new_job(), new_job(start_by=PAST))
        (cancelled,) = submitted(engine)
        with engine.begin() as connection:
            requests.cancel(connection, [cancelled])
            sweeps.expire(connection)
        old = [done, failed, late, cancelled]
        _age(engine, old, timedelta(hours=2))
        running, fresh, queued, scheduled = submitted(
            engine, new_job(), new_job(), new_job(), new_job(start_at=FUTURE)
        )
        claimed(engine, begun(engine), limit=1)
        with engine.begin() as connection:
            requests.cancel(connection, [fresh])
            events = connection.execute(_EVENTS).scalar_one()
            before = reads.get_many(connection, [*old, running, fresh, queued, scheduled])
        counts = _counts(engine)

        assert _move(engine, HOUR) == len(old)

        assert _moved(engine) == set(old)
        assert _counts(engine) == counts
        with engine.connect() as connection:
            assert reads.get_many(connection, [job.id for job in before]) == before
            assert connection.execute(_EVENTS).scalar_one() == events
        assert _move(engine, HOUR) == 0

    def test_takes_a_bounded_number_and_the_oldest_first(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = _ended(engine, *[new_job()] * 3)
        _age(engine, ids[1:], HOUR)
        monkeypatch.setattr(history, "MOVE_ROWS", 2)

        assert _move(engine) == 2
        assert _moved(engine) == set(ids[1:])
        assert _move(engine) == 1

    def test_leaves_what_waits_for_its_fixed_name(self, engine: Engine) -> None:
        (job_id,) = _ended(engine, new_job(publish_to="s3://twofold/cat.png"))
        assert _move(engine) == 0
        with engine.begin() as connection:
            objects.mark_published(connection, job_id)
        assert _move(engine) == 1

    def test_waits_for_nobody(self, engine: Engine) -> None:
        held, free = _ended(engine, new_job(), new_job())
        with rivals(engine) as rival, engine.begin() as connection:
            requests.cancel(connection, [held])
            mover = rival(lambda c: history.move(c, age=AT_ONCE))
            assert (mover.blocked, mover.answer()) == (False, 1)
        assert _moved(engine) == {free}

    def test_reads_no_more_jobs_than_it_moves(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(_FILL, {"submission": None})
        settle(engine)
        read = rows_read(engine, history._MOVE, {"age": AT_ONCE, "rows": 50}, of={"jobs"})
        # Once to find them, once to take them.
        assert read <= 2 * 50


class TestReading:
    def test_pages_go_on_though_jobs_are_moved_between_them(self, engine: Engine) -> None:
        ids = _ended(engine, *[new_job()] * 12)
        seen: list[UUID] = []
        while True:
            with engine.connect() as connection:
                page = reads.find(connection, before=seen[-1] if seen else None, limit=2)
            if not page:
                break
            seen += [job.id for job in page]
            _age(engine, [ids[len(seen) // 2], ids[-len(seen) // 2]], HOUR)
            _move(engine, HOUR)
        assert seen == sorted(ids, reverse=True)

    def test_are_in_the_order_that_is_asked_for(self, engine: Engine) -> None:
        first, second, third = _ended(engine, *[new_job()] * 3)
        _age(engine, [second], HOUR)
        _move(engine, HOUR)
        with engine.connect() as connection:
            found = reads.get_many(connection, [third, second, first])
            assert reads.unfinished(connection, [first, second]) == set()
            succeeded = reads.find(connection, states=[JobState.SUCCEEDED])
            assert reads.find(connection, states=[JobState.QUEUED]) == []
        assert [job.id for job in found] == [third, second, first]
        assert {job.id for job in succeeded} == {first, second, third}

    def test_a_page_reads_no_more_than_it_has_whichever_table_it_is_in(
        self, engine: Engine
    ) -> None:
        with engine.begin() as connection:
            submission = submissions.begin(connection)
            connection.execute(_FILL, {"submission": submission})
        for _ in range(2):
            settle(engine)
            tables = 1 + len(_partitions(engine))
            assert rows_read(engine, reads._page(ALL_JOBS), {"limit": 50}) <= 50 + tables
            of_one = {"id": submission, "after": UUID(int=0), "limit": 50}
            read = rows_read(engine, generations._JOBS, of_one, first=database.read_in_order)
            assert read <= 50 + tables
            while _move(engine):
                pass

    def test_a_submission_is_counted_and_read_over_both(self, engine: Engine) -> None:
        with engine.begin() as connection:
            submission = submissions.begin(connection)
            answers = submit.insert_jobs(connection, [new_job()] * 5, submission_id=submission)
        ids = [answer.job_id for answer in answers]
        _end(engine, ids[:3])
        _age(engine, ids[1:4], HOUR)
        assert _move(engine, HOUR) == 3

        with engine.begin() as connection:
            assert submissions.report(connection, submission).counts == {
                JobState.SUCCEEDED: 3,
                JobState.FAILED: 2,
            }
            assert [job.id for job in generations.jobs_of(connection, submission, page=2)] == ids
            assert reads.submission_jobs(connection, submission) == ids

    def test_a_submission_whose_last_job_was_moved_is_not_abandoned(self, engine: Engine) -> None:
        with engine.begin() as connection:
            submission = submissions.begin(connection)
            connection.execute(_AGE_SUBMISSION, {"age": DAY})
            submit.insert_jobs(connection, [new_job()], submission_id=submission)
        _end(engine, [])
        assert _move(engine) == 1
        with engine.begin() as connection:
            assert submissions.seal_abandoned(connection, age=HOUR) == 0
            assert submissions.seal_abandoned(connection, age=AT_ONCE) == 1

    def test_an_outcome_whose_reply_was_lost_stands_though_its_job_was_moved(
        self, engine: Engine
    ) -> None:
        submitted(engine)
        run_id = begun(engine)
        (claim,) = claimed(engine, run_id, started=True)
        for _ in range(2):
            with engine.begin() as connection:
                (settled,) = outcomes.complete(connection, run_id, {claim: result_of(claim)})
            assert (settled.stands, settled.state) == (True, JobState.SUCCEEDED)
            _move(engine)


class TestChangingOnesMind:
    def test_a_cancel_answers_what_became_of_it(self, engine: Engine) -> None:
        (done,) = _ended(engine)
        (failed,) = _failed(engine)
        _move(engine)
        with engine.begin() as connection:
            assert requests.cancel(connection, [done, failed]) == {
                done: "succeeded",
                failed: "failed",
            }
        assert _moved(engine) == {done, failed}

    def test_a_retry_brings_it_back(self, engine: Engine) -> None:
        there, moved = _failed(engine, new_job(), new_job())
        _age(engine, [moved], HOUR)
        assert _move(engine, HOUR) == 1

        with engine.begin() as connection:
            requests.retry(connection, [moved, there])

        assert _moved(engine) == set()
        assert _counts(engine) == {"queued": 2}
        for job_id in (moved, there):
            job = job_of(engine, job_id)
            assert (job.state, job.generation, job.fence) == (JobState.QUEUED, 2, 1)
        assert {one.job_id for one in claimed(engine, begun(engine))} == {there, moved}

    def test_a_retry_that_is_refused_leaves_it_where_it_is(self, engine: Engine) -> None:
        (done,) = _ended(engine)
        (failed,) = _failed(engine)
        _move(engine)
        with (
            pytest.raises(JobNotRetryable, match=f"{done} is succeeded"),
            engine.begin() as connection,
        ):
            requests.retry(connection, [failed, done])
        assert _moved(engine) == {done, failed}
        assert _counts(engine) == {"succeeded": 1, "failed": 1}

    def test_who_comes_while_it_is_moved_waits_and_finds_it(self, engine: Engine) -> None:
        cancelled, retried = _failed(engine, new_job(), new_job())
        with rivals(engine) as rival:
            with engine.begin() as connection:
                history.move(connection, age=AT_ONCE)
                cancel = rival(lambda c: requests.cancel(c, [cancelled]))
                retry = rival(lambda c: requests.retry(c, [retried]))
                assert (cancel.blocked, retry.blocked) == (True, True)
            assert cancel.answer() == {cancelled: "failed"}
            retry.answer()
        assert _counts(engine) == {"failed": 1, "queued": 1}

    def test_two_retries_begin_one_generation(self, engine: Engine) -> None:
        (job_id,) = _failed(engine)
        _move(engine)
        with rivals(engine) as rival:
            with engine.begin() as connection:
                requests.retry(connection, [job_id])
                other = rival(lambda c: requests.retry(c, [job_id]))
                assert other.blocked
            with pytest.raises(JobNotRetryable, match="is queued"):
                other.answer()
        assert job_of(engine, job_id).generation == 2

    def test_a_name_is_looked_at_again_for_the_newest_wherever_it_is(self, engine: Engine) -> None:
        name = "s3://twofold/cat.png"
        old, new = _ended(engine, *[new_job(publish_to=name)] * 2)
        with engine.begin() as connection:
            for job_id in (old, new):
                objects.mark_published(connection, job_id)
        _move(engine)
        counts = _counts(engine)

        with engine.begin() as connection:
            objects.look_again(connection, name)
            assert [job.id for job in objects.unpublished(connection, limit=9)] == [new]

        assert _moved(engine) == {old}
        assert _counts(engine) == counts


class TestKeeping:
    def test_a_week_has_its_partition_before_jobs_come_to_it(self, engine: Engine) -> None:
        """Also a week that was over before anybody looked after it."""
        now = datetime.now(UTC)
        old, new = _ended(engine, new_job(), new_job())
        _age(engine, [old], timedelta(days=30))

        _keep(engine, history_after_hours=0)

        found = _partitions(engine)
        assert found[_week(now - timedelta(days=30))] == 1
        assert found[_week(now)] == 1
        assert found["history_default"] == 0
        assert _week(now + timedelta(weeks=retention.HISTORY.ahead)) in found
        assert _moved(engine) == {old, new}

    def test_what_is_old_is_dropped_and_taken_from_the_tallies(self, engine: Engine) -> None:
        old, *kept = _ended(engine, new_job(tenant="zoo"), new_job(), new_job())
        (failed,) = _failed(engine, new_job(measure=None))
        _age(engine, [old, failed], timedelta(days=30))
        _keep(engine, history_after_hours=0)
        assert _counts(engine) == {"succeeded": 3, "failed": 1}
        assert _drop(engine, days=60) == 0
        assert _moved(engine) == {old, failed, *kept}
        partitions = _partitions(engine)

        assert _drop(engine, days=21) == 1

        (dropped,) = partitions.keys() - _partitions(engine).keys()
        assert partitions[dropped] == 2
        assert _moved(engine) == set(kept)
        assert _counts(engine) == {"succeeded": 2}
        with pytest.raises(JobNotFound, match="TWOFOLD_JOBS_DAYS"):
            job_of(engine, old)

    def test_what_is_old_and_has_no_partition_is_deleted(self, engine: Engine) -> None:
        old, kept = _ended(engine, new_job(), new_job())
        _age(engine, [old], timedelta(days=200))
        _move(engine)
        assert _partitions(engine)["history_default"] == 1

        assert _drop(engine, days=90) == 0

        assert _moved(engine) == {kept}
        assert _counts(engine) == {"succeeded": 1}

    def test_a_partition_in_use_is_left_for_the_next_time(self, engine: Engine) -> None:
        (job_id,) = _failed(engine)
        _age(engine, [job_id], timedelta(days=30))
        _keep(engine, history_after_hours=0)

        def drop(connection: Connection) -> int:
            return retention.drop_partitions(connection, retention.HISTORY, older_than=DAY)

        with rivals(engine) as rival, engine.begin() as connection:
            reads.get(connection, job_id)
            assert rival(drop).answer() == 0
        assert _counts(engine) == {"failed": 1}
        assert _drop(engine, days=1) > 0
        assert _counts(engine) == {}

    def test_a_job_that_waits_for_longer_than_jobs_are_kept_is_never_dropped(
        self, engine: Engine
    ) -> None:
        ended = _ended(engine, *[new_job()] * 3)
        _age(engine, ended, timedelta(days=30))
        in_90_days = datetime.now(UTC) + timedelta(days=90)
        (scheduled,) = submitted(engine, new_job(start_at=in_90_days, key="later"))
        (queued,) = submitted(engine)
        with engine.begin() as connection:
            connection.execute(_CREATED_LONG_AGO, {"age": timedelta(days=200)})

        _keep(engine, history_after_hours=0, jobs_days=1)
        _keep(engine, history_after_hours=0, jobs_days=1)

        assert _counts(engine) == {"scheduled": 1, "queued": 1}
        assert job_of(engine, scheduled).scheduled_at == in_90_days
        assert job_of(engine, queued).state is JobState.QUEUED

    def test_a_key_outlives_its_job(self, engine: Engine) -> None:
        (job_id,) = _ended(engine, new_job(key="cat"))
        _age(engine, [job_id], timedelta(days=30))
        _keep(engine, history_after_hours=0)
        assert _drop(engine, days=1) > 0

        with engine.begin() as connection:
            answers = submit.insert_jobs(connection, [new_job(key="cat")])

        assert answers == [Accepted(job_id, created=False)]
        assert _counts(engine) == {}
        with pytest.raises(JobNotFound, match="longer ago than jobs are kept"):
            job_of(engine, job_id)
