"""Who listens hears all that comes, or that something was left out."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest

from twofold_producer.api.follower import Behind, Listener
from twofold_schema.ledger.events import Event, Position
from twofold_schema.states import JobClass, JobState


def _event(number: int) -> Event:
    return Event(
        position=Position(1, number),
        at=datetime.now(UTC),
        job_id=UUID(int=number),
        submission_id=None,
        tenant="acme",
        job_class=JobClass.STANDARD,
        generation=1,
        fence=0,
        run_id=None,
        left_state=None,
        state=JobState.QUEUED,
        seconds=None,
        error=None,
    )


def test_who_is_too_slow_hears_what_was_kept_and_then_that_it_is_behind() -> None:
    """And nothing that came after what was left out, however much room there is by then."""

    async def listening() -> None:
        listener = Listener()
        for number in range(2001):
            listener.hear(_event(number))
        assert [event.position.number for event in await listener.next()] == list(range(2000))
        listener.hear(_event(2001))
        for _ in range(2):
            with pytest.raises(Behind):
                await listener.next()

    asyncio.run(listening())


def test_who_waits_hears_at_once_that_something_was_left_out() -> None:
    async def listening() -> None:
        listener = Listener()
        coming = asyncio.create_task(listener.next())
        await asyncio.sleep(0)
        listener.miss()
        async with asyncio.timeout(10):
            with pytest.raises(Behind):
                await coming

    asyncio.run(listening())
