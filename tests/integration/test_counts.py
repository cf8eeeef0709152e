"""What many who poll a large submission cost: one count, whoever goes away meanwhile."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError
from tests.factories import begun, claimed

from twofold_producer.api.counts import FEW, Counts
from twofold_schema.ids import new_id
from twofold_schema.states import JobState

_FILL = text("""
    INSERT INTO jobs (id, submission_id, state, queued_at, max_attempts, source, output_prefix,
                      parameters)
    SELECT uuidv7(), :submission_id, 'queued', clock_timestamp(), 3, 's3://twofold/a',
           's3://twofold/b', '{}'
    FROM generate_series(1, :jobs) AS n
""")


def _filled(engine: Engine, jobs: int) -> UUID:
    submission_id = new_id()
    with engine.begin() as connection:
        connection.execute(_FILL, {"submission_id": submission_id, "jobs": jobs})
    return submission_id


@contextmanager
def _statements(engine: Engine) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_a_hundred_who_poll_a_hundred_thousand_jobs_cost_one_count(engine: Engine) -> None:
    submission_id = _filled(engine, 100_000)
    counts = Counts(engine)

    async def poll() -> None:
        gone = asyncio.create_task(counts.of(submission_id))
        await asyncio.sleep(0)
        gone.cancel()
        for _ in range(10):
            told = await asyncio.gather(*(counts.of(submission_id) for _ in range(10)))
            assert told == [{JobState.QUEUED: 100_000}] * 10

    with _statements(engine) as sent:
        asyncio.run(poll())
    assert sum("GROUP BY state" in statement for statement in sent) == 1


@pytest.mark.parametrize(("jobs", "are_kept"), [(FEW, False), (FEW + 1, True)])
def test_counts_of_few_jobs_are_never_old(engine: Engine, jobs: int, *, are_kept: bool) -> None:
    submission_id = _filled(engine, jobs)
    counts = Counts(engine)

    async def poll() -> None:
        await counts.of(submission_id)
        claimed(engine, begun(engine), limit=1)
        told = await counts.of(submission_id)
        assert (JobState.RUNNING not in told) == are_kept

    asyncio.run(poll())


def test_a_count_that_failed_is_made_again(engine: Engine) -> None:
    submission_id = _filled(engine, 1)
    counts = Counts(engine)

    async def poll() -> None:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE history RENAME TO elsewhere"))
        try:
            with pytest.raises(DBAPIError):
                await counts.of(submission_id)
        finally:
            with engine.begin() as connection:
                connection.execute(text("ALTER TABLE elsewhere RENAME TO history"))
        assert await counts.of(submission_id) == {JobState.QUEUED: 1}

    asyncio.run(poll())
