"""The ledger in Postgres does what the protocol in plain Python does, whatever befalls it.

`LEDGER_EXAMPLES=2000 pytest tests/integration/test_ledger_model.py` searches deeper, with a new
seed each time.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, Engine, text
from tests.factories import AMPLE, FUTURE, PAST, begun, new_job, renewed, rescued
from tests.ledger_checks import WAYS, check_modelled, check_step
from tests.ledger_model import Model, ModelJob, ModelRun

from twofold_schema import lanes
from twofold_schema.errors import (
    JobNotRetryable,
    KeyReused,
    RunLost,
)
from twofold_schema.ids import new_id
from twofold_schema.job import Claim, Job, Parameters
from twofold_schema.ledger import (
    capacity,
    claims,
    history,
    holds,
    requests,
    runs,
    submit,
    sweeps,
    tallies,
)
from twofold_schema.ledger.history import ALL_JOBS
from twofold_schema.states import TRANSITIONS, JobClass, JobState

_EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "0"))
_EMPTY = text("""
    WITH no_jobs AS (DELETE FROM jobs), no_history AS (DELETE FROM history),
         no_runs AS (DELETE FROM runs),
         no_keys AS (DELETE FROM job_keys), no_events AS (DELETE FROM events),
         no_changes AS (DELETE FROM tally_changes), no_tallies AS (DELETE FROM tallies)
    DELETE FROM pulse
""")
_ROWS = text(f"SELECT * FROM {ALL_JOBS} AS jobs ORDER BY id")
_EVENTS = text("SELECT * FROM events ORDER BY position")
_COUNTS = text(f"""
    SELECT tenant, job_class, state, count(*) AS jobs, sum(est_gpu_seconds) AS gpu_seconds,
           count(*) FILTER (WHERE est_gpu_seconds IS NULL) AS unmeasured
    FROM {ALL_JOBS} AS jobs GROUP BY tenant, job_class, state
""")
_RUNS = text("SELECT id, state FROM runs")
_LEASES_END = text("UPDATE runs SET lease_expires_at = '2020-01-01Z' WHERE id = ANY(:ids)")
# Rescue's patience lasts one lease from the database's return.
_OUTAGE = text("""
    WITH gap AS (UPDATE pulse SET beat_at = '2020-01-01Z') UPDATE runs SET lease_seconds = :seconds
