"""Cancel and retry by filter: exactly what was meant, once each, whoever dies on the way."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
from structlog.testing import capture_logs
from tests.factories import (
    AMPLE,
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

from twofold_producer.broker import Bell
from twofold_producer.keeper.duties import operation_duties
from twofold_producer.keeper.loop import Keeper
from twofold_schema.errors import (
    CorruptSource,
    InvalidOperation,
    OperationNotFound,
    SourceNotFound,
    TwofoldError,
)
from twofold_schema.ids import new_id
from twofold_schema.ledger import (
    batches,
    claims,
    matching,
    operations,
    outcomes,
    pauses,
    requests,
    shares,
    submissions,
    submit,
    sweeps,
    tallies,
)
from twofold_schema.operation import JobFilter, Operation, OperationKind
from twofold_schema.settings import BrokerSettings
from twofold_schema.states import JobClass, JobState

CANCEL, RETRY = OperationKind.CANCEL, OperationKind.RETRY

_ERROR = """
    jsonb_build_array(jsonb_build_object(
        'code', 'corrupt_source', 'message', '', 'generation', 1, 'attempt', 1, 'fence', 1,
        'run_id', NULL, 'at', clock_timestamp()))
"""
_MANY = text(f"""
    INSERT INTO jobs (id, tenant, state, max_attempts, source, output_prefix, parameters, lane,
                      pixels, lattice_pixels, est_gpu_seconds, queued_at, finished_at, errors)
    SELECT gen_random_uuid(), :tenant, :state, 3, 's3://twofold/a', 's3://twofold/b', '{{}}',
           'lane', 1, 1, 0.1, clock_timestamp(),
           CASE WHEN :state = 'failed' THEN clock_timestamp() END,
           CASE WHEN :state = 'failed' THEN {_ERROR} ELSE '[]' END
    FROM generate_series(1, :jobs) AS n
""")
_STATES = text("SELECT state, count(*) AS jobs FROM jobs WHERE tenant = :tenant GROUP BY state")
_WRITTEN = text("""
    SELECT (SELECT count(*) FROM operations), (SELECT count(*) FROM events),
           (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables)
""")
_EMPTY = text("DELETE FROM jobs")
_REFUSE = text("""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not these'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.tenant = 'bad')
        EXECUTE FUNCTION refuse();
""")


def many(engine: Engine, tenant: str, jobs: int, state: str = "queued") -> None:
    """Add that many jobs of a tenant at once."""
    with engine.begin() as connection:
        connection.execute(_MANY, {"tenant": tenant, "jobs": jobs, "state": state})
        tallies.correct(connection)  # of rows that have ended at once, the trigger counts none
    settle(engine)


def asked(engine: Engine, kind: OperationKind, **where: Any) -> Operation:
    """An operation that was begun and committed."""
    with engine.begin() as connection:
        return operations.begin(connection, kind, JobFilter(**where), reason="a test", who="ann")


def counted(engine: Engine, kind: OperationKind, **where: Any) -> dict[str, int]:
    """What a dry run says."""
    with engine.connect() as connection:
        return dict(batches.count(connection, kind, JobFilter(**where)))


def once(engine: Engine) -> batches.Batch | None:
    """The next batch, committed."""
    with engine.begin() as connection:
        return batches.advance(connection)


def done(engine: Engine, operation: Operation) -> Operation:
    """The operation once it is done, by one keeper."""
    while once(engine):
        pass
    with engine.connect() as connection:
        ended = operations.get(connection, operation.id)
    assert ended.finished_at is not None
    return ended


def states(engine: Engine, tenant: str) -> dict[str, int]:
    """How many of a tenant's jobs are in each state."""
    with engine.connect() as connection:
        return {row.state: row.jobs for row in connection.execute(_STATES, {"tenant": tenant})}


def failed(engine: Engine, error: TwofoldError, **changes: Any) -> UUID:
    """A job that failed with this error."""
    (job_id,) = submitted(engine, new_job(**changes))
    run_id = begun(engine)
    (claim,) = claimed(engine, run_id)
    with engine.begin() as connection:
        outcomes.fail(connection, run_id, {claim: error})  # type: ignore[dict-item]
    return job_id


