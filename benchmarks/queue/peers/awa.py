"""Awa: a queue in Rust with append-only tables, and handlers in Python."""

import asyncio
from dataclasses import dataclass
from importlib.metadata import version

import awa

from benchmarks.queue.crew import Shift
from benchmarks.queue.peers.contender import BATCH, PAYLOAD
from benchmarks.queue.servers import Database

_CHUNK = 1000


@dataclass
class Nothing:
    """What a job of Awa's is made of."""

    source: str
    output_prefix: str
    width: int
    height: int
    parameters: dict[str, object]


@dataclass(frozen=True, slots=True)
class Awa:
    """Awa's own worker with 32 jobs at once."""

    database: Database

    @property
    def name(self) -> str:
        """With its version."""
        return f"awa {version('awa-pg')}"

    def prepare(self) -> None:
        """Its schema, and its fast storage, which the first worker turns on."""
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        await awa.migrate(self.database.url)
        client = awa.AsyncClient(self.database.url)

        @client.task(Nothing, queue="bench")
        async def nothing(_: object) -> None:
            pass

        await client.start([("bench", 1)])
        await client.shutdown()
        await client.close()

    def submit(self, jobs: int) -> None:
        """`enqueue_many_copy`."""
        asyncio.run(self._submit(jobs))

    async def _submit(self, jobs: int) -> None:
        client = awa.AsyncClient(self.database.url)
        for first in range(0, jobs, _CHUNK):
            batch = [Nothing(**PAYLOAD)] * min(_CHUNK, jobs - first)
            await client.enqueue_many_copy(batch, queue="bench")
        await client.close()

    def processes(self, clients: int) -> int:
        """One for each client."""
        return clients

    def work(self, shift: Shift) -> None:
        """Until the shift is over."""
        asyncio.run(self._work(shift))

    async def _work(self, shift: Shift) -> None:
        client = awa.AsyncClient(self.database.url)

        @client.task(Nothing, queue="bench")
        async def nothing(_: object) -> None:
            shift.did(1)

        shift.begin()
        await client.start([("bench", BATCH)], poll_interval_ms=20)
        while not shift.over:
            await asyncio.sleep(0.05)
        await client.shutdown()
        await client.close()

    def left(self) -> int:
        """Those that wait or run, as its own statistics have it."""
        return asyncio.run(self._left())

    async def _left(self) -> int:
        client = awa.AsyncClient(self.database.url)
        stats = await client.queue_stats()
        await client.close()
        return sum(one.available + one.running + one.retryable for one in stats)
