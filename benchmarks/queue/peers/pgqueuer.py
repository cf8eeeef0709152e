"""PgQueuer: batches of rows over asyncpg, deleted when they are done and noted in a log table."""

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.queue.crew import Shift
from benchmarks.queue.peers.contender import BATCH, PAYLOAD
from benchmarks.queue.servers import Database

_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class PgQueuer:
    """PgQueuer's own worker on asyncpg and uvloop, with batches as large as the ledger's."""

    database: Database

    @property
    def name(self) -> str:
        """With its version."""
        return f"pgqueuer {version('pgqueuer')}"

    def prepare(self) -> None:
        """Its schema."""
        uvloop.run(self._prepare())

    async def _prepare(self) -> None:
        async with asyncpg.create_pool(self.database.url, min_size=1, max_size=1) as pool:
            await Queries(AsyncpgPoolDriver(pool)).install()

    def submit(self, jobs: int) -> None:
        """`enqueue` with lists."""
        uvloop.run(self._submit(jobs))

    async def _submit(self, jobs: int) -> None:
        payload = json.dumps(PAYLOAD).encode()
        async with asyncpg.create_pool(self.database.url, min_size=1, max_size=1) as pool:
            queries = Queries(AsyncpgPoolDriver(pool))
            for first in range(0, jobs, _CHUNK):
                count = min(_CHUNK, jobs - first)
                await queries.enqueue(["nothing"] * count, [payload] * count, [0] * count)

    def processes(self, clients: int) -> int:
        """One for each client."""
        return clients

    def work(self, shift: Shift) -> None:
        """Until the shift is over."""
        logging.getLogger("pgqueuer").setLevel(logging.ERROR)
        uvloop.run(self._work(shift))

    async def _work(self, shift: Shift) -> None:
        async with asyncpg.create_pool(self.database.url, min_size=2, max_size=4) as pool:
            manager = QueueManager(Queries(AsyncpgPoolDriver(pool)))

            @manager.entrypoint("nothing")
            async def nothing(_: Job) -> None:
                shift.did(1)

            shift.begin()
            worker = asyncio.create_task(
                manager.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=0.1))
            )
            while not shift.over and not worker.done():
                await asyncio.sleep(0.05)
            manager.shutdown.set()
            await worker

    def left(self) -> int:
        """Those that have not been deleted."""
        with self.database.plain() as connection:
            (left,) = connection.execute("SELECT count(*) FROM pgqueuer").fetchone() or (0,)
        return int(left)
