"""Whose turn it is: tenants share a class by weight, and nobody waits behind another's queue."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from tests.factories import (
    AMPLE,
    PAST,
    begun,
    claimed,
    job_of,
    new_job,
    of_side,
    result_of,
    submitted,
)
from tests.plans import FETCHED, settle

from twofold_schema.errors import InvalidOperation
from twofold_schema.job import Claim
from twofold_schema.ledger import (
    claims,
    outcomes,
    pauses,
    requests,
    shares,
    submit,
    sweeps,
    tallies,
)
from twofold_schema.ledger.low_water import LowWater
from twofold_schema.states import JobClass

_MANY = text("""
    INSERT INTO jobs (id, tenant, state, max_attempts, source, output_prefix, parameters, lane,
                      pixels, lattice_pixels, est_gpu_seconds, queued_at)
    SELECT gen_random_uuid(), 'crowd', 'queued', 3, 's3://twofold/a', 's3://twofold/b', '{}',
           'lane' || n % 3, 1, 1, 0.1, clock_timestamp() - interval '1 hour'
    FROM generate_series(1, :jobs) AS n
""")
# One of each tenant.
_EACH_ONE = text("""
    INSERT INTO jobs (id, tenant, state, max_attempts, source, output_prefix, parameters, lane,
                      pixels, lattice_pixels, est_gpu_seconds, queued_at)
    SELECT gen_random_uuid(), 'tenant-' || n, 'queued', 3, 's3://twofold/a', 's3://twofold/b',
           '{}', 'lane', 1, 1, 0.1, clock_timestamp()
    FROM generate_series(1, :tenants) AS n
""")
# Of so many tenants and lanes in turn.
_SPREAD = text("""
    INSERT INTO jobs (id, tenant, state, max_attempts, source, output_prefix, parameters, lane,
                      pixels, lattice_pixels, est_gpu_seconds, queued_at)
    SELECT gen_random_uuid(), 'tenant-' || n % :tenants, 'queued', 3, 's3://twofold/a',
           's3://twofold/b', '{}', 'lane-' || n / :tenants % :lanes, 1, 1, 0.1, clock_timestamp()
    FROM generate_series(1, :jobs) AS n
""")
_STANDINGS = text(f"""
    SELECT tenant, job_class, round(CAST(vtime AS numeric), 6) AS vtime, start, jobs
    FROM ({shares.STANDINGS}) AS standings ORDER BY tenant, job_class
""")
_ENTRIES = text("SELECT count(*) FROM charges")
_EMPTY = text("""
    WITH a AS (DELETE FROM jobs), b AS (DELETE FROM charges), c AS (DELETE FROM shares),
         d AS (DELETE FROM tallies), e AS (DELETE FROM folds)
    DELETE FROM tally_changes
