"""A run takes the right work, measures it and starts it; nobody else's."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from tests.factories import (
    AMPLE,
    FUTURE,
    PAST,
    REVISION,
    begun,
    claimed,
    job_of,
    new_job,
    of_side,
    result_of,
    silence,
    submitted,
)
from tests.plans import FETCHED, rows_read, settle

from twofold_schema import database, lanes
from twofold_schema.errors import SourceChanged
from twofold_schema.ids import new_id
from twofold_schema.job import Claim, Parameters
from twofold_schema.ledger import claims, holds, outcomes, requests, runs
from twofold_schema.settings import DatabaseSettings
from twofold_schema.states import JobClass, JobState

_PASS = "UPDATE jobs SET {} = '2020-01-01Z'"
_MARK = text("UPDATE jobs SET isolation = :mark WHERE id = :id")

# All of them wait.
_QUEUE = text("""
    INSERT INTO jobs (id, state, max_attempts, source, output_prefix, parameters, lane, pixels,
                      est_gpu_seconds, queued_at)
    SELECT gen_random_uuid(), 'queued', 3, 's3://twofold/a', 's3://twofold/b', '{}',
           'lane' || n % 2, 1, 1, clock_timestamp()
    FROM generate_series(1, 8000) AS n
""")
# One lane, submitted faster than anybody analyses.
_DEEP = text("""
    INSERT INTO jobs (id, state, max_attempts, source, output_prefix, parameters, lane, pixels,
                      lattice_pixels, est_gpu_seconds, queued_at)
    SELECT uuidv7(), 'queued', 3, 's3://twofold/a', 's3://twofold/b', '{}', 'lane', 1, 1, 1,
           clock_timestamp()
    FROM generate_series(1, 20000) AS n
""")
_END_MOST = text("""
    UPDATE jobs SET state = 'cancelled', finished_at = clock_timestamp()
    WHERE id IN (SELECT id FROM jobs ORDER BY id LIMIT 7000)
""")
# A queue of two lanes behind many finished jobs.
_FILL = text("""
    INSERT INTO jobs (id, state, job_class, max_attempts, source, output_prefix, parameters, lane,
                      pixels, est_gpu_seconds, queued_at, start_by, finish_by, finished_at)
    SELECT gen_random_uuid(), CASE WHEN finished THEN 'failed' ELSE 'queued' END, n % 3, 3,
           's3://twofold/a', 's3://twofold/b', '{}', 'lane' || n % 2, 1, 1, clock_timestamp(),
           CASE WHEN n % 4 = 0 THEN '2100-01-01Z'::timestamptz END,
           CASE WHEN n % 3 = 0 THEN '2100-01-01Z'::timestamptz END,
           CASE WHEN finished THEN clock_timestamp() END
    FROM (SELECT n, n <= 20000 AS finished FROM generate_series(1, 25000) AS n) AS jobs
""")
_TOO_LARGE = text("""
    UPDATE jobs SET lattice_pixels = 4194304, lane = 'large'
    WHERE id IN (SELECT id FROM jobs WHERE state = 'queued' ORDER BY job_class, id LIMIT :first)
""")
# What this transaction has read so far: of jobs, and of what triggers write, for them to read.
_READ_SO_FAR = text("""
    SELECT relname AS name, seq_tup_read + coalesce(idx_tup_fetch, 0) AS rows
    FROM pg_stat_xact_user_tables WHERE relname ~ '^(jobs|events.*)$'