def agrees(engine: Engine) -> bool:
    """Whether the tallies are what a count says."""
    with engine.connect() as connection:
        return tallies.differences(connection) == []


class TestCancel:
    def test_ends_twenty_thousand_of_a_tenant_and_no_other(self, engine: Engine) -> None:
        many(engine, "crowd", 20_000)
        submitted(engine, new_job(tenant="crowd", start_at=FUTURE))
        (other,) = submitted(engine, new_job(tenant="other"))
        operation = asked(engine, CANCEL, tenant="crowd")

        first = once(engine)
        ended = done(engine, operation)

        assert first is not None
        assert (first.counts, first.finished) == ({"cancelled": batches.BATCH_JOBS}, False)
        assert ended.counts == {"cancelled": 20_001}
        assert states(engine, "crowd") == {"cancelled": 20_001}
        assert job_of(engine, other).state is JobState.QUEUED
        assert agrees(engine)

    def test_flags_what_runs_and_leaves_what_has_ended(self, engine: Engine) -> None:
        run_id = begun(engine)
        held, over = submitted(engine, new_job(), new_job())
        taken = {claim.job_id: claim for claim in claimed(engine, run_id)}
        with engine.begin() as connection:
            outcomes.complete(connection, run_id, {taken[over]: result_of(taken[over])})
        submitted(engine)

        operation = done(engine, asked(engine, CANCEL, tenant="default"))

        assert operation.counts == {"cancelled": 1, "cancelling": 1}
        assert job_of(engine, held).cancelling
        assert job_of(engine, over).state is JobState.SUCCEEDED

    def test_of_waiting_jobs_leaves_what_began_to_run_in_between(self, engine: Engine) -> None:
        """While it waits for the row of a claim, say: the state counts that is there then."""
        (job_id,) = submitted(engine)
        operation = asked(engine, CANCEL, states=(JobState.SCHEDULED, JobState.QUEUED))
        run_id = begun(engine)
        with rivals(engine) as rival, engine.begin() as connection:
            claims.claim(connection, run_id, limit=1, run_deadline=AMPLE)
            keeper = rival(batches.advance)
            assert keeper.blocked
            connection.commit()
            keeper.answer()

        assert done(engine, operation).counts == {}
        assert not job_of(engine, job_id).cancelling

    def test_of_a_submission(self, engine: Engine) -> None:
        with engine.begin() as connection:
            album = submissions.begin(connection)
            inside = submit.insert_jobs(connection, [new_job()] * 3, submission_id=album)
        (outside,) = submitted(engine)

        operation = done(engine, asked(engine, CANCEL, submission_id=album))

        assert operation.counts == {"cancelled": 3}
        assert {job_of(engine, one.job_id).state for one in inside} == {JobState.CANCELLED}
        assert job_of(engine, outside).state is JobState.QUEUED

    def test_leaves_what_is_submitted_later(self, engine: Engine) -> None:
        """Whatever the producer's clock made of its id."""
        many(engine, "crowd", 1_500)
        operation = asked(engine, CANCEL, tenant="crowd")
        once(engine)
        many(engine, "crowd", 500)

        assert done(engine, operation).counts == {"cancelled": 1_500}
        assert states(engine, "crowd") == {"cancelled": 1_500, "queued": 500}


