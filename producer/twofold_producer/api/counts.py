"""Counts of the jobs of submissions that go on, shared by all who ask a process for them.

A count looks at every job. Of a million that takes a second, and a thousand may ask at once.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import anyio
import anyio.to_thread
from sqlalchemy import Engine

from twofold_schema.ledger import submissions
from twofold_schema.states import JobState

#: Up to so many jobs are counted anew for each who asks after the last count is done.
FEW: Final = 1000
#: The counts of more are kept for so many times as long as they took, and for a second at least.
_TIMES: Final = 10
_LEAST_SECONDS: Final = 1.0
_THREADS: Final = 4


class Counts:
    """Counts jobs by state. Only its event loop may use it.

    No large submission keeps more than a tenth of a connection busy, however many ask.

    Args:
        engine: Of the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[UUID, asyncio.Task[Mapping[JobState, int]]] = {}
        # Of its own, so that long counts keep nobody else waiting.
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def of(self, submission_id: UUID) -> Mapping[JobState, int]:
        """How many of a submission's jobs are in each state, or were a little while ago.

        Raises:
            DBAPIError: The database is away.
        """
        kept = self._kept.get(submission_id)
        if kept is None:
            kept = asyncio.create_task(self._count(submission_id), name="counts")
            self._kept[submission_id] = kept
        # Whoever goes away leaves the count to the others.
        return await asyncio.shield(kept)

    async def _count(self, submission_id: UUID) -> Mapping[JobState, int]:
        begin, good_for = time.monotonic(), 0.0
        try:
            counts = await anyio.to_thread.run_sync(
                self._look, submission_id, limiter=self._threads
            )
            if sum(counts.values()) > FEW:
                good_for = max(_LEAST_SECONDS, _TIMES * (time.monotonic() - begin))
            return counts
        finally:
            if good_for:
                asyncio.get_running_loop().call_later(good_for, self._kept.pop, submission_id)
            else:
                del self._kept[submission_id]

    def _look(self, submission_id: UUID) -> Mapping[JobState, int]:
        with self._engine.connect() as connection:
            return submissions.count(connection, submission_id)