""")


def _of(tenant: str, count: int = 1, **changes: Any) -> list[Any]:
    return [new_job(tenant=tenant, **changes)] * count


def _tenants(engine: Engine, taken: list[Claim]) -> list[str]:
    return [job_of(engine, claim.job_id).tenant for claim in taken]


def _complete(engine: Engine, taken: list[Claim]) -> None:
    with engine.begin() as connection:
        results = {claim: result_of(claim) for claim in taken}
        outcomes.complete(connection, taken[0].run_id, results)


def _fold(engine: Engine) -> None:
    with engine.begin() as connection:
        shares.fold(connection)


def _served(engine: Engine, turns: int, limit: int = 4) -> Counter[str]:
    """Whose jobs a run took in so many claims, each completed before the next."""
    run_id, served = begun(engine), Counter[str]()
    for _ in range(turns):
        taken = claimed(engine, run_id, limit=limit)
        served.update(_tenants(engine, taken))
        _complete(engine, taken)
    return served


def test_a_single_job_waits_for_one_batch_of_a_tenant_with_many(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(_MANY, {"jobs": 20_000})
    run_id = begun(engine)
    crowd = claimed(engine, run_id, limit=32)
    (single,) = submitted(engine, *_of("single"))
    taken = claimed(engine, run_id, limit=32)
    assert set(_tenants(engine, crowd)) == {"crowd"}
    assert single in [claim.job_id for claim in taken]


@pytest.mark.parametrize("folds", [True, False])
def test_tenants_share_by_weight_in_gpu_seconds(engine: Engine, *, folds: bool) -> None:
    """Of equal weights one with jobs of four times the work gets a quarter as many."""
    submitted(engine, *_of("light", 60), *[of_side(1024, tenant="heavy")] * 60)
    submitted(engine, *_of("twice", 60))
    with engine.begin() as connection:
        shares.set_share(connection, "twice", weight=2.0, reason="paid", who="ann")
    run_id, served = begun(engine), Counter[str]()
    for _ in range(56):
        (taken,) = claimed(engine, run_id, limit=1)
        served.update(_tenants(engine, [taken]))
        _complete(engine, [taken])
        if folds:
            _fold(engine)
    assert served["twice"] == pytest.approx(2 * served["light"], abs=3)
    assert served["light"] == pytest.approx(4 * served["heavy"], abs=5)


def test_what_jobs_took_counts_once_it_is_known(engine: Engine) -> None:
    """Of the same estimates one whose jobs take four times as long gets a quarter as many."""
    submitted(engine, *_of("quick", 60), *_of("slow", 60))
    run_id, served = begun(engine), Counter[str]()
    for _ in range(50):
        (taken,) = claimed(engine, run_id, limit=1)
        (tenant,) = _tenants(engine, [taken])
        served[tenant] += 1
        took = {"gpu_seconds": 4.0 if tenant == "slow" else 1.0}
        with engine.begin() as connection:
            results = {taken: result_of(taken).model_copy(update=took)}
            outcomes.complete(connection, run_id, results)
    assert served["quick"] == pytest.approx(4 * served["slow"], abs=5)


def test_who_was_away_gets_no_turns_for_that(engine: Engine) -> None:
    submitted(engine, *_of("here", 60), *_of("away", 1))
    assert _served(engine, 8)["away"] == 1
    submitted(engine, *_of("away", 40))
    served = _served(engine, 10)
    # Seven batches behind, it is ahead by two at most.
    assert 0 <= served["away"] - served["here"] <= 8


def test_what_never_began_is_not_charged(engine: Engine) -> None:
    submitted(engine, *_of("a", 8), *_of("b", 8))
    run_id = begun(engine)
    for _ in range(3):
        taken = claimed(engine, run_id, limit=4)
        assert set(_tenants(engine, taken)) == {"a"}
        with engine.begin() as connection:
            outcomes.release(connection, run_id, taken)
    _complete(engine, claimed(engine, run_id, limit=4))
    assert set(_tenants(engine, claimed(engine, run_id, limit=4))) == {"b"}


def test_a_tenant_that_cancels_everything_leaves_nothing_in_the_way(engine: Engine) -> None:
    job_ids = submitted(engine, *_of("crowd", 500), *_of("single"))
    with engine.begin() as connection:
        requests.cancel(connection, job_ids[:500])
    assert _tenants(engine, claimed(engine, begun(engine))) == ["single"]


def test_mates_come_from_other_tenants_when_one_has_too_few(engine: Engine) -> None:
    submitted(engine, *_of("a", 2), *_of("b", 2), *_of("c", 2))
    taken = claimed(engine, begun(engine), limit=5)
    assert _tenants(engine, taken) == ["a", "a", "b", "b", "c"]


def test_a_better_class_goes_first_whoever_asks(engine: Engine) -> None:
    submitted(engine, *_of("a", 4), *_of("b", 4, job_class=JobClass.INTERACTIVE))
    assert _served(engine, 1) == {"b": 4}


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"tenant": "a"},
        {"job_class": JobClass.STANDARD},
        {"tenant": "a", "job_class": JobClass.STANDARD},
    ],
    ids=["everything", "a tenant", "a class", "a tenant's class"],
)
def test_what_is_paused_is_not_claimed_until_it_is_resumed(
    engine: Engine, scope: dict[str, Any]
) -> None:
    submitted(engine, *_of("a"), *_of("b"), *_of("a", job_class=JobClass.BULK))
    with engine.begin() as connection:
        pauses.pause(connection, reason="maintenance", who="ann", **scope)
        pauses.pause(connection, reason="disk is full", who="bob", **scope)
        (pause,) = pauses.in_force(connection)
    assert (pause.reason, pause.paused_by) == ("disk is full", "bob")

    run_id = begun(engine)
    taken = [job_of(engine, claim.job_id) for claim in claimed(engine, run_id)]
    left = {("a", "standard"), ("b", "standard"), ("a", "bulk")} - {
        (job.tenant, job.job_class) for job in taken
    }
    assert left == {
        pair
        for pair in {("a", "standard"), ("b", "standard"), ("a", "bulk")}
        if pair[0] == scope.get("tenant", pair[0]) and pair[1] == scope.get("job_class", pair[1])
    }

    with engine.begin() as connection:
        assert pauses.resume(connection, who="ann", **scope)
        assert not pauses.resume(connection, who="ann", **scope)
        assert pauses.in_force(connection) == []
    assert len(claimed(engine, run_id)) == len(left)


@pytest.mark.parametrize("tenant", ["", " "])
def test_nobody_is_no_tenant_that_a_pause_of_everything_could_be_taken_for(
    engine: Engine, tenant: str
) -> None:
    submitted(engine, *_of("a"))
    with engine.begin() as connection:
        with pytest.raises(InvalidOperation):
            pauses.pause(connection, reason="no such variable", who="ann", tenant=tenant)
        with pytest.raises(InvalidOperation):
            shares.set_share(connection, tenant, weight=2, reason="why", who="ann")
        pauses.pause(connection, reason="disk is full", who="ann")
        assert [pause.tenant for pause in pauses.in_force(connection)] == [None]
    assert claimed(engine, begun(engine)) == []


def test_a_tenant_with_enough_that_runs_waits(engine: Engine) -> None:
    submitted(engine, *_of("a", 6), *_of("b", 1))
    with engine.begin() as connection:
        shares.set_share(connection, "a", max_running=2, reason="greedy", who="ann")
    run_id = begun(engine)
    first = claimed(engine, run_id, limit=2)
    assert _tenants(engine, first) == ["a", "a"]
    assert _tenants(engine, claimed(engine, run_id, limit=2)) == ["b"]
    assert claimed(engine, run_id, limit=2) == []
    _complete(engine, first)
    assert _tenants(engine, claimed(engine, run_id, limit=2)) == ["a", "a"]


def test_a_tenants_cap_is_for_all_of_its_classes_together(engine: Engine) -> None:
    """Also where all that it runs is of a class of which nothing waits."""
    submitted(engine, *_of("a", 2, job_class=JobClass.INTERACTIVE))
    with engine.begin() as connection:
        shares.set_share(connection, "a", max_running=2, reason="greedy", who="ann")
    run_id = begun(engine)
    first = claimed(engine, run_id, limit=2)
    submitted(engine, *_of("a", 1), *_of("a", 1, job_class=JobClass.BULK), *_of("b", 1))
    assert _tenants(engine, claimed(engine, run_id)) == ["b"]
    _complete(engine, first)
    assert _tenants(engine, claimed(engine, run_id)) == ["a", "a"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.sampled_from(["claim a", "claim b", "complete", "release", "fold"]), max_size=14
    )
)
@example(steps=["claim a", "claim a", "claim a", "fold", "release", "claim b"])
def test_folding_changes_nobodys_turn(engine: Engine, steps: list[str]) -> None:
    """The same steps, with folds in between and without, leave everybody where they stand."""
    stands = []
    for folds in (True, False):
        with engine.begin() as connection:
            connection.execute(_EMPTY)
        run_id, held = begun(engine), list[list[Claim]]()
        for step in steps:
            if step.startswith("claim"):
                submitted(engine, *_of(step[-1], 2))
                held.append(claimed(engine, run_id, limit=2))
            elif step == "fold":
                if folds:
                    _fold(engine)
            elif held:
                taken = held.pop()
                if step == "complete":
                    _complete(engine, taken)
                else:
                    with engine.begin() as connection:
                        outcomes.release(connection, run_id, taken)
                        # Whose turn it is of two that are even is up to the last bit of a sum, and
                        # sums are made in another order where some of it is folded.
                        requests.cancel(connection, [claim.job_id for claim in taken])
        with engine.connect() as connection:
            stands.append([tuple(row) for row in connection.execute(_STANDINGS)])
    assert [row[:3] for row in stands[0]] == [row[:3] for row in stands[1]]


def test_a_long_journal_is_folded_piece_by_piece(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a night without keepers it is longer than one statement could fold in its time."""
    monkeypatch.setattr(shares, "FOLD_ROWS", 2)
    run_id = begun(engine)
    for tenant in "abacb":
        submitted(engine, *_of(tenant, 2))
        _complete(engine, claimed(engine, run_id, limit=2))
    with engine.connect() as connection:
        before = [tuple(row)[:3] for row in connection.execute(_STANDINGS)]
        entries = connection.execute(_ENTRIES).scalar_one()
    folded = list[int]()
    while not folded or folded[-1]:
        with engine.begin() as connection:
            folded.append(shares.fold(connection))
        with engine.connect() as connection:
            assert [tuple(row)[:3] for row in connection.execute(_STANDINGS)] == before
    assert sum(folded) == entries > 4
    assert max(folded) == 2


