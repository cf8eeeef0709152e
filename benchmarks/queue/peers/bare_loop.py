"""The least that a queue in Postgres does: a table of three columns and two statements."""

import time
from dataclasses import dataclass

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.queue.crew import Shift
from benchmarks.queue.peers.contender import BATCH, PAYLOAD
from benchmarks.queue.servers import Database

_TABLE = """
    CREATE TABLE work (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                       payload jsonb NOT NULL, state text NOT NULL DEFAULT 'queued');
    CREATE INDEX work_queued ON work (id) WHERE state = 'queued'
"""

_CLAIM = """
    UPDATE work SET state = 'running'
    WHERE id IN (SELECT id FROM work WHERE state = 'queued'
                 ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)
    RETURNING id, payload
"""


@dataclass(frozen=True, slots=True)
class BareLoop:
    """Takes a batch with SKIP LOCKED and marks it done: two commits, as the ledger has.

    No fences, leases, lanes, results or errors; a worker that dies keeps its jobs for ever.
    """

    database: Database

    @property
    def name(self) -> str:
        """With the driver that it uses."""
        return f"bare loop, {BATCH} a claim (psycopg {psycopg.__version__})"

    def prepare(self) -> None:
        """One table, one index."""
        with self.database.plain() as connection:
            connection.execute(_TABLE)

    def submit(self, jobs: int) -> None:
        """COPY."""
        with (
            self.database.plain() as connection,
            connection.cursor().copy("COPY work (payload) FROM STDIN") as copy,
        ):
            for _ in range(jobs):
                copy.write_row([Jsonb(PAYLOAD)])

    def processes(self, clients: int) -> int:
        """One for each client."""
        return clients

    def work(self, shift: Shift) -> None:
        """Two statements for each batch, each committed by itself, prepared by psycopg."""
        with self.database.plain() as connection:
            shift.begin()
            while not shift.over:
                taken = connection.execute(_CLAIM, [BATCH]).fetchall()
                if not taken:
                    time.sleep(0.01)
                    continue
                done = connection.execute(
                    "UPDATE work SET state = 'done' WHERE id = ANY(%s) AND state = 'running'",
                    [[job_id for job_id, _ in taken]],
                )
                shift.did(done.rowcount)

    def left(self) -> int:
        """Those that are not done."""
        with self.database.plain() as connection:
            (left,) = connection.execute(
                "SELECT count(*) FROM work WHERE state <> 'done'"
            ).fetchone() or (0,)
        return int(left)
