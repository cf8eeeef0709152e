"""Tallies are what a count would say, whoever wrote what, and reading them counts nothing."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, text
from tests.factories import (
    AMPLE,
    FUTURE,
    begun,
    claimed,
    new_job,
    of_side,
    result_of,
    submitted,
)
from tests.plans import pages_read, rows_read, settle
from tests.rivals import rivals

from twofold_schema import lanes
from twofold_schema.job import Parameters
from twofold_schema.ledger import claims, holds, outcomes, requests, submit, tallies
from twofold_schema.states import JobClass, JobState

_CHANGES = text("SELECT count(*) FROM tally_changes")
_MOVE = text("UPDATE jobs SET tenant = 'zoo', job_class = 0")
_CHANGE = text("""
    INSERT INTO tally_changes (tenant, job_class, state, jobs, gpu_microseconds, unmeasured)
    SELECT 'default', 1, 'queued', 1, 0, 0 FROM generate_series(1, :rows)
""")
_FROM_AFAR = text("UPDATE folds SET xid = xid + 1000000")
_AGE = text("UPDATE jobs SET queued_at = queued_at - interval '1 hour' WHERE id = :id")
_SCHEDULE = text("""
    UPDATE jobs SET state = 'scheduled', scheduled_at = clock_timestamp()
    WHERE id IN (SELECT id FROM jobs WHERE state = 'queued' ORDER BY id LIMIT :rows)
""")
_ONE_CLASS = text("UPDATE jobs SET job_class = 1 WHERE :classes = 1")
_FILL = text("""
    INSERT INTO jobs (id, state, job_class, max_attempts, source, output_prefix, parameters, lane,
                      pixels, est_gpu_seconds, queued_at, run_id, run_deadline)
    SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'running' ELSE 'queued' END, n % 3, 3,
           's3://twofold/a', 's3://twofold/b', '{}', 'lane', 1, 1, clock_timestamp(),
           CASE WHEN n % 2 = 0 THEN gen_random_uuid() END,
           CASE WHEN n % 2 = 0 THEN clock_timestamp() END
    FROM generate_series(1, 10000) AS n
