"""Claims that go on where the last one ended take the same jobs, and pass over nothing dead."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from tests.factories import (
    AMPLE,
    begun,
    new_job,
    rescued,
    result_of,
    silence,
    submitted,
)
from tests.plans import pages_read, settle

from twofold_schema.database import read_in_order
from twofold_schema.errors import SourceNotFound
from twofold_schema.job import Claim
from twofold_schema.ledger import claims, holds, outcomes, requests, shares, submit, tallies
from twofold_schema.ledger.low_water import RESCAN_SECONDS, LowWater
from twofold_schema.states import JobClass

_DEEP = text("""
    INSERT INTO jobs (id, state, max_attempts, source, output_prefix, parameters, lane, pixels,
                      lattice_pixels, est_gpu_seconds, queued_at)
    SELECT uuidv7(), 'queued', 3, 's3://twofold/a', 's3://twofold/b', '{}', 'lane', 1, 1, 1,
           clock_timestamp()
    FROM generate_series(1, 6000) AS n
""")
_LEAVE = text("UPDATE jobs SET isolation = :mark WHERE id = :id")


@dataclass
class _Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class _Claimer:
    """A run that claims with marks, and a clock that stands still."""

    engine: Engine
    clock: _Clock = field(default_factory=_Clock)

    def __post_init__(self) -> None:
        self.low_water = LowWater(clock=self.clock)
        self.run_id = begun(self.engine)

    def claim(self, limit: int = 2, **changes: Any) -> list[Claim]:
        with self.engine.begin() as connection:
            jobs = claims.claim(
                connection,
                self.run_id,
                limit=limit,
                run_deadline=AMPLE,
                low_water=self.low_water,
                **changes,
            )
        return [job.claim for job in jobs]

    def ids(self, limit: int = 2) -> list[UUID]:
        return [claim.job_id for claim in self.claim(limit)]


def _complete(engine: Engine, taken: list[Claim]) -> None:
    with engine.begin() as connection:
        results = {claim: result_of(claim) for claim in taken}
        outcomes.complete(connection, taken[0].run_id, results)


@contextmanager
def _late_commit(engine: Engine) -> Iterator[tuple[UUID, Callable[[], None]]]:
    """A job of a transaction that is open, which its second part ends."""
    with engine.connect() as slow:
        (answer,) = submit.insert_jobs(slow, [new_job()])
        yield answer.job_id, slow.commit


def _released(claimer: _Claimer) -> UUID:
    (taken,) = claimer.claim(1)
    submitted(claimer.engine, *[new_job()] * 4)
    claimer.claim()
    with claimer.engine.begin() as connection:
        outcomes.release(connection, claimer.run_id, [taken])
    return taken.job_id


def _rescued(claimer: _Claimer) -> UUID:
    lost = _Claimer(claimer.engine)
    (taken,) = lost.claim(1)
    submitted(claimer.engine, *[new_job()] * 4)
    claimer.claim()
    silence(claimer.engine, lost.run_id)
    assert rescued(claimer.engine) == 1
    return taken.job_id


def _retried(claimer: _Claimer) -> UUID:
    (taken,) = claimer.claim(1)
    submitted(claimer.engine, *[new_job()] * 4)
    claimer.claim()
    with claimer.engine.begin() as connection:
        outcomes.fail(connection, claimer.run_id, {taken: SourceNotFound()})
        requests.retry(connection, [taken.job_id])
    return taken.job_id


_COMES_BACK = pytest.mark.parametrize("comes_back", [_released, _rescued, _retried])


def test_a_job_that_is_committed_late_is_found_with_the_next_look_at_everything(
    engine: Engine,
) -> None:
    claimer = _Claimer(engine)
    with _late_commit(engine) as (late, commit):
        others = submitted(engine, *[new_job()] * 6)
        assert claimer.ids() == others[:2]
        commit()
        assert claimer.ids() == others[2:4]
        claimer.clock.now += RESCAN_SECONDS
        assert claimer.ids() == [late, others[4]]


def test_a_job_that_is_committed_late_is_found_when_there_is_no_other(engine: Engine) -> None:
    claimer = _Claimer(engine)
    with _late_commit(engine) as (late, commit):
        others = submitted(engine, *[new_job()] * 2)
        assert claimer.ids() == others
        commit()
    assert claimer.ids() == [late]
    assert claimer.ids() == []


@pytest.mark.parametrize("above", [JobClass.STANDARD, JobClass.INTERACTIVE])
def test_to_look_for_what_overtakes_and_find_nothing_forgets_no_mark(
    engine: Engine, above: JobClass
) -> None:
    """A run whose engine is busy looks so all the time."""
    claimer = _Claimer(engine)
    submitted(engine, *[new_job()] * 6)
    claimer.claim()
    marks = dict(claimer.low_water.marks())
    assert marks
    assert claimer.claim(above=above) == []
    assert claimer.low_water.marks() == marks


@_COMES_BACK
def test_a_job_that_comes_back_is_found_with_the_next_look_at_everything(
    engine: Engine, comes_back: Callable[[_Claimer], UUID]
) -> None:
    claimer = _Claimer(engine)
    submitted(engine)
    job_id = comes_back(claimer)
    assert job_id not in claimer.ids(1)
    claimer.clock.now += RESCAN_SECONDS
    assert claimer.ids(1) == [job_id]


@_COMES_BACK
def test_a_job_that_comes_back_is_found_when_there_is_no_other(
    engine: Engine, comes_back: Callable[[_Claimer], UUID]
) -> None:
    claimer = _Claimer(engine)
    submitted(engine)
    job_id = comes_back(claimer)
    assert len(claimer.ids(4)) == 2
    assert claimer.ids() == [job_id]


def test_who_gives_a_job_back_sees_it_at_once(engine: Engine) -> None:
    claimer = _Claimer(engine)
    first, *_ = submitted(engine, *[new_job()] * 4)
    taken = claimer.claim(1)
    with engine.begin() as connection:
        outcomes.release(connection, claimer.run_id, taken)
    claimer.low_water.forget()
    assert claimer.ids(1) == [first]


def test_isolated_work_behind_the_mark_of_its_lane_comes_together(engine: Engine) -> None:
    """Claims of other work stepped over it there."""
    claimer = _Claimer(engine)
    job_ids = submitted(engine, *[new_job()] * 6)
    with engine.begin() as connection:
        for job_id in job_ids[2:4]:
            connection.execute(_LEAVE, {"id": job_id, "mark": claimer.run_id})
    taken = claimer.claim(4)
    assert [claim.job_id for claim in taken] == job_ids[:2] + job_ids[4:]
    _complete(engine, taken)
    assert claimer.ids(4) == job_ids[2:4]


def test_each_lane_tenant_and_class_has_a_mark_of_its_own(engine: Engine) -> None:
    """Whatever a claim stepped over in one, jobs of the others are taken in their order."""
    claimer = _Claimer(engine)
    a, b, unmeasured, urgent = submitted(
        engine,
        new_job(tenant="a"),
        new_job(tenant="b"),
        new_job(tenant="a", measure=None),
        new_job(tenant="b", job_class=JobClass.INTERACTIVE),
    )
    later = submitted(engine, *[new_job(tenant="a")] * 2)
    # The lane's others come with the first.
    assert claimer.ids(3) == [urgent, a, later[0]]
    assert set(claimer.ids(2)) == {b, later[1]}
    assert claimer.ids(2) == [unmeasured]


def test_a_claimer_with_marks_takes_what_one_without_takes(engine: Engine) -> None:
    submitted(engine, *[new_job(tenant=tenant) for tenant in "abcd" * 10])
    with_marks, without = _Claimer(engine), begun(engine)
    taken = list[UUID]()
    while ids := with_marks.ids(3):
        taken += ids
        with engine.begin() as connection:
            jobs = claims.claim(connection, without, limit=3, run_deadline=AMPLE)
        taken += [job.id for job in jobs]
    assert len(set(taken)) == len(taken) == 40


def test_marks_are_bounded(engine: Engine) -> None:
    tenants = [f"tenant-{number}" for number in range(300)]
    claimer = _Claimer(engine)
    submitted(engine, *[new_job(tenant=tenant) for tenant in tenants])
    while claimer.claim(50):
        assert len(claimer.low_water.marks()) <= 256


def test_what_left_the_queue_under_a_held_snapshot_costs_the_next_claim_nothing(
    engine: Engine,
) -> None:
    claimer = _Claimer(engine)
    with engine.begin() as connection:
        connection.execute(_DEEP)
    settle(engine)
    _complete(engine, claimer.claim(32))
    first = _pages(engine, claimer)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as holder:
        holder.execute(text("SELECT FROM jobs LIMIT 1"))
        for _ in range(120):
            _complete(engine, claimer.claim(32))
            with engine.begin() as connection:
                tallies.fold(connection)
                shares.fold(connection)
        with_marks = _pages(engine, claimer)
        claimer.clock.now += RESCAN_SECONDS
        without = _pages(engine, claimer)
        holder.rollback()
    assert with_marks - first < (without - first) / 3


def test_what_a_run_has_held_under_a_held_snapshot_costs_it_nothing(engine: Engine) -> None:
    """Nor may it before vacuum has removed it: a run holds thousands in an hour."""
    claimer = _Claimer(engine)
    with engine.begin() as connection:
        connection.execute(_DEEP)
    settle(engine)
    pages = list[dict[str, int]]()
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as holder:
        holder.execute(text("SELECT FROM jobs LIMIT 1"))
        for number in range(121):
            taken = claimer.claim(32)
            if number in {0, 120}:
                pages.append(_pages_of_holds(engine, taken))
            _complete(engine, taken)
        holder.rollback()
    first, last = pages
    for name, count in first.items():
        assert last[name] < 1.5 * count, name


def _pages_of_holds(engine: Engine, taken: list[Claim]) -> dict[str, int]:
    """What each statement on these claims would read."""
    values: dict[str, Any] = {
        "run_id": taken[0].run_id,
        "ids": [claim.job_id for claim in taken],
        "fences": [claim.fence for claim in taken],
        "versions": ["v1"] * len(taken),
    }
    ended = {
        "run_id": taken[0].run_id,
        "id": values["ids"],
        "fence": values["fences"],
        "result": json.dumps([{}] * len(taken)),
    }
    measured = values | {
        "lanes": ["a"] * len(taken),
        "pixels": [1] * len(taken),
        "lattices": [1] * len(taken),
        "costs": [1.0] * len(taken),
    }
    return {
        "start": pages_read(engine, holds._START, values),
        "measure": pages_read(engine, holds._MEASURE, measured),
        "complete": pages_read(engine, outcomes._COMPLETE, ended),
    }


def _pages(engine: Engine, claimer: _Claimer) -> int:
    """That the next claim would read."""
    parameters = {
        "run_id": claimer.run_id,
        "mates": 31,
        "pixels": 2**40,
        "run_deadline": AMPLE,
        "classes": len(JobClass),
        "first_guess": 0.1,
        "first_id": UUID(int=0),
        **claims._as_arrays(claimer.low_water.marks()),
    }
    return pages_read(engine, claims._CLAIM, parameters, first=read_in_order)