def _read_by_a_claim(engine: Engine, run_id: UUID) -> int:
    """Rows of jobs."""
    with engine.begin() as connection:
        before = connection.execute(FETCHED).scalar_one()
        taken = claims.claim(connection, run_id, limit=4, run_deadline=AMPLE)
        read: int = connection.execute(FETCHED).scalar_one() - before
    _complete(engine, [job.claim for job in taken])
    return read


def test_a_thousand_tenants_cost_a_claim_no_more_rows_than_ten_and_all_get_a_turn(
    engine: Engine,
) -> None:
    run_id, read = begun(engine), []
    for tenants in (10, 1000):
        with engine.begin() as connection:
            connection.execute(_EMPTY)
            connection.execute(_EACH_ONE, {"tenants": tenants})
        settle(engine)
        read.append(_read_by_a_claim(engine, run_id))
    assert read[1] <= read[0]
    _fold(engine)
    served = _served(engine, 249)
    assert len(served) == 996
    assert set(served.values()) == {1}


def test_a_weight_that_changes_counts_from_then_on(engine: Engine) -> None:
    submitted(engine, *_of("a", 90), *_of("b", 90))
    before = _served(engine, 10)
    with engine.begin() as connection:
        shares.set_share(connection, "a", weight=3.0, reason="paid", who="ann")
    after = _served(engine, 16)
    assert abs(before["a"] - before["b"]) <= 4
    assert abs(after["a"] - 3 * after["b"]) <= 16