""")


def _counts(engine: Engine) -> dict[tuple[str, str, str], int]:
    with engine.connect() as connection:
        found = tallies.overview(connection)
    return {(tally.tenant, tally.job_class, tally.state): tally.jobs for tally in found}


def _fold(engine: Engine) -> int:
    with engine.begin() as connection:
        return tallies.fold(connection)


class TestOverview:
    def test_counts_by_tenant_class_and_state(self, engine: Engine) -> None:
        zoo = new_job(tenant="zoo", job_class=JobClass.BULK)
        submitted(engine, new_job(), new_job(), zoo, new_job(start_at=FUTURE))
        claimed(engine, begun(engine), limit=1)

        assert _counts(engine) == {
            ("default", "standard", "queued"): 1,
            ("default", "standard", "running"): 1,
            ("default", "standard", "scheduled"): 1,
            ("zoo", "bulk", "queued"): 1,
        }

    def test_adds_up_what_is_known_of_their_cost(self, engine: Engine) -> None:
        submitted(engine, of_side(512), of_side(1024), new_job(measure=None))
        with engine.connect() as connection:
            (tally,) = tallies.overview(connection)

        known = [lanes.measure(Parameters(seed=7), side, side) for side in (512, 1024)]
        cost = sum(measure.est_gpu_seconds for measure in known)
        assert (tally.jobs, tally.unmeasured) == (3, 1)
        assert tally.gpu_seconds == pytest.approx(cost, abs=1e-5)

    def test_is_the_same_before_during_and_after_a_fold(self, engine: Engine) -> None:
        submitted(engine, *[new_job()] * 3)
        before = _counts(engine)
        with engine.connect() as connection:
            tallies.fold(connection)
            assert _counts(engine) == before
            connection.commit()
        assert _counts(engine) == before
        claimed(engine, begun(engine))
        _fold(engine)
        assert _counts(engine) == {("default", "standard", "running"): 3}

    def test_reads_no_job(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(_FILL)
        settle(engine)
        assert rows_read(engine, tallies._OVERVIEW, {"tenant": None}) == 6
        _fold(engine)
        assert rows_read(engine, tallies._OVERVIEW, {"tenant": None}) == 6


class TestChanges:
    def test_follow_a_measure(self, engine: Engine) -> None:
        """What is known of a running job's cost changes, and nothing else."""
        submitted(engine, new_job(measure=None))
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        found = lanes.measure(Parameters(), 512, 512)
        with engine.begin() as connection:
            holds.measure(connection, run_id, dict.fromkeys(taken, found))
            (tally,) = tallies.overview(connection)

        assert (tally.jobs, tally.unmeasured, tally.state) == (1, 0, JobState.RUNNING)
        assert tally.gpu_seconds == pytest.approx(found.est_gpu_seconds, abs=1e-6)

    def test_follow_a_job_to_another_tenant_and_class(self, engine: Engine) -> None:
        submitted(engine, new_job(), new_job())
        with engine.begin() as connection:
            connection.execute(_MOVE)

        assert _counts(engine) == {("zoo", "interactive", "queued"): 2}

    def test_nothing_is_left_of_costs_that_come_and_go(self, engine: Engine) -> None:
        """A sum of floats would keep a rest of them."""
        submitted(engine, *[of_side(64 * n) for n in range(1, 12)])
        run_id = begun(engine)
        while taken := claimed(engine, run_id):
            with engine.begin() as connection:
                outcomes.complete(connection, run_id, {one: result_of(one) for one in taken})
            _fold(engine)
        with engine.connect() as connection:
            assert [one.gpu_seconds for one in tallies.backlog(connection)] == [0, 0, 0]

    def test_are_one_row_per_statement_and_side(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(_FILL)
            assert connection.execute(_CHANGES).scalar_one() == 6
        claimed(engine, begun(engine))
        with engine.connect() as connection:
            assert connection.execute(_CHANGES).scalar_one() == 6 + 2

    def test_of_a_large_statement_take_no_longer_for_a_small_one_before_it(
        self, engine: Engine
    ) -> None:
        """A session keeps the plan that it made; a bad one would exceed the statement's time."""
        with engine.begin() as connection:
            for _ in range(3):
                connection.execute(_FILL)
            for rows in (1, 14_999):
                assert connection.execute(_SCHEDULE, {"rows": rows}).rowcount == rows
            counts = {
                state: sum(one.jobs for one in tallies.overview(connection) if one.state is state)
                for state in (JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING)
            }
        assert list(counts.values()) == [15_000, 0, 15_000]

    def test_are_none_where_nothing_changed(self, engine: Engine) -> None:
        (job_id,) = submitted(engine)
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        _fold(engine)
        with engine.begin() as connection:
            holds.start(connection, run_id, dict.fromkeys(taken, "v1"))
            requests.cancel(connection, [job_id])
            claims.claim(connection, run_id, limit=1, run_deadline=AMPLE)
            assert connection.execute(_CHANGES).scalar_one() == 0

    def test_no_writer_waits_for_another_nor_for_a_fold(self, engine: Engine) -> None:
        submitted(engine)
        with rivals(engine) as rival, engine.begin() as connection:
            submit.insert_jobs(connection, [new_job()])
            writer = rival(lambda c: submit.insert_jobs(c, [new_job()]))
            assert not writer.blocked
            folder = rival(tallies.fold)
            assert not folder.blocked
            assert folder.answer() == 2
            tallies.fold(connection)
            assert not rival(lambda c: submit.insert_jobs(c, [new_job()])).blocked
        assert _counts(engine) == {("default", "standard", "queued"): 4}


class TestFold:
    def test_takes_a_bounded_number(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(5):
            submitted(engine)
        monkeypatch.setattr(tallies, "FOLD_ROWS", 3)

        assert [_fold(engine) for _ in range(3)] == [3, 2, 0]
        assert _counts(engine) == {("default", "standard", "queued"): 5}

    def test_leaves_what_is_committed_late_to_a_later_one(self, engine: Engine) -> None:
        """Its number is one that the fold in between has gone past."""
        with engine.connect() as slow:
            submit.insert_jobs(slow, [new_job()])
            submitted(engine)
            assert _fold(engine) == 1
            slow.commit()
        assert _counts(engine) == {("default", "standard", "queued"): 2}
        assert [_fold(engine), _fold(engine)] == [1, 0]
        assert _counts(engine) == {("default", "standard", "queued"): 2}

    def test_passes_over_no_more_than_one_left_under_a_held_snapshot(self, engine: Engine) -> None:
        parameters, pages = {"rows": tallies.FOLD_ROWS}, list[int]()
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as holder:
            holder.execute(_CHANGES)
            for _ in range(2):
                for _ in range(20):
                    with engine.begin() as connection:
                        connection.execute(_CHANGE, {"rows": 200})
                    _fold(engine)
                pages.append(pages_read(engine, tallies._FOLD, parameters))
                pages[-1] += pages_read(engine, tallies._OVERVIEW, {"tenant": None})
        assert pages[1] < 1.5 * pages[0]

    def test_that_another_server_noted_hides_nothing(self, engine: Engine) -> None:
        """A dump that is restored brings numbers along that this one has not come to yet."""
        submitted(engine)
        _fold(engine)
        with engine.begin() as connection:
            connection.execute(_FROM_AFAR)
        submitted(engine)
        assert _counts(engine) == {("default", "standard", "queued"): 2}
        assert len(claimed(engine, begun(engine))) == 2
        assert _fold(engine) == 3
        assert _counts(engine) == {("default", "standard", "running"): 2}


class TestBacklog:
    def test_is_what_is_queued_by_class(self, engine: Engine) -> None:
        bulk, _ = submitted(
            engine, new_job(job_class=JobClass.BULK), new_job(job_class=JobClass.BULK, measure=None)
        )
        submitted(engine, new_job(start_at=FUTURE), new_job(job_class=JobClass.INTERACTIVE))
        claimed(engine, begun(engine), limit=1)
        with engine.begin() as connection:
            connection.execute(_AGE, {"id": bulk})
            interactive, standard, waiting = tallies.backlog(connection)

        assert (interactive.jobs, standard.jobs, waiting.jobs) == (0, 0, 2)
        assert (interactive.oldest, standard.oldest) == (None, None)
        assert waiting.job_class is JobClass.BULK
        assert (waiting.gpu_seconds > 0, waiting.unmeasured) == (True, 1)
        assert waiting.oldest is not None
        assert waiting.oldest >= timedelta(hours=1)

    @pytest.mark.parametrize("classes", [3, 1])
    def test_reads_no_more_than_the_first_of_each_class(self, engine: Engine, classes: int) -> None:
        """Also where all jobs are of one class, and the others' are looked for in vain."""
        with engine.begin() as connection:
            connection.execute(_FILL)
            connection.execute(_ONE_CLASS, {"classes": classes})
        settle(engine)
        read = rows_read(engine, tallies._BACKLOG, {"classes": 3, "among": 100}, of={"jobs"})
        assert 100 <= read <= 3 * 100
