"""The ledger, called as the worker calls it."""

import time
from dataclasses import dataclass
from uuid import UUID

from tests.factories import AMPLE, begun, result_of

from benchmarks.queue import rows
from benchmarks.queue.crew import Shift
from benchmarks.queue.servers import Database
from twofold_schema.database import committing_each
from twofold_schema.ledger import claims, holds, outcomes
from twofold_schema.ledger.low_water import LowWater


@dataclass(frozen=True, slots=True, kw_only=True)
class Twofold:
    """Claims a batch and completes it, each in a transaction of its own.

    Attributes:
        database: With the ledger's tables.
        waiting: The job that queued ones are copies of.
        batch: Jobs of a claim.
        starts: Whether the jobs are also marked as started, in one more in between. The
            worker does so once their sources are there; no peer has anything like it.
    """

    database: Database
    waiting: UUID
    batch: int
    starts: bool = False

    @property
    def name(self) -> str:
        """What it does and how many at once."""
        return f"twofold, {'start too, ' if self.starts else ''}{self.batch} a claim"

    def prepare(self) -> None:
        """The tables are there."""

    def submit(self, jobs: int) -> None:
        """Copies, by the server itself: how fast `submit_many` is, `submit` measures."""
        rows.enqueue(self.database, self.waiting, jobs)

    def processes(self, clients: int) -> int:
        """One for each client, as a worker process has one run."""
        return clients

    def work(self, shift: Shift) -> None:
        """As a worker, without its work."""
        engine = self.database.connect()
        taker = committing_each(self.database.connect(in_order=True))
        each = committing_each(engine)
        run_id, low_water = begun(engine), LowWater()
        shift.begin()
        while not shift.over:
            with taker.begin() as connection:
                jobs = claims.claim(
                    connection,
                    run_id,
                    limit=self.batch,
                    run_deadline=AMPLE,
                    low_water=low_water,
                )
            if not jobs:
                time.sleep(0.01)
                continue
            results = {job.claim: result_of(job.claim) for job in jobs}
            if self.starts:
                with each.begin() as connection:
                    holds.start(connection, run_id, dict.fromkeys(results, "v1"))
            with each.begin() as connection:
                settled = outcomes.complete(connection, run_id, results)
            shift.did(sum(one.stands for one in settled))
        taker.dispose()
        engine.dispose()

    def left(self) -> int:
        """Queued or running ones."""
        with self.database.plain() as connection:
            (left,) = connection.execute(
                "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"
            ).fetchone() or (0,)
        return int(left)