class TestRetry:
    def test_by_the_code_of_the_last_error(self, engine: Engine) -> None:
        corrupt = failed(engine, CorruptSource())
        missing = failed(engine, SourceNotFound())
        with engine.begin() as connection:
            requests.retry(connection, [corrupt])
        # Again, now with another error: the old one is of an older generation.
        run_id = begun(engine)
        (claim,) = claimed(engine, run_id)
        with engine.begin() as connection:
            outcomes.fail(connection, run_id, {claim: SourceNotFound()})

        assert done(engine, asked(engine, RETRY, error="corrupt_source")).counts == {}
        operation = done(engine, asked(engine, RETRY, error="source_not_found"))

        assert operation.counts == {"queued": 2}
        assert job_of(engine, missing).generation == 2
        assert job_of(engine, corrupt).generation == 3

    def test_takes_failed_and_expired_jobs_only(self, engine: Engine) -> None:
        bad = failed(engine, CorruptSource())
        late, called_off = submitted(engine, new_job(finish_by=PAST), new_job())
        with engine.begin() as connection:
            sweeps.expire(connection)
            requests.cancel(connection, [called_off])

        operation = done(engine, asked(engine, RETRY, tenant="default"))

        assert operation.counts == {"queued": 2}
        assert job_of(engine, called_off).state is JobState.CANCELLED
        assert {job_of(engine, job_id).state for job_id in (bad, late)} == {JobState.QUEUED}

    def test_takes_each_job_once_however_soon_it_fails_again(self, engine: Engine) -> None:
        """One that fails after the operation was asked for is for another one."""
        early = failed(engine, CorruptSource())
        (later,) = submitted(engine)
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        operation = asked(engine, RETRY, tenant="default")
        with engine.begin() as connection:
            outcomes.fail(connection, run_id, dict.fromkeys(taken, CorruptSource()))

        assert done(engine, operation).counts == {"queued": 1}
        assert job_of(engine, early).generation == 2
        assert job_of(engine, later).generation == 1

    def test_opens_a_sealed_submission_again(self, engine: Engine) -> None:
        with engine.begin() as connection:
            album = submissions.begin(connection)
            submit.insert_jobs(connection, [new_job(finish_by=PAST)], submission_id=album)
            submissions.seal(connection, album)
            sweeps.expire(connection)

        done(engine, asked(engine, RETRY, submission_id=album))

        with engine.connect() as connection:
            assert submissions.report(connection, album).generation == 2


