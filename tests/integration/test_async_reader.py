"""Reads of coroutines: bounded, without a trace in the session, whatever becomes of connections."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, TextClause, text
from sqlalchemy.exc import DBAPIError
from tests.factories import begun, claimed, job_of, new_job, submitted

from twofold_producer.api.lookups import Lookups
from twofold_schema.async_reader import AsyncReader
from twofold_schema.database import is_transient
from twofold_schema.errors import JobNotFound
from twofold_schema.ids import new_id
from twofold_schema.settings import DatabaseSettings

Answer = TypeVar("Answer")

_PID = text("SELECT pg_backend_pid() AS pid")
_BOUND = text("SELECT current_setting('statement_timeout') AS bound")


class _Counting(AsyncReader):
    """Counts what goes to the database."""

    trips = 0

    async def rows(
        self, statement: TextClause, parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        self.trips += 1
        return await super().rows(statement, parameters)


def _with(reader: AsyncReader, do: Callable[[], Awaitable[Answer]]) -> Answer:
    async def whole() -> Answer:
        try:
            return await do()
        finally:
            await reader.close()

    return asyncio.run(whole())


def test_a_read_is_bounded_and_the_session_is_not(
    database_settings: DatabaseSettings, engine: Engine
) -> None:
    settings = database_settings.model_copy(update={"database_timeout_seconds": 7.0})
    reader = AsyncReader(settings)

    async def read() -> tuple[str, str]:
        (within,) = await reader.rows(_BOUND, {})
        assert reader._connection is not None
        cursor = await reader._connection.execute("SHOW statement_timeout")
        (after,) = await cursor.fetchall()
        return within["bound"], after["statement_timeout"]

    assert _with(reader, read) == ("7s", "0")


def test_a_read_behind_a_lock_gives_up_and_the_next_one_is_answered(
    database_settings: DatabaseSettings, engine: Engine
) -> None:
    (job_id,) = submitted(engine)
    reader = AsyncReader(database_settings.model_copy(update={"database_timeout_seconds": 0.05}))
    lookups = Lookups(reader)

    async def read() -> None:
        with engine.connect() as locking:
            locking.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(DBAPIError) as gave_up:
                await lookups.job(job_id, None)
        assert is_transient(gave_up.value)
        assert (await lookups.job(job_id, None)).id == job_id

    _with(reader, read)


def test_a_connection_that_is_gone_is_replaced(
    database_settings: DatabaseSettings, engine: Engine
) -> None:
    reader = AsyncReader(database_settings)

    async def read() -> tuple[int, int]:
        (before,) = await reader.rows(_PID, {})
        with engine.begin() as connection:
            ended = text("SELECT pg_terminate_backend(:pid, 5000)")
            assert connection.execute(ended, before).scalar_one()
        (after,) = await reader.rows(_PID, {})
        return before["pid"], after["pid"]

    before, after = _with(reader, read)
    assert before != after


def test_a_database_that_is_not_there_is_told_as_such(database_settings: DatabaseSettings) -> None:
    nowhere = database_settings.model_validate(
        {"database_url": "postgresql://nobody@127.0.0.1:1/nothing"}
    )
    reader = AsyncReader(nowhere)
    with pytest.raises(DBAPIError) as away:
        _with(reader, lambda: reader.rows(_PID, {}))
    assert is_transient(away.value)


def test_what_is_asked_for_meanwhile_is_read_in_one_trip(
    database_settings: DatabaseSettings, engine: Engine
) -> None:
    ids = submitted(engine, *[new_job()] * 40)
    reader = _Counting(database_settings)
    lookups = Lookups(reader)

    async def read() -> None:
        found = await asyncio.gather(*(lookups.job(job_id, "default") for job_id in ids))
        assert [job.id for job in found] == ids

    _with(reader, read)
    assert reader.trips == 1


def test_jobs_are_as_others_read_them_and_only_their_tenants(
    database_settings: DatabaseSettings, engine: Engine
) -> None:
    """Those that are queued, running, and nobody's; of several tenants at once."""
    mine, theirs = submitted(engine, new_job(tenant="mine"), new_job(tenant="theirs"))
    claimed(engine, begun(engine), limit=1)
    reader = AsyncReader(database_settings)
    lookups = Lookups(reader)

    async def read() -> None:
        answers = await asyncio.gather(
            lookups.job(mine, "mine"),
            lookups.job(theirs, "theirs"),
            lookups.job(theirs, None),
            lookups.job(theirs, "mine"),
            lookups.job(new_id(), None),
            return_exceptions=True,
        )
        assert list(answers[:3]) == [job_of(engine, job_id) for job_id in (mine, theirs, theirs)]
        assert [type(answer) for answer in answers[3:]] == [JobNotFound, JobNotFound]

    _with(reader, read)


def test_a_job_that_cannot_be_read_keeps_nobody_waiting(
    database_settings: DatabaseSettings, engine: Engine
) -> None:
    """As one is that a newer version wrote: who asks meanwhile is told, who asks next is served."""
    odd, other = submitted(engine, *[new_job()] * 2)
    with engine.begin() as connection:
        newer = text("""UPDATE jobs SET parameters = '{"steps": "many"}' WHERE id = :id""")
        connection.execute(newer, {"id": odd})
    reader = AsyncReader(database_settings)
    lookups = Lookups(reader)

    async def read() -> None:
        async with asyncio.timeout(10):
            told = await asyncio.gather(
                lookups.job(odd, None), lookups.job(other, None), return_exceptions=True
            )
            assert [type(answer) for answer in told] == [ValidationError] * 2
            assert (await lookups.job(other, None)).id == other

    _with(reader, read)
