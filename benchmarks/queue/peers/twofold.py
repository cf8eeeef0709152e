"""The ledger, called as the worker calls it."""

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Engine
from tests.factories import AMPLE, begun, result_of

from benchmarks.queue import rows
from benchmarks.queue.crew import Shift
from benchmarks.queue.servers import Database
from twofold_schema.database import committing_each
from twofold_schema.job import Claim
from twofold_schema.ledger import claims, holds, outcomes
from twofold_schema.ledger.low_water import LowWater

#: Batches that may wait for the outlet, as a worker's results do.
_WAITING_BATCHES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Twofold:
    """Claims batches and completes them, in two threads with a connection each, as a worker does.

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
        """As a worker, without its work: the intake claims while the outlet completes."""
        engine = self.database.connect()
        taker = committing_each(self.database.connect(in_order=True))
        each = committing_each(engine)
        run_id, low_water = begun(engine), LowWater()
        failed = threading.Event()
        ended: queue.Queue[list[Claim] | None] = queue.Queue(_WAITING_BATCHES)
        shift.begin()
        with ThreadPoolExecutor(1, "outlet") as threads:
            outlet = threads.submit(_complete, each, run_id, ended, shift, failed)
            try:
                while not (shift.over or failed.is_set()):
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
                    held = [job.claim for job in jobs]
                    if self.starts:
                        with each.begin() as connection:
                            holds.start(connection, run_id, dict.fromkeys(held, "v1"))
                    ended.put(held)
            finally:
                ended.put(None)
            outlet.result()
        taker.dispose()
        engine.dispose()

    def left(self) -> int:
        """Queued or running ones."""
        with self.database.plain() as connection:
            (left,) = connection.execute(
                "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"
            ).fetchone() or (0,)
        return int(left)


def _complete(
    engine: Engine,
    run_id: UUID,
    ended: "queue.Queue[list[Claim] | None]",
    shift: Shift,
    failed: threading.Event,
) -> None:
    """Complete what has ended, all that waits together, until None comes."""
    last = False
    try:
        while not last:
            batches = [ended.get()]
            while not ended.empty():
                batches.append(ended.get())
            last = None in batches
            results = {claim: result_of(claim) for batch in batches for claim in batch or ()}
            if results:
                with engine.begin() as connection:
                    settled = outcomes.complete(connection, run_id, results)
                shift.did(sum(one.stands for one in settled))
    except BaseException:
        failed.set()
        while not last:  # the intake shall not wait for room for ever
            last = ended.get() is None
        raise