class TestBatches:
    def test_a_keeper_that_dies_leaves_what_another_goes_on_with(self, engine: Engine) -> None:
        """Between batches, or within one: nothing is left out, nothing done twice."""
        many(engine, "crowd", 2_500, "failed")
        operation = asked(engine, RETRY, tenant="crowd")
        once(engine)
        with engine.connect() as connection:
            assert batches.advance(connection) is not None
            connection.rollback()

        assert done(engine, operation).counts == {"queued": 2_500}
        assert states(engine, "crowd") == {"queued": 2_500}
        with engine.connect() as connection:
            highest = connection.execute(text("SELECT max(generation) FROM jobs")).scalar_one()
        assert highest == 2
        assert agrees(engine)

    def test_two_keepers_share_operations_and_do_no_batch_twice(
        self, engine: Engine, broker_url: str
    ) -> None:
        many(engine, "a", 3_000, "failed")
        many(engine, "b", 3_000)
        retry, cancel = asked(engine, RETRY, tenant="a"), asked(engine, CANCEL, tenant="b")
        bell = Bell(BrokerSettings.model_validate({"broker_url": broker_url}))

        def keep(_: int) -> None:
            keeper = Keeper(operation_duties(engine, bell), every_seconds=1)
            for _ in range(20):
                keeper.once()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(keep, range(2)))

        assert done(engine, retry).counts == {"queued": 3_000}
        assert done(engine, cancel).counts == {"cancelled": 3_000}
        assert states(engine, "a") == {"queued": 3_000}
        with engine.connect() as connection:
            told = connection.execute(text("SELECT count(*) FROM events WHERE left_state <> ''"))
            assert told.scalar_one() == 6_000

    def test_while_one_keeper_is_at_a_batch_another_finds_nothing_to_do(
        self, engine: Engine
    ) -> None:
        many(engine, "crowd", 10)
        asked(engine, CANCEL, tenant="crowd")
        with engine.begin() as connection:
            assert batches.advance(connection) is not None
            assert once(engine) is None

    def test_a_small_operation_does_not_wait_for_a_large_one(self, engine: Engine) -> None:
        many(engine, "large", 4_000)
        many(engine, "small", 10)
        large = asked(engine, CANCEL, tenant="large")
        once(engine)
        small = asked(engine, CANCEL, tenant="small")

        batch = once(engine)

        assert batch is not None
        assert (batch.operation, batch.finished) == (small.id, True)
        assert done(engine, large).counts == {"cancelled": 4_000}

    def test_one_that_cannot_be_done_holds_up_no_other(
        self, engine: Engine, broker_url: str
    ) -> None:
        many(engine, "bad", 10)
        many(engine, "good", 10)
        with engine.begin() as connection:
            connection.execute(_REFUSE)
        bad, good = (asked(engine, CANCEL, tenant=tenant) for tenant in ("bad", "good"))
        bell = Bell(BrokerSettings.model_validate({"broker_url": broker_url}))
        keeper = Keeper(operation_duties(engine, bell), every_seconds=1)

        with capture_logs() as logs:
            for _ in range(4):
                keeper.once()

        assert done(engine, good).counts == {"cancelled": 10}
        assert states(engine, "bad") == {"queued": 10}
        assert {line["operation_id"] for line in logs if line["event"] == "operation_put_off"} == {
            str(bad.id)
        }

    def test_what_is_stopped_goes_no_further(self, engine: Engine) -> None:
        many(engine, "crowd", 1_500)
        operation = asked(engine, CANCEL, tenant="crowd")
        once(engine)
        with engine.begin() as connection:
            stopped = operations.stop(connection, operation.id, who="bob")

        assert (stopped.stopped_by, stopped.counts) == ("bob", {"cancelled": 1_000})
        assert once(engine) is None
        assert states(engine, "crowd") == {"cancelled": 1_000, "queued": 500}

    @pytest.mark.parametrize("later", ['"phase": "full"', '"states": ["dreaming"]'])
    def test_what_this_version_does_not_understand_is_left_alone(
        self, engine: Engine, later: str
    ) -> None:
        submitted(engine, new_job(), new_job(tenant="other"))
        with engine.begin() as connection:
            connection.execute(
                text("""
                    INSERT INTO operations (id, kind, filter, who, reason)
                    VALUES (:id, 'cancel', CAST(:filter AS jsonb), 'ann', '')
                """),
                {"id": new_id(), "filter": f'{{"tenant": "default", {later}}}'},
            )
        asked(engine, CANCEL, tenant="other")

        batches_done = [once(engine) for _ in range(3)]
        assert sum(batch is not None for batch in batches_done) == 1
        assert states(engine, "default") == {"queued": 1}
        assert states(engine, "other") == {"cancelled": 1}

    @pytest.mark.parametrize("where", [{"tenant": "few"}, {"submission_id": new_id()}])
    def test_reads_what_the_filter_names_and_not_all_there_is(
        self, engine: Engine, where: dict[str, Any]
    ) -> None:
        many(engine, "crowd", 20_000)
        many(engine, "few", 30)
        (statement,) = (
            statement
            for (kind, way), statement in matching._LOOK.items()
            if kind is CANCEL and way in where
        )
        parameters = matching._stated(CANCEL, JobFilter(**where)) | {
            "asked_at": FUTURE,
            "after": UUID(int=0),
            "last": UUID(int=2**128 - 1),
            "rows": matching.LOOK_ROWS,
            "most": batches.BATCH_JOBS,
        }
        assert rows_read(engine, statement, parameters, of={"jobs"}) <= 60

    def test_a_page_without_a_match_reads_so_many_rows_and_no_more(self, engine: Engine) -> None:
        """Each batch is short, however seldom a filter matches."""
        many(engine, "crowd", 25_000)
        (job_id,) = submitted(engine, new_job(job_class=JobClass.BULK))
        operation = asked(engine, CANCEL, job_class=JobClass.BULK)

        batches = [once(engine) for _ in range(3)]

        assert [batch and batch.finished for batch in batches] == [False, False, True]
        assert done(engine, operation).counts == {"cancelled": 1}
        assert job_of(engine, job_id).state is JobState.CANCELLED


class TestDryRun:
    def test_writes_nothing_and_says_what_would_come_of_it(self, engine: Engine) -> None:
        many(engine, "crowd", 12_000)
        submitted(engine, new_job(tenant="crowd", job_class=JobClass.INTERACTIVE))
        claimed(engine, begun(engine), limit=1)
        many(engine, "crowd", 7, "failed")
        with engine.connect() as connection:
            before = connection.execute(_WRITTEN).one()
            dry = batches.count(connection, CANCEL, JobFilter(tenant="crowd"))
            assert connection.execute(_WRITTEN).one() == before

        assert dry == {"cancelled": 12_000, "cancelling": 1}
        assert counted(engine, RETRY, tenant="crowd") == {"queued": 7}
        assert done(engine, asked(engine, CANCEL, tenant="crowd")).counts == dry

    @pytest.mark.parametrize(
        ("kind", "where"),
        [
            (CANCEL, {}),
            (CANCEL, {"states": [JobState.FAILED]}),
            (RETRY, {"states": [JobState.CANCELLED]}),
            (RETRY, {"states": []}),
        ],
    )
    def test_what_nobody_can_mean_is_refused(
        self, engine: Engine, kind: OperationKind, where: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidOperation):
            counted(engine, kind, **where)
        with pytest.raises(InvalidOperation):
            asked(engine, kind, **where)