def test_jobs_whose_time_comes_together_delay_another_tenants_by_no_more_than_a_batch(
    engine: Engine,
) -> None:
    submitted(engine, *_of("crowd", 500, start_at=PAST))
    run_id = begun(engine)
    with engine.begin() as connection:
        assert sweeps.promote(connection) == 500
    claimed(engine, run_id, limit=8)
    submitted(engine, *_of("single"))
    assert "single" in _tenants(engine, claimed(engine, run_id, limit=8))


def test_a_submit_that_stays_open_holds_up_nobody(engine: Engine) -> None:
    """Its jobs are not there yet, and nobody waits for it: neither submits, claims nor folds."""
    run_id = begun(engine)
    with engine.begin() as slow:
        submit.insert_jobs(slow, _of("slow", 100))
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            submit.insert_jobs(connection, _of("quick", 8))
        taken = claimed(engine, run_id, limit=4)
        assert _tenants(engine, taken) == ["quick"] * 4
        _complete(engine, taken)
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            tallies.fold(connection)
            shares.fold(connection)
    assert "slow" in _tenants(engine, claimed(engine, run_id, limit=4))


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    claimers=st.integers(2, 4),
    lanes=st.integers(1, 3),
    tenants=st.integers(1, 3),
    limit=st.integers(1, 5),
)
def test_no_claimer_is_idle_while_claimable_work_waits(
    engine: Engine, claimers: int, lanes: int, tenants: int, limit: int
) -> None:
    """A claim comes back empty only if all that was left may have been in others' hands."""
    jobs = 60
    with engine.begin() as connection:
        connection.execute(_EMPTY)
        values = {"jobs": jobs, "lanes": lanes, "tenants": tenants}
        connection.execute(_SPREAD, values)
    lock, given = threading.Lock(), list[UUID]()
    idle = list[int]()

    def work(run_id: UUID) -> None:
        low_water = LowWater()
        while True:
            with engine.begin() as connection:
                taken = claims.claim(
                    connection, run_id, limit=limit, run_deadline=AMPLE, low_water=low_water
                )
            with lock:
                given.extend(job.id for job in taken)
                if not taken and len(given) + (claimers - 1) * limit < jobs:
                    idle.append(len(given))
                if not taken and len(given) == jobs:
                    return

    with ThreadPoolExecutor(claimers) as threads:
        for done in [threads.submit(work, begun(engine)) for _ in range(claimers)]:
            done.result(timeout=60)
    assert not idle
    assert len(set(given)) == len(given) == jobs