""")
_FORGET_SIZES = text("UPDATE jobs SET lattice_pixels = NULL")


def _pass(engine: Engine, column: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(_PASS.format(column)))


def _ids(taken: list[Claim]) -> list[UUID]:
    return [claim.job_id for claim in taken]


def test_a_claim_takes_the_most_urgent_class_first_and_then_the_oldest(engine: Engine) -> None:
    classes = (JobClass.BULK, JobClass.STANDARD, JobClass.INTERACTIVE) * 2
    job_ids = submitted(engine, *[new_job(job_class=job_class) for job_class in classes])
    taken = claimed(engine, begun(engine))
    assert _ids(taken) == [job_ids[n] for n in (2, 5, 1, 4, 0, 3)]


def test_a_claim_takes_one_lane_that_of_the_best_job(engine: Engine) -> None:
    small, large = (new_job(measure=lanes.measure(Parameters(), n, n)) for n in (64, 512))
    job_ids = submitted(engine, large, small, large, new_job(measure=None), new_job(measure=None))
    run_id = begun(engine)
    taken = [_ids(claimed(engine, run_id)) for _ in range(4)]
    assert taken == [[job_ids[0], job_ids[2]], [job_ids[1]], job_ids[3:], []]


def test_a_claim_takes_no_more_than_its_limit_and_says_so_in_the_row(engine: Engine) -> None:
    job_ids = submitted(engine, new_job(), new_job())
    run_id = begun(engine)
    (taken,) = claimed(engine, run_id, limit=1)
    job = job_of(engine, job_ids[0])
    assert (job.state, job.claim, taken.fence) == (JobState.RUNNING, taken, 1)
    assert job.claimed_at is not None
    assert job.run_deadline is not None
    assert AMPLE <= job.run_deadline - job.claimed_at < AMPLE + timedelta(seconds=1)
    assert job_of(engine, job_ids[1]).state is JobState.QUEUED


def test_every_claim_raises_the_fence_by_one(engine: Engine) -> None:
    submitted(engine)
    run_id = begun(engine)
    fences = []
    for _ in range(3):
        (held,) = claimed(engine, run_id)
        fences.append(held.fence)
        with engine.begin() as connection:
            outcomes.release(connection, run_id, [held])
    assert fences == [1, 2, 3]


@pytest.mark.parametrize("end", [runs.drain, runs.stop, runs.give_up])
def test_a_run_that_is_not_live_claims_nothing(engine: Engine, end: object) -> None:
    assert callable(end)
    submitted(engine)
    run_id = begun(engine)
    with engine.begin() as connection:
        end(connection, run_id)
    assert claimed(engine, run_id) == []


def test_a_run_without_a_lease_claims_nothing(engine: Engine) -> None:
    submitted(engine)
    run_id = begun(engine)
    silence(engine, run_id)
    assert claimed(engine, run_id) == []
    assert claimed(engine, new_id()) == []


def test_a_job_that_names_a_model_revision_waits_for_a_run_that_serves_it(engine: Engine) -> None:
    wanted = [Parameters(model_revision=name) for name in ("revision-2", None, REVISION)]
    job_ids = submitted(
        engine, *[new_job(parameters=parameters, measure=None) for parameters in wanted]
    )
    assert _ids(claimed(engine, begun(engine))) == job_ids[1:]
    assert _ids(claimed(engine, begun(engine, model_revision="revision-2"))) == job_ids[:1]


def test_a_job_that_does_not_fit_a_run_is_left_for_one_that_it_fits(engine: Engine) -> None:
    large, *fits = submitted(engine, of_side(1024), of_side(512), of_side(500))
    small_run = begun(engine, max_lattice_pixels=512 * 512)
    assert _ids(claimed(engine, small_run)) == fits
    assert claimed(engine, small_run) == []
    assert _ids(claimed(engine, begun(engine, max_lattice_pixels=1024 * 1024))) == [large]


def test_what_counts_is_the_padded_picture(engine: Engine) -> None:
    (job_id,) = submitted(engine, of_side(513))
    assert claimed(engine, begun(engine, max_lattice_pixels=576 * 576 - 1)) == []
    assert _ids(claimed(engine, begun(engine, max_lattice_pixels=576 * 576))) == [job_id]


def test_a_run_whose_limit_is_unknown_takes_everything(engine: Engine) -> None:
    (job_id,) = submitted(engine, of_side(4096))
    assert _ids(claimed(engine, begun(engine))) == [job_id]


def test_a_job_of_unknown_size_may_be_tried_by_anybody_until_it_is_measured(
    engine: Engine,
) -> None:
    """Also one whose lane was written by the version that did not note its size."""
    (unmeasured,) = submitted(engine, new_job(measure=None))
    small_run = begun(engine, max_lattice_pixels=512 * 512)
    taken = claimed(engine, small_run)
    assert _ids(taken) == [unmeasured]
    found = lanes.measure(Parameters(), 600, 600)
    with engine.begin() as connection:
        holds.measure(connection, small_run, dict.fromkeys(taken, found))
        outcomes.release(connection, small_run, taken)
    assert claimed(engine, small_run) == []
    with engine.begin() as connection:
        connection.execute(_FORGET_SIZES)
    assert _ids(claimed(engine, small_run)) == [unmeasured]


def test_only_jobs_of_a_better_class_are_taken_where_that_is_asked_for(engine: Engine) -> None:
    bulk, standard, urgent = submitted(
        engine, *[new_job(job_class=job_class) for job_class in reversed(JobClass)]
    )
    run_id = begun(engine)
    assert _ids(claimed(engine, run_id, above=JobClass.STANDARD)) == [urgent]
    assert claimed(engine, run_id, above=JobClass.STANDARD) == []
    assert claimed(engine, run_id, above=JobClass.INTERACTIVE) == []
    assert _ids(claimed(engine, run_id, above=JobClass.BULK)) == [standard]
    assert _ids(claimed(engine, run_id)) == [bulk]


@pytest.mark.parametrize(("side", "jobs"), [(512, 8), (1024, 2), (1448, 1), (4096, 1)])
def test_a_claim_is_for_no_more_pixels_than_asked_for_but_for_one_job_in_any_case(
    engine: Engine, side: int, jobs: int
) -> None:
    submitted(engine, *[of_side(side)] * 9)
    assert len(claimed(engine, begun(engine), pixels=8 * 512 * 512 + 99)) == jobs


def test_a_job_of_unknown_size_counts_for_next_to_nothing_in_a_claim(engine: Engine) -> None:
    submitted(engine, *[new_job(measure=None)] * 9)
    assert len(claimed(engine, begun(engine), limit=7, pixels=512 * 512)) == 7


@pytest.mark.parametrize("alone", ["held", "urgent"])
def test_an_urgent_job_shares_a_run_with_isolated_work_no_more_than_others(
    engine: Engine, alone: str
) -> None:
    (held,) = submitted(engine, new_job(job_class=JobClass.BULK))
    if alone == "held":
        with engine.begin() as connection:
            connection.execute(_MARK, {"id": held, "mark": new_id()})
    run_id = begun(engine)
    assert _ids(claimed(engine, run_id)) == [held]
    urgent, younger = submitted(engine, *[new_job(job_class=JobClass.INTERACTIVE)] * 2)
    if alone == "urgent":
        with engine.begin() as connection:
            connection.execute(_MARK, {"id": urgent, "mark": new_id()})
    assert claimed(engine, run_id, above=JobClass.BULK) == []
    assert job_of(engine, younger).state is JobState.QUEUED


def test_a_run_does_not_make_way_for_an_isolated_job_that_it_has_no_room_for(
    engine: Engine,
) -> None:
    run_id = begun(engine, max_lattice_pixels=512 * 512)
    submitted(engine)
    claimed(engine, run_id)
    isolated, plain = submitted(engine, of_side(1024), new_job())
    with engine.begin() as connection:
        connection.execute(_MARK, {"id": isolated, "mark": new_id()})
    assert _ids(claimed(engine, run_id)) == [plain]


@pytest.mark.parametrize("deadline", ["start_by", "finish_by"])
def test_a_job_past_a_deadline_is_not_claimed_even_before_it_is_expired(
    engine: Engine, deadline: str
) -> None:
    late = submitted(engine, new_job(**{deadline: PAST}))[0]
    (in_time,) = submitted(engine)
    assert _ids(claimed(engine, begun(engine))) == [in_time]
    assert job_of(engine, late).state is JobState.QUEUED


def test_start_by_is_met_by_the_first_claim(engine: Engine) -> None:
    (job_id,) = submitted(engine)
    run_id = begun(engine)
    taken = claimed(engine, run_id)
    with engine.begin() as connection:
        outcomes.release(connection, run_id, taken)
    _pass(engine, "start_by")
    assert _ids(claimed(engine, run_id)) == [job_id]


def test_isolated_jobs_share_a_run_with_nothing_else(engine: Engine) -> None:
    first, second, plain = submitted(engine, new_job(), new_job(), new_job())
    with engine.begin() as connection:
        connection.execute(_MARK, {"id": first, "mark": new_id()})
        connection.execute(_MARK, {"id": second, "mark": new_id()})
    one, other, third = begun(engine), begun(engine), begun(engine)
    assert [_ids(claimed(engine, run_id)) for run_id in (one, other)] == [[first], [second]]
    assert claimed(engine, one) == []
    assert _ids(claimed(engine, third)) == [plain]


def test_a_run_at_other_work_makes_way_for_an_isolated_job_instead_of_passing_it_by(
    engine: Engine,
) -> None:
    run_id = begun(engine)
    (plain,) = submitted(engine)
    held = claimed(engine, run_id)
    isolated, younger = submitted(engine, new_job(), new_job())
    with engine.begin() as connection:
        connection.execute(_MARK, {"id": isolated, "mark": new_id()})
    assert claimed(engine, run_id) == []
    with engine.begin() as connection:
        outcomes.release(connection, run_id, held)
        requests.cancel(connection, [plain])
    assert _ids(claimed(engine, run_id)) == [isolated]
    assert job_of(engine, younger).state is JobState.QUEUED


def test_jobs_of_one_mark_are_taken_together(engine: Engine) -> None:
    job_ids = submitted(engine, new_job(), new_job(), new_job())
    mark = new_id()
    with engine.begin() as connection:
        for job_id in job_ids[::2]:
            connection.execute(_MARK, {"id": job_id, "mark": mark})
    assert _ids(claimed(engine, begun(engine))) == job_ids[::2]


def test_a_measure_is_written_for_jobs_still_held(engine: Engine) -> None:
    mine, lost = submitted(engine, new_job(measure=None), new_job(measure=None))
    run_id = begun(engine)
    taken = claimed(engine, run_id)
    found = lanes.measure(Parameters(), 100, 200)
    with engine.begin() as connection:
        outcomes.release(connection, run_id, taken[1:])
        assert holds.measure(connection, run_id, dict.fromkeys(taken, found)) == {mine}
        assert holds.measure(connection, new_id(), dict.fromkeys(taken, found)) == set()
    job = job_of(engine, mine)
    assert (job.lane, job.pixels, job.est_gpu_seconds) == (
        found.lane,
        20_000,
        found.est_gpu_seconds,
    )
    assert job_of(engine, lost).lane is None


def test_a_run_that_has_a_job_again_cannot_use_its_first_claim(engine: Engine) -> None:
    (job_id,) = submitted(engine, new_job(measure=None))
    run_id = begun(engine)
    (stale,) = claimed(engine, run_id)
    with engine.begin() as connection:
        outcomes.release(connection, run_id, [stale])
    claimed(engine, run_id)
    found = lanes.measure(Parameters(), 100, 200)
    with engine.begin() as connection:
        assert holds.measure(connection, run_id, {stale: found}) == set()
        assert holds.start(connection, run_id, {stale: "v1"}) == {}
    job = job_of(engine, job_id)
    assert (job.lane, job.started_at) == (None, None)


def test_start_leaves_out_jobs_that_were_called_off_or_lost(engine: Engine) -> None:
    mine, called_off, lost = submitted(engine, new_job(), new_job(), new_job())
    run_id = begun(engine)
    taken = claimed(engine, run_id)
    with engine.begin() as connection:
        requests.cancel(connection, [called_off])
        outcomes.release(connection, run_id, taken[2:])
        assert holds.start(connection, run_id, dict.fromkeys(taken, "v1")) == {mine: "v1"}
    started_at = job_of(engine, mine).started_at
    with engine.begin() as connection:
        assert holds.start(connection, run_id, dict.fromkeys(taken, "v1")) == {mine: "v1"}
    assert job_of(engine, mine).started_at == started_at
    assert job_of(engine, lost).started_at is None


def test_the_content_that_was_read_first_is_noted_for_the_generation(engine: Engine) -> None:
    """By a measure or a start, whichever came first; a retry begins anew."""
    measured, stated = submitted(engine, new_job(measure=None), new_job())
    run_id = begun(engine)
    by_id: dict[UUID, Claim] = {}
    for _ in range(2):  # the two are of different lanes
        by_id |= {claim.job_id: claim for claim in claimed(engine, run_id)}
    found = lanes.measure(Parameters(), 100, 200)
    with engine.begin() as connection:
        holds.measure(connection, run_id, {by_id[measured]: found}, {by_id[measured]: "v1"})
        holds.measure(connection, run_id, {by_id[stated]: found})
        first = holds.start(connection, run_id, dict.fromkeys(by_id.values(), "v2"))
        again = holds.start(connection, run_id, dict.fromkeys(by_id.values(), "v3"))
    assert first == again == {measured: "v1", stated: "v2"}

    with engine.begin() as connection:
        outcomes.fail(connection, run_id, dict.fromkeys(by_id.values(), SourceChanged()))
        requests.retry(connection, [measured, stated])
    assert {job_of(engine, job_id).source_version for job_id in by_id} == {None}


def _rows_read(engine: Engine, run_id: UUID, *, above: JobClass | None = None) -> int:
    """By a claim of eight."""
    classes = len(JobClass) if above is None else above.rank
    parameters = {
        "run_id": run_id,
        "mates": 7,
        "pixels": 2**40,
        "run_deadline": AMPLE,
        "classes": classes,
        "first_guess": 0.1,
        "first_id": claims._FIRST_ID,
        **claims._as_arrays({}),
    }
    # What little there is of tallies, shares and pauses is read whole.
    return rows_read(engine, claims._CLAIM, parameters, of={"jobs", "runs"})


#: By a claim of eight: the run, the head, the head passed over among its mates, seven mates, and
#: all eight again to write them.
_READ = 1 + 1 + 1 + 7 + 8


@pytest.mark.parametrize("above", [None, JobClass.BULK])
def test_a_claim_reads_no_more_rows_than_it_takes(engine: Engine, above: JobClass | None) -> None:
    run_id = begun(engine)
    with engine.begin() as connection:
        connection.execute(_FILL)
    settle(engine)
    assert _rows_read(engine, run_id, above=above) == _READ


def test_a_claim_reads_no_row_that_does_not_fit(engine: Engine) -> None:
    """Were it to read them, a queue that begins with many would cost each claim of a small run."""
    run_id = begun(engine, max_lattice_pixels=512 * 512)
    with engine.begin() as connection:
        connection.execute(_FILL)
        connection.execute(_TOO_LARGE, {"first": 4000})
    settle(engine)
    assert _rows_read(engine, run_id) == _READ


def test_a_run_that_is_not_live_reads_no_queued_row(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(_FILL)
    settle(engine)
    assert _rows_read(engine, new_id()) == 0


def test_what_a_claim_sets_off_reads_no_row_at_all(engine: Engine) -> None:
    """Events, tallies and charges are written from what the statement itself has in hand."""
    run_id = begun(engine)
    with engine.begin() as connection:
        connection.execute(_FILL)
    settle(engine)
    with engine.begin() as connection:
        taken = claims.claim(connection, run_id, limit=8, run_deadline=AMPLE)
        read = {row.name: row.rows for row in connection.execute(_READ_SO_FAR) if row.rows}
    assert len(taken) == 8
    # The run's row is in another table than these.
    assert read == {"jobs": _READ - 1}


@pytest.mark.parametrize("stale", [False, True])
def test_a_kept_plan_reads_no_more_rows_than_the_claim_takes(
    engine: Engine, database_settings: DatabaseSettings, *, stale: bool
) -> None:
    """Whatever the planner was told: nothing yet, or of a time when every job was queued."""
    run_id = begun(engine)
    with engine.begin() as connection:
        connection.execute(_QUEUE)
        if stale:
            connection.execute(text("ANALYZE jobs"))
        connection.execute(_END_MOST)
    worker = database.connect(database_settings.model_copy(update={"database_pool_size": 1}))
    try:
        read = list[int]()
        for _ in range(12):
            with worker.begin() as connection:
                before = connection.execute(FETCHED).scalar_one()
                taken = claims.claim(connection, run_id, limit=8, run_deadline=AMPLE)
                read.append(connection.execute(FETCHED).scalar_one() - before)
            with engine.begin() as connection:
                results = {job.claim: result_of(job.claim) for job in taken}
                outcomes.complete(connection, run_id, results)
    finally:
        worker.dispose()
    assert len(taken) == 8
    # Those that earlier claims took lie in the index until somebody finds them dead.
    assert max(read[6:]) <= _READ + 8


def test_a_claim_from_a_deep_queue_that_nobody_has_counted_reads_what_it_takes(
    engine: Engine,
) -> None:
    """Of a lane that the planner believes to be empty it would sort all there is."""
    run_id = begun(engine)
    submitted(engine, new_job(start_at=FUTURE), new_job(start_at=FUTURE))
    settle(engine)
    with engine.begin() as connection:
        connection.execute(_DEEP)
    for _ in range(2):
        with engine.begin() as connection:
            before = connection.execute(FETCHED).scalar_one()
            taken = claims.claim(connection, run_id, limit=8, run_deadline=AMPLE)
            read = connection.execute(FETCHED).scalar_one() - before
        assert (len(taken), read <= _READ + 8) == (8, True), read
