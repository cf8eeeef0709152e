"""Procrastinate: a row for each job, fetched one by one by a function in Postgres."""

import asyncio
import logging
from dataclasses import dataclass

import procrastinate

from benchmarks.queue.crew import Shift
from benchmarks.queue.peers.contender import BATCH, PAYLOAD
from benchmarks.queue.servers import Database

_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Procrastinate:
    """Procrastinate's own worker with 32 jobs at once, which overlaps fetching and finishing."""

    database: Database

    @property
    def name(self) -> str:
        """With its version."""
        return f"procrastinate {procrastinate.__version__}"

    def prepare(self) -> None:
        """Its schema."""
        with self._app(
            procrastinate.SyncPsycopgConnector(conninfo=self.database.url)
        ).open() as app:
            app.schema_manager.apply_schema()

    def submit(self, jobs: int) -> None:
        """`batch_defer`."""
        with self._app(
            procrastinate.SyncPsycopgConnector(conninfo=self.database.url)
        ).open() as app:
            for first in range(0, jobs, _CHUNK):
                payloads = [PAYLOAD] * min(_CHUNK, jobs - first)
                app.tasks["nothing"].batch_defer(*payloads)

    def processes(self, clients: int) -> int:
        """One for each client."""
        return clients

    def work(self, shift: Shift) -> None:
        """Until the shift is over."""
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        asyncio.run(self._work(shift))

    async def _work(self, shift: Shift) -> None:
        connector = procrastinate.PsycopgConnector(
            conninfo=self.database.url, min_size=4, max_size=8
        )
        app = self._app(connector, shift)
        async with app.open_async():
            shift.begin()
            worker = asyncio.create_task(
                app.run_worker_async(
                    concurrency=BATCH,
                    listen_notify=False,
                    fetch_job_polling_interval=0.05,
                    install_signal_handlers=False,
                )
            )
            while not shift.over and not worker.done():
                await asyncio.sleep(0.05)
            worker.cancel()
            await asyncio.wait([worker])

    def left(self) -> int:
        """Those that have not succeeded."""
        with self.database.plain() as connection:
            (left,) = connection.execute(
                "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"
            ).fetchone() or (0,)
        return int(left)

    @staticmethod
    def _app(
        connector: procrastinate.BaseConnector, shift: Shift | None = None
    ) -> procrastinate.App:
        app = procrastinate.App(connector=connector)

        @app.task(name="nothing", queue="bench")
        async def nothing(**_: object) -> None:
            if shift is not None:
                shift.did(1)

        return app