#: A job's tenant, class, whether it belongs to the submission, and what befalls it.
Made = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(JobClass),
    st.booleans(),
    st.sampled_from(["waits", "scheduled", "fails", "expires", "cancelled"]),
)
Asked = st.fixed_dictionaries(
    {},
    optional={
        "tenant": st.sampled_from(["a", "b"]),
        "job_class": st.sampled_from(JobClass),
        "states": st.sets(st.sampled_from(JobState), min_size=3).map(tuple),
        "submission": st.just(value=True),
        "error": st.sampled_from(["corrupt_source", "source_not_found"]),
    },
)


def _befalls(connection: Connection, job_id: UUID, fate: str) -> None:
    ends = {
        "fails": f"state = 'failed', errors = {_ERROR}, finished_at = clock_timestamp()",
        "expires": "state = 'expired', finished_at = clock_timestamp()",
        "cancelled": "state = 'cancelled', finished_at = clock_timestamp()",
        "scheduled": "state = 'scheduled', scheduled_at = '2100-01-01Z'",
    }
    if fate in ends:
        connection.execute(text(f"UPDATE jobs SET {ends[fate]} WHERE id = :id"), {"id": job_id})


def _means(where: dict[str, Any], made: tuple[str, JobClass, bool, str], state: JobState) -> bool:
    tenant, job_class, inside, fate = made
    return (
        where.get("tenant", tenant) == tenant
        and where.get("job_class", job_class) is job_class
        and (inside or "submission" not in where)
        and state in where.get("states", (state,))
        and ("error" not in where or (fate, where["error"]) == ("fails", "corrupt_source"))
    )


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from([CANCEL, RETRY]),
    made=st.lists(Made, min_size=3, max_size=10),
    later=st.lists(Made, max_size=3),
    where=Asked,
    size=st.integers(1, 5),
)
def test_touches_exactly_the_jobs_that_matched_when_it_was_asked_for(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    kind: OperationKind,
    made: list[tuple[str, JobClass, bool, str]],
    later: list[tuple[str, JobClass, bool, str]],
    where: dict[str, Any],
    size: int,
) -> None:
    """In pages and batches of any size."""
    monkeypatch.setattr(batches, "BATCH_JOBS", size)
    monkeypatch.setattr(matching, "LOOK_ROWS", 2)
    with engine.begin() as connection:
        connection.execute(_EMPTY)
        album = submissions.begin(connection)

    def make(some: list[tuple[str, JobClass, bool, str]]) -> list[UUID]:
        ids = []
        with engine.begin() as connection:
            for tenant, job_class, inside, fate in some:
                one = new_job(tenant=tenant, job_class=job_class)
                (answer,) = submit.insert_jobs(
                    connection, [one], submission_id=album if inside else None
                )
                _befalls(connection, answer.job_id, fate)
                ids.append(answer.job_id)
        return ids

    ids = make(made)
    before = [job_of(engine, job_id) for job_id in ids]
    stated = {name: value for name, value in where.items() if name != "submission"}
    asking = JobFilter(**stated, submission_id=album if "submission" in where else None)
    possible = matching.states(kind, asking)
    if not possible or not where:
        with pytest.raises(InvalidOperation):
            asked(engine, kind, **dict(asking))
        return
    meant = [
        job.id
        for job, what in zip(before, made, strict=True)
        if job.state in matching.CHANGEABLE[kind] and _means(where, what, job.state)
    ]
    assert sum(counted(engine, kind, **dict(asking)).values()) == len(meant)
    operation = asked(engine, kind, **dict(asking))
    untouched = [job_of(engine, job_id) for job_id in make(later)]

    assert done(engine, operation).jobs == len(meant)

    assert [job_of(engine, job.id) for job in untouched] == untouched
    touched = [job.id for job in before if job_of(engine, job.id) != job]
    assert touched == meant
    wanted = JobState.CANCELLED if kind is CANCEL else JobState.QUEUED
    assert {job_of(engine, job_id).state for job_id in meant} <= {wanted}