""")
_KEYS_END = text("UPDATE job_keys SET expires_at = '2020-01-01Z'")
_PASS = {
    column: text(f"UPDATE jobs SET {column} = '2020-01-01Z' WHERE id = ANY(:ids)")
    for column in ("start_by", "finish_by", "scheduled_at", "run_deadline")
}

#: What some runs have room for, in padded pixels.
_SMALL = 256 * 256

Pick = st.integers(min_value=0, max_value=59)
Often = st.sampled_from([True, True, True, False])
Seldom = st.sampled_from([False, False, False, True])
Key = st.sampled_from([None, None, None, "cat", "dog"])
Deadline = st.sampled_from([None, None, FUTURE])
Asked = st.fixed_dictionaries(
    {
        "job_class": st.sampled_from(JobClass),
        "side": st.sampled_from([512, 512, 512, 256, None]),
        "revision": st.sampled_from([None, None, "revision-1", "revision-2"]),
        "start_at": st.sampled_from([None, None, None, None, PAST, FUTURE]),
        "start_by": Deadline,
        "finish_by": Deadline,
    }
)


Draw = Callable[[st.SearchStrategy[Any]], Any]
ACTIONS = [
    *["claim", "end", "advance", "leave", "time_passes", "sweep"] * 2,
    *["end", "submit", "beat", "cancel", "retry", "outage"],
]


class Ledger(RuleBasedStateMachine):
    """Jobs, two revisions' runs, and everything that can happen to them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._model = Model()
        self._keys: dict[str, tuple[UUID, Mapping[str, Any]]] = {}
        self._claims: list[Claim] = []
        self._seen: dict[UUID, Job] = {}
        self._write(lambda c: c.execute(_EMPTY))
        for revision, room in (("revision-1", None), ("revision-1", _SMALL), ("revision-2", None)):
            self._begin_run(revision, room)

    def _write(self, call: Callable[[Connection], Any]) -> Any:
        with self._engine.begin() as connection:
            return call(connection)

    def _begin_run(self, revision: str, room: int | None = None) -> UUID:
        lease = AMPLE if self._model.is_patient else timedelta(0)
        run_id = begun(self._engine, model_revision=revision, lease=lease, max_lattice_pixels=room)
        self._write(lambda c: renewed(c, run_id))
        self._model.runs[run_id] = ModelRun(revision, room)
        return run_id

    def _run(self, draw: Draw, *, able: bool = False) -> tuple[UUID, ModelRun]:
        """A run of late; one that may claim, if there is one and it is asked for."""
        every = list(self._model.runs.items())
        claiming = [(id_, run) for id_, run in every if run.state == "live" and not run.is_silent]
        some = claiming if able and claiming else every[-5:]
        pick: int = draw(Pick)
        return some[pick % len(some)]

    def _job(self, draw: Draw, wanted: Callable[[ModelJob], bool]) -> ModelJob:
        """Any job; often one that is wanted, if there is one."""
        every = list(self._model.jobs.values())
        some = [job for job in every if wanted(job)] if draw(Often) else every
        some = some or every
        pick: int = draw(Pick)
        return some[pick % len(some)]

    def _some_claims(self, draw: Draw) -> tuple[UUID, list[Claim]]:
        """Some claims of one run: of those that hold a job still, or of any time."""
        pick: int = draw(Pick)
        held = [one for one in self._claims if self._model.still_held([one])]
        lost = [one for one in self._claims if one not in held]
        # Most telling are those that a run lost to another claim of its own.
        telling = [
            one for one in lost if self._model.jobs[one.job_id] in self._model.held_by(one.run_id)
        ]
        some = (telling or lost or held) if draw(Seldom) else held
        if not some:
            return new_id(), []
        run_id = some[pick % len(some)].run_id
        one_each = {claim.job_id: claim for claim in some if claim.run_id == run_id}
        return run_id, list(one_each.values())[pick % len(one_each) :]

    @rule(action=st.sampled_from(ACTIONS), data=st.data())
    def step(self, action: str, data: st.DataObject) -> None:
        """One rule with weights of its own: Hypothesis would leave some of many rules out."""
        if not any(job.is_claimable for job in self._model.jobs.values()):
            self.submit(data.draw)
            self.rows_are_as_modelled()
        if action in {"end", "advance", "leave", "cancel"} and data.draw(Often):
            self.claim(data.draw)
            self.rows_are_as_modelled()
        getattr(self, action)(data.draw)

    def submit(self, draw: Draw) -> None:
        asked, key, most = draw(Asked), draw(Key), draw(st.integers(1, 3))
        copies = draw(st.integers(1, 4))
        parameters = Parameters(seed=7, model_revision=asked["revision"])
        side = asked["side"]
        measure = lanes.measure(parameters, side, side) if side else None
        fields = {name: asked[name] for name in ("job_class", "start_at", "start_by", "finish_by")}
        wanted = new_job(
            parameters=parameters, measure=measure, key=key, max_attempts=most, **fields
        )
        held = self._keys.get(key) if key else None
        if held and held[1] != asked:
            with pytest.raises(KeyReused):
                self._write(lambda c: submit.insert_jobs(c, [wanted]))
            return
        answers = self._write(lambda c: submit.insert_jobs(c, [wanted] * copies))
        created = [answer.job_id for answer in answers if answer.created]
        assert len(created) == (0 if held else 1 if key else copies)
        if key:
            held = self._keys.setdefault(key, (answers[0].job_id, asked))
            assert {answer.job_id for answer in answers} == {held[0]}
        for job_id in created:
            self._model.jobs[job_id] = ModelJob(
                id=job_id,
                rank=asked["job_class"].rank,
                lane=measure.lane if measure else None,
                lattice_pixels=measure.lattice_pixels if measure else None,
                revision=asked["revision"],
                max_attempts=most,
                state=JobState.SCHEDULED if asked["start_at"] else JobState.QUEUED,
                is_due=asked["start_at"] == PAST,
                start_by_passed=asked["start_by"] and False,
                finish_by_passed=asked["finish_by"] and False,
            )

    def claim(self, draw: Draw) -> None:
        run_id, _ = self._run(draw, able=draw(st.booleans()))
        above = draw(st.sampled_from(JobClass)) if draw(Seldom) else None
        taken = self._claim(run_id, draw(st.integers(1, 4)), above)
        if draw(Often):
            self._start(run_id, taken)

    def _claim(self, run_id: UUID, limit: int, above: JobClass | None = None) -> list[Claim]:
        taken = self._write(
            lambda c: claims.claim(c, run_id, limit=limit, run_deadline=AMPLE, above=above)
        )
        ranks = len(JobClass) if above is None else above.rank
        expected = self._model.claim(run_id, limit, ranks)
        assert [job.id for job in taken] == [job.id for job in expected]
        self._claims += [job.claim for job in taken]
        return [job.claim for job in taken]

    def advance(self, draw: Draw) -> None:
        run_id, some = self._some_claims(draw)
        side = draw(st.sampled_from([None, None, 256, 512]))
        if side is None:
            self._start(run_id, some)
            return
        measures = {claim: lanes.measure(Parameters(), side, side) for claim in some}
        still = self._write(lambda c: holds.measure(c, run_id, measures))
        held = self._model.still_held(some)
        assert still == {job.id for job in held}
        for job in held:
            job.lane = lanes.measure(Parameters(), side, side).lane
            job.lattice_pixels = side * side

    def _start(self, run_id: UUID, some: list[Claim]) -> None:
        go_on = self._write(lambda c: holds.start(c, run_id, dict.fromkeys(some, "v1")))
        held = [job for job in self._model.still_held(some) if not job.is_flagged]
        assert go_on == {job.id: "v1" for job in held}
        for job in held:
            job.is_started = True

    def end(self, draw: Draw) -> None:
        run_id, some = self._some_claims(draw)
        self._end(run_id, some, draw(st.sampled_from(list(WAYS))), lost=draw(Seldom))

    def _end(self, run_id: UUID, some: list[Claim], way: str, *, lost: bool) -> None:
        held = self._model.still_held(some)
        for job in held:
            WAYS[way].model(self._model, job)
        settled = self._write(lambda c: WAYS[way].ledger(c, run_id, some))
        stands = [job.id for job in held]
        if lost:
            settled = self._write(lambda c: WAYS[way].ledger(c, run_id, some))
            stands = [job.id for job in held if job.state is not JobState.EXPIRED]
        for claim, one in zip(some, settled, strict=True):
            job = self._model.jobs[claim.job_id]
            assert (one.job_id, one.state) == (job.id, job.state)
            assert one.stands or job.id not in stands
            assert not one.stands or job in held or WAYS[way].stood(job, claim.fence)

    def cancel(self, draw: Draw) -> None:
        job = self._job(draw, lambda job: job.state is JobState.RUNNING)
        answers = self._write(lambda c: requests.cancel(c, [job.id]))
        self._model.cancel(job)
        running = job.state is JobState.RUNNING
        assert answers == {job.id: "cancelling" if running else job.state}

    def retry(self, draw: Draw) -> None:
        job = self._job(draw, lambda job: job.state in {JobState.FAILED, JobState.EXPIRED})
        if self._model.retry(job):
            self._write(lambda c: requests.retry(c, [job.id]))
        else:
            with pytest.raises(JobNotRetryable):
                self._write(lambda c: requests.retry(c, [job.id]))

    def beat(self, draw: Draw) -> None:
        run_id, run = self._run(draw)
        if run.is_ended:
            with pytest.raises(RunLost):
                self._write(lambda c: renewed(c, run_id))
            return
        run.is_silent = False
        renewal = self._write(lambda c: renewed(c, run_id))
        held = {job.id: job.is_flagged for job in self._model.held_by(run_id)}
        assert {claim.job_id: flag for claim, flag in renewal.held.items()} == held
        assert all(claim in self._claims for claim in renewal.held)

    def leave(self, draw: Draw) -> None:
        run_id, run = self._run(draw, able=True)
        busy = [job.run_id for job in self._model.jobs.values() if job.state is JobState.RUNNING]
        if busy and draw(Often):
            run_id = busy[draw(Pick) % len(busy)]
            run = self._model.runs[run_id]
        how = draw(st.sampled_from(["silence", "silence", "give_up", "drain", "stop"]))
        if how == "silence":
            run.is_silent = True
            self._write(lambda c: c.execute(_LEASES_END, {"ids": [run_id]}))
        else:
            self._write(lambda c: getattr(runs, how)(c, run_id))
        if how != "silence" and not run.is_ended:
            run.state = {"drain": "draining", "stop": "stopped", "give_up": "lost"}[how]
        self._begin_run(run.revision, run.room)
        self.rows_are_as_modelled()
        if draw(Often):
            self._sweep("rescue")

    def outage(self, draw: Draw) -> None:
        self._outage(is_long=draw(Seldom), is_over=draw(Often), keys_end=draw(Seldom))

    def _outage(self, *, is_long: bool, is_over: bool, keys_end: bool) -> None:
        """The database goes away, leases run out if it was for long, and it comes back."""
        self._model.is_patient = is_long and not is_over
        if is_long:
            for run in self._model.runs.values():
                run.is_silent = True
            self._write(lambda c: c.execute(_LEASES_END, {"ids": list(self._model.runs)}))
        seconds = AMPLE.total_seconds() if self._model.is_patient else 0.0
        self._write(lambda c: c.execute(_OUTAGE, {"seconds": seconds}))
        if keys_end:
            self._keys.clear()
            self._write(lambda c: c.execute(_KEYS_END))

    def time_passes(self, draw: Draw) -> None:
        job = self._job(draw, lambda job: "finish_by" in job.ahead or "start_by" in job.ahead)
        if job.ahead:
            self._pass(job, draw(st.sampled_from(job.ahead)))

    def _pass(self, job: ModelJob, deadline: str) -> None:
        job.passes(deadline)
        self._write(lambda c: c.execute(_PASS[deadline], {"ids": [job.id]}))

    def sweep(self, draw: Draw) -> None:
        if draw(Seldom):
            self._model.fail_oversized(_SMALL)
            self._write(lambda c: capacity.fail_oversized(c, largest=_SMALL))
        else:
            self._sweep(draw(st.sampled_from(["promote", "expire", "rescue", "rescue"])))
            self._write(tallies.fold)
            if draw(Often):
                self._write(lambda c: history.move(c, age=timedelta(0)))

    def _sweep(self, duty: str) -> None:
        getattr(self._model, duty)()
        if duty == "rescue":
            rescued(self._engine)
        else:
            self._write(getattr(sweeps, duty))

    @invariant()
    def rows_are_as_modelled(self) -> None:
        rows = {row["id"]: row for row in self._write(lambda c: c.execute(_ROWS).mappings().all())}
        assert rows.keys() == self._model.jobs.keys()
        jobs = {job_id: Job.from_row(row) for job_id, row in rows.items()}
        marks = {self._model.jobs[job_id].mark: job.isolation for job_id, job in jobs.items()}
        for job_id, job in jobs.items():
            check_modelled(self._model.jobs[job_id], job)
            assert marks[self._model.jobs[job_id].mark] == job.isolation
            if job_id in self._seen:
                check_step(self._seen[job_id], job)
        assert len(set(marks.values())) == len(marks)
        self._seen = jobs
        states = {row.id: row.state for row in self._write(lambda c: c.execute(_RUNS).all())}
        assert states == {run_id: run.state for run_id, run in self._model.runs.items()}

    @invariant()
    def tallies_are_what_a_count_says(self) -> None:
        counted = {
            (row.tenant, row.job_class, row.state): (
                row.jobs,
                pytest.approx(row.gpu_seconds or 0, abs=1e-3),
                row.unmeasured,
            )
            for row in self._write(lambda c: c.execute(_COUNTS).all())
        }
        assert counted == {
            (tally.tenant, tally.job_class.rank, tally.state): (
                tally.jobs,
                tally.gpu_seconds,
                tally.unmeasured,
            )
            for tally in self._write(tallies.overview)
        }

    def _events_tell_each_life(self) -> None:
        lives: dict[UUID, list[Any]] = defaultdict(list)
        for event in self._write(lambda c: c.execute(_EVENTS).all()):
            lives[event.job_id].append(event)
        assert lives.keys() == self._model.jobs.keys()
        for job_id, life in lives.items():
            job = self._seen[job_id]
            assert life[0].left_state is None
            for before, after in pairwise(life):
                assert after.left_state == before.state
                assert JobState(after.state) in TRANSITIONS[JobState(before.state)]
            last = life[-1]
            assert (last.state, last.generation, last.fence) == (
                job.state,
                job.generation,
                job.fence,
            )

    def teardown(self) -> None:
        """Once faults stop, the keeper and one healthy run of each revision end every job."""
        self._outage(is_long=True, is_over=True, keys_end=True)
        healthy = [self._begin_run("revision-1"), self._begin_run("revision-2")]
        steps: list[Callable[[], None]] = [
            *(partial(self._sweep, duty) for duty in ("promote", "expire", "rescue")),
            *(partial(self._work, run_id) for run_id in healthy),
        ]
        rounds = len(self._model.jobs) + 1
        while not all(job.state.is_final for job in self._model.jobs.values()):
            rounds -= 1
            assert rounds, "the queue does not drain"
            for job in self._model.jobs.values():
                if "scheduled_at" in job.ahead:
                    self._pass(job, "scheduled_at")
            for step in steps:
                step()
                self.rows_are_as_modelled()
        self.tallies_are_what_a_count_says()
        self._events_tell_each_life()

    def _work(self, run_id: UUID) -> None:
        for claim in self._claim(run_id, 100):
            self.rows_are_as_modelled()
            self._end(run_id, [claim], "complete", lost=True)


@pytest.mark.timeout(900)  # a failure is shrunk first, which takes minutes
def test_the_ledger_does_what_the_protocol_does(engine: Engine) -> None:
    class LedgerHere(Ledger):
        def __init__(self) -> None:
            super().__init__(engine)

    run_state_machine_as_test(
        LedgerHere,
        settings=settings(
            max_examples=_EXAMPLES or 60,
            stateful_step_count=40,
            derandomize=not _EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
