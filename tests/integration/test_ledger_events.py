"""Every change of state is an event, once, in an order that nothing is added to later."""

from collections.abc import Sequence
from contextlib import ExitStack
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
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
from tests.house import eventually
from tests.plans import rows_read

from twofold_schema import lanes
from twofold_schema.errors import CorruptSource, InvalidPosition, StorageUnavailable
from twofold_schema.job import Parameters
from twofold_schema.ledger import (
    events,
    holds,
    outcomes,
    requests,
    submissions,
    submit,
    sweeps,
)
from twofold_schema.ledger.events import Event, Position
from twofold_schema.states import JobClass, JobState

_AGE = text("""
    UPDATE jobs SET queued_at = queued_at - interval '5 s', claimed_at = claimed_at - interval '7 s'
""")
_MANY = text("""
    INSERT INTO events (xid, at, job_id, tenant, job_class, generation, fence, state)
    SELECT n, clock_timestamp(), gen_random_uuid(), 'default', 1, 1, 0, 'queued'
    FROM generate_series(1, 5000) AS n
""")
_ANALYZE = text("ANALYZE events")


def _all(engine: Engine, count: int, after: Position | None = None) -> Sequence[Event]:
    """So many events, once no transaction is open before them."""

    def look() -> Sequence[Event]:
        with engine.connect() as connection:
            found = events.read(connection, after, limit=10_000)
        return found if len(found) >= count else ()

    found = eventually(look, within=20)
    assert len(found) == count
    return found


def _told(found: Sequence[Event]) -> list[tuple[JobState | None, JobState]]:
    return [(event.left_state, event.state) for event in found]


def _submit(connection: Connection) -> UUID:
    return submit.insert_jobs(connection, [new_job()])[0].job_id


class TestRows:
    def test_a_life_is_told_state_by_state(self, engine: Engine) -> None:
        (job_id,) = submitted(engine, new_job(start_at=PAST, job_class=JobClass.BULK, tenant="zoo"))
        with engine.begin() as connection:
            sweeps.promote(connection)
        run_id = begun(engine)
        taken = claimed(engine, run_id, started=True)
        with engine.begin() as connection:
            outcomes.retry_later(connection, run_id, dict.fromkeys(taken, StorageUnavailable()))
            requests.cancel(connection, [job_id])

        found = _all(engine, 5)

        assert _told(found) == [
            (None, JobState.SCHEDULED),
            (JobState.SCHEDULED, JobState.QUEUED),
            (JobState.QUEUED, JobState.RUNNING),
            (JobState.RUNNING, JobState.SCHEDULED),
            (JobState.SCHEDULED, JobState.CANCELLED),
        ]
        assert [event.fence for event in found] == [0, 0, 1, 1, 1]
        assert [event.run_id for event in found] == [None, None, run_id, run_id, None]
        assert [event.error for event in found] == [None] * 3 + ["storage_unavailable", None]
        assert {(event.job_id, event.tenant, event.job_class) for event in found} == {
            (job_id, "zoo", JobClass.BULK)
        }

    def test_a_retry_is_of_a_new_generation(self, engine: Engine) -> None:
        (job_id,) = submitted(engine)
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        with engine.begin() as connection:
            outcomes.fail(connection, run_id, dict.fromkeys(taken, CorruptSource()))
            requests.retry(connection, [job_id])

        found = _all(engine, 4)

        assert _told(found)[2:] == [
            (JobState.RUNNING, JobState.FAILED),
            (JobState.FAILED, JobState.QUEUED),
        ]
        assert [event.generation for event in found] == [1, 1, 1, 2]
        assert [event.error for event in found] == [None, None, "corrupt_source", None]
        assert [event.run_id for event in found] == [None, run_id, run_id, None]

    def test_an_event_says_how_long_the_job_was_queued_or_running(self, engine: Engine) -> None:
        submitted(engine)
        with engine.begin() as connection:
            connection.execute(_AGE)
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        with engine.begin() as connection:
            connection.execute(_AGE)
            outcomes.complete(connection, run_id, {one: result_of(one) for one in taken})

        new, taken_up, done = _all(engine, 3)

        assert new.seconds is None
        assert taken_up.seconds is not None
        assert done.seconds is not None
        assert taken_up.seconds >= 5
        assert done.seconds >= 7
        assert done.at >= taken_up.at >= new.at

    def test_what_changes_no_state_is_no_event(self, engine: Engine) -> None:
        (job_id,) = submitted(engine, new_job(measure=None))
        run_id = begun(engine)
        taken = claimed(engine, run_id)
        with engine.begin() as connection:
            found = lanes.measure(Parameters(), 100, 200)
            holds.measure(connection, run_id, dict.fromkeys(taken, found))
            holds.start(connection, run_id, dict.fromkeys(taken, "v1"))
            requests.cancel(connection, [job_id])

        assert len(_all(engine, 2)) == 2

    def test_nothing_is_told_of_what_was_rolled_back(self, engine: Engine) -> None:
        with engine.connect() as connection:
            _submit(connection)
            connection.rollback()
        (job_id,) = submitted(engine)

        assert [event.job_id for event in _all(engine, 1)] == [job_id]


