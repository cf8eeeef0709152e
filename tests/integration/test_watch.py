"""Streams and their keys while the database is away."""

import asyncio
from contextlib import suppress

from structlog.testing import capture_logs
from tests.house import eventually

from twofold_producer.api.caller import Gate
from twofold_producer.api.follower import Listener
from twofold_producer.api.watch import Watch
from twofold_schema import database
from twofold_schema.settings import DatabaseSettings


def test_an_outage_ends_no_stream(database_settings: DatabaseSettings) -> None:
    nowhere = database_settings.model_validate(
        {"database_url": "postgresql://nobody@127.0.0.1:1/nothing"}
    )
    engine = database.connect(nowhere)
    watch, listener = Watch(Gate(engine)), Listener()

    async def watching() -> None:
        task = asyncio.create_task(watch.run())
        with watch.watching("tfk_00000000", listener), capture_logs() as logs:
            await asyncio.to_thread(eventually, lambda: logs)
            assert [log["event"] for log in logs] == ["database_away"]
            assert not task.done()
        assert not listener.is_over
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(watching())
    engine.dispose()
