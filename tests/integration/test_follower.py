"""One reader for all who listen: where each of them begins, and what it is told first."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

from sqlalchemy import Engine
from tests.factories import new_job, submitted
from tests.house import eventually

from twofold_producer.api.follower import Follower, Listener
from twofold_schema.ledger import events
from twofold_schema.ledger.events import Event


@asynccontextmanager
async def _following(follower: Follower) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _stream(engine: Engine, count: int) -> Sequence[Event]:
    """All events, once there are so many that nobody can come before."""

    def read() -> Sequence[Event]:
        with engine.connect() as connection:
            found = events.read(connection, limit=count + 1)
        return found if len(found) == count else []

    return eventually(read)


def test_who_comes_from_a_faster_process_is_told_nothing_again(engine: Engine) -> None:
    """This one has not read yet what the other has told, and somebody listens here already."""
    follower = Follower(engine)

    async def listening() -> None:
        async with aclosing(follower.listen(Listener(), None)) as slow:
            await anext(slow)
            submitted(engine, *[new_job()] * 3)
            _, last, missed = _stream(engine, 3)
            told: list[Event] = []
            async with (
                aclosing(follower.listen(Listener(), last.position)) as coming,
                asyncio.timeout(30),
            ):
                assert await anext(coming) == []
                assert await anext(coming) == []  # all that it missed is still to come
                async with _following(follower):
                    while missed not in told:
                        told += await anext(coming)
        assert told == [missed]

    asyncio.run(listening())