class TestStream:
    def test_a_transaction_that_is_left_open_is_not_skipped(self, engine: Engine) -> None:
        """Whoever reads meanwhile waits for it, and sees it before those that ended earlier."""
        (first,) = submitted(engine)
        (seen,) = _all(engine, 1)
        with engine.connect() as late:
            held = _submit(late)
            (younger,) = submitted(engine)
            with engine.connect() as connection:
                assert events.read(connection, limit=10) == [seen]
                assert events.read(connection, seen.position, limit=10) == []
            late.commit()

        found = _all(engine, 2, after=seen.position)

        assert [event.job_id for event in found] == [held, younger]
        assert [event.job_id for event in _all(engine, 3)] == [first, held, younger]

    def test_a_transaction_that_is_rolled_back_holds_nothing_up_any_more(
        self, engine: Engine
    ) -> None:
        with engine.connect() as late:
            _submit(late)
            (younger,) = submitted(engine)
            late.rollback()

        assert [event.job_id for event in _all(engine, 1)] == [younger]

    def test_the_latest_event_of_a_job_has_its_greatest_number(self, engine: Engine) -> None:
        """Also where an older transaction comes to the job after a younger one."""
        (job_id,) = submitted(engine)
        run_id = begun(engine)
        with engine.connect() as older:
            _submit(older)
            (taken,) = claimed(engine, run_id)
            outcomes.release(older, run_id, [taken])
            older.commit()

        found = [event for event in _all(engine, 4) if event.job_id == job_id]

        assert _told(found) == [
            (None, JobState.QUEUED),
            (JobState.RUNNING, JobState.QUEUED),
            (JobState.QUEUED, JobState.RUNNING),
        ]
        latest = max(found, key=lambda event: event.position.number)
        assert latest.state is job_of(engine, job_id).state is JobState.QUEUED

    def test_pages_follow_each_other(self, engine: Engine) -> None:
        job_ids = submitted(engine, *[new_job()] * 7)
        _all(engine, 7)
        told, after = [], None
        with engine.connect() as connection:
            while page := events.read(connection, after, limit=3):
                assert len(page) <= 3
                told += [event.job_id for event in page]
                after = Position.parse(str(page[-1].position))

        assert sorted(told) == job_ids

    def test_only_what_is_asked_for_is_told(self, engine: Engine) -> None:
        with engine.begin() as connection:
            submission_id = submissions.begin(connection)
            (of_submission,) = submit.insert_jobs(
                connection, [new_job()], submission_id=submission_id
            )
        of_tenant, other = submitted(engine, new_job(tenant="zoo"), new_job(start_at=FUTURE))
        _all(engine, 3)

        with engine.connect() as connection:
            filters = ({"submission_id": submission_id}, {"tenant": "zoo"}, {"job_id": other})
            found = [events.read(connection, limit=9, **one) for one in filters]

        assert [[event.job_id for event in some] for some in found] == [
            [of_submission.job_id],
            [of_tenant],
            [other],
        ]
        assert found[0][0].submission_id == submission_id

    def test_after_the_end_comes_only_what_is_new(self, engine: Engine) -> None:
        submitted(engine)
        _all(engine, 1)
        with engine.connect() as connection:
            end = events.end(connection)
        (job_id,) = submitted(engine)

        assert [event.job_id for event in _all(engine, 1, after=end)] == [job_id]

    def test_a_page_reads_no_more_than_it_gives(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(_MANY)
            connection.execute(_ANALYZE)
        parameters = {"tenant": None, "submission_id": None, "job_id": None, "limit": 10}

        assert rows_read(engine, events._READ, {"xid": 2500, "position": 0, **parameters}) <= 11

    @pytest.mark.timeout(300)
    def test_every_event_is_seen_once_whoever_commits_when(self, engine: Engine) -> None:
        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(st.tuples(st.integers(0, 2), Step), max_size=14))
        def play(script: list[tuple[int, str]]) -> None:
            with engine.connect() as connection:
                begin = events.end(connection)
            _play(engine, script, begin)

        play()


Step = st.sampled_from(["write", "write", "write", "commit", "commit", "roll_back", "read"])


def _play(engine: Engine, script: list[tuple[int, str]], after: Position) -> None:
    """Three writers, and a reader that goes on where it was."""
    told: list[Event] = []
    written: dict[int, list[UUID]] = {0: [], 1: [], 2: []}
    committed: list[UUID] = []

    def read() -> None:
        with engine.connect() as connection:
            told.extend(events.read(connection, told[-1].position if told else after, limit=2))

    with ExitStack() as stack:
        writers = [stack.enter_context(engine.connect()) for _ in range(3)]
        for who, step in script:
            if step == "read":
                read()
            elif step == "write":
                written[who].append(_submit(writers[who]))
            else:
                if step == "commit":
                    committed += written[who]
                    writers[who].commit()
                else:
                    writers[who].rollback()
                written[who] = []

    def seen() -> bool:
        read()
        return len(told) >= len(committed)

    eventually(seen, within=20)
    read()
    assert sorted(event.job_id for event in told) == sorted(committed)
    assert [event.position for event in told] == sorted(event.position for event in told)


class TestPosition:
    @given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
    def test_comes_back_from_text(self, xid: int, number: int) -> None:
        position = Position(xid, number)
        assert Position.parse(str(position)) == position
        assert len(str(position)) <= 33

    @pytest.mark.parametrize(
        "nonsense",
        ["", "7", "-", "7-", "g-1", "1-1-1", "-1-1", "1-1\n", "8000000000000000-1", "1" * 99],
    )
    def test_refuses_what_names_no_place(self, nonsense: str) -> None:
        with pytest.raises(InvalidPosition):
            Position.parse(nonsense)