class TestFairness:
    """Others' turns come as they would have."""

    @staticmethod
    def _next_two(engine: Engine) -> set[str]:
        """Whose jobs two batches take."""
        run_id, served = begun(engine), Counter[str]()
        for _ in range(2):
            taken = claimed(engine, run_id, limit=16)
            served.update(job_of(engine, claim.job_id).tenant for claim in taken)
            with engine.begin() as connection:
                outcomes.complete(connection, run_id, {one: result_of(one) for one in taken})
        return set(served)

    def test_after_a_bulk_retry(self, engine: Engine) -> None:
        many(engine, "crowd", 3_000, "failed")
        done(engine, asked(engine, RETRY, tenant="crowd"))
        submitted(engine, new_job(tenant="single"))
        assert self._next_two(engine) == {"crowd", "single"}

    def test_after_a_mass_cancel_half_way(self, engine: Engine) -> None:
        many(engine, "crowd", 3_000)
        asked(engine, CANCEL, tenant="crowd")
        once(engine)
        submitted(engine, new_job(tenant="single"))
        assert self._next_two(engine) == {"crowd", "single"}


class TestAudit:
    """Who did what, when and why, is in one place."""

    @staticmethod
    def _last(engine: Engine, act: Callable[[Connection], object]) -> Operation:
        with engine.begin() as connection:
            act(connection)
            (last,) = operations.find(connection, limit=1)
        assert last.finished_at is not None
        return last

    def test_of_pauses(self, engine: Engine) -> None:
        scope: dict[str, Any] = {"tenant": "acme", "job_class": JobClass.BULK}
        begin = self._last(engine, lambda c: pauses.pause(c, reason="why", who="ann", **scope))
        end = self._last(engine, lambda c: pauses.resume(c, reason="over", who="bob", **scope))
        for one in (begin, end):
            assert one.filter == JobFilter(**scope)
        assert (begin.kind, begin.who, begin.reason) == (OperationKind.PAUSE, "ann", "why")
        assert (end.kind, end.who, end.reason) == (OperationKind.RESUME, "bob", "over")
        with engine.begin() as connection:
            assert not pauses.resume(connection, who="bob", **scope)
            assert len(operations.find(connection)) == 2

    def test_of_shares_of_which_what_is_not_said_stays(self, engine: Engine) -> None:
        def share(**said: Any) -> Callable[[Connection], object]:
            return lambda c: shares.set_share(c, "acme", reason="paid", who="ann", **said)

        assert self._last(engine, share(weight=2.0)).change == {"weight": 2, "max_running": None}
        assert self._last(engine, share(max_running=9)).change == {"weight": 2, "max_running": 9}
        last = self._last(engine, share(weight=0.5))
        assert last.change == {"weight": 0.5, "max_running": 9}
        assert (last.kind, last.filter.tenant) == (OperationKind.SHARE, "acme")
        assert self._last(engine, share(max_running="any")).change == {
            "weight": 0.5,
            "max_running": None,
        }
        with engine.connect() as connection:
            assert shares.every_share(connection) == {"acme": shares.Share(weight=0.5)}

    @pytest.mark.parametrize("said", [{"weight": float("nan")}, {"weight": 0}, {"max_running": -1}])
    def test_a_share_that_is_none_is_refused(self, engine: Engine, said: dict[str, Any]) -> None:
        with pytest.raises(InvalidOperation), engine.begin() as connection:
            shares.set_share(connection, "acme", reason="paid", who="ann", **said)

    def test_of_an_operation_nobody_knows_there_is_nothing(self, engine: Engine) -> None:
        with pytest.raises(OperationNotFound), engine.connect() as connection:
            operations.get(connection, new_id())

    def test_who_and_why_must_be_said(self, engine: Engine) -> None:
        where = JobFilter(tenant="a", created_before=PAST - timedelta(days=1))
        for reason, who in (("", "ann"), ("why", " ")):
            with pytest.raises(InvalidOperation), engine.begin() as connection:
                operations.begin(connection, CANCEL, where, reason=reason, who=who)
