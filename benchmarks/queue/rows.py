"""Rows of the ledger's tables in numbers that nobody would submit one by one.

They are copies of jobs that went through the ledger, with their own ids and times, so that they
have whatever columns the tables have.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import Engine
from tests.factories import begun, claimed, new_job, result_of, submitted

from benchmarks.queue.bench import Bench
from benchmarks.queue.crew import Shift
from benchmarks.queue.servers import Database
from twofold_schema.ledger import audit, outcomes, tallies

_CHUNK: Final = 50_000
#: Over how long finished jobs were spread.
_HISTORY: Final = timedelta(days=30)
_TOP_UP_SECONDS: Final = 0.05

# What of a queued copy is its own. Its pattern waits for its time, so that no run ever took it.
_QUEUED: Final = {
    "id": "uuidv7()",
    "key": "'copy-' || number",
    "state": "'queued'",
    "scheduled_at": "NULL",
    "created_at": "clock_timestamp()",
    "queued_at": "clock_timestamp()",
}

# What of a finished copy is its own: one after the other, evenly over the time until now.
_AGE: Final = "-(interval '1 second' * %(seconds)s * (1 - number / %(rows)s::double precision))"
_TIMES: Final = (
    "created_at", "queued_at", "first_claimed_at", "claimed_at", "started_at", "finished_at",
)  # fmt: skip
_FINISHED: Final = {
    "id": f"uuidv7({_AGE})",
    "key": "'done-' || number",
    **dict.fromkeys(_TIMES, f"clock_timestamp() + {_AGE}"),
    "source": "'s3://twofold/uploads/album/' || number || '.png'",
    "result": "jsonb_set(t.result, '{uri}', to_jsonb('s3://twofold/results/' || number || '.png'))",
}


def plant(engine: Engine) -> tuple[UUID, UUID]:
    """Bring two jobs into the ledger to make copies of; gives the waiting and the finished one."""
    run_id = begun(engine)
    (finished,) = submitted(engine, new_job(key="finished"))
    with engine.begin() as connection:
        outcomes.complete(
            connection,
            run_id,
            {held: result_of(held) for held in claimed(engine, run_id, started=True)},
        )
    (waiting,) = submitted(engine, new_job(key="waiting", start_at=_far_future()))
    return waiting, finished


def _copies(connection: psycopg.Connection, own: dict[str, str]) -> sql.Composed:
    """The statement that copies a job, from a first number to a last one."""
    columns = [
        name
        for (name,) in connection.execute(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = 'jobs' AND table_schema = 'public' AND is_generated = 'NEVER' "
            "ORDER BY ordinal_position"
        )
    ]
    chosen = [sql.SQL(own[name]) if name in own else sql.Identifier("t", name) for name in columns]
    return sql.SQL(
        "INSERT INTO jobs ({}) SELECT {} FROM jobs AS t, "
        "generate_series(%(first)s::bigint, %(last)s) AS number WHERE t.id = %(pattern)s"
    ).format(sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(chosen))


def enqueue(database: Database, waiting: UUID, count: int) -> None:
    """Let that many more jobs wait in the queue."""
    with database.plain() as connection:
        statement = _copies(connection, _QUEUED)
        for first in range(1, count + 1, _CHUNK):
            last = min(first + _CHUNK - 1, count)
            connection.execute(statement, {"first": first, "last": last, "pattern": waiting})


@contextmanager
def kept_full(database: Database, waiting: UUID, shift: Shift, depth: int) -> Iterator[None]:
    """Keep the queue about as deep as it is at the start, which is `depth`."""
    stop = threading.Event()

    def top_up() -> None:
        made = 0
        with database.plain() as connection:
            statement = _copies(connection, _QUEUED)
            while not stop.wait(_TOP_UP_SECONDS):
                done = shift.done
                if done > made:
                    numbers = {"first": made + 1, "last": done, "pattern": waiting}
                    connection.execute(statement, numbers)
                    made = done

    enqueue(database, waiting, depth)
    thread = threading.Thread(target=top_up, name="submitter")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def filled(bench: Bench, rows: int) -> tuple[Database, UUID]:
    """A database with that many finished jobs, made once, and the job that queued ones copy."""
    if rows not in bench.servers.kept:
        database = bench.servers.parts.enter_context(bench.servers.database())
        engine = database.connect()
        waiting, finished = plant(engine)
        _finish(bench, database, finished, rows)
        # Rows that have ended when they are inserted are not counted: they would be back from the
        # history.
        with engine.begin() as connection:
            audit.allow_time(connection)
            tallies.correct(connection)
        engine.dispose()
        with database.plain() as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        bench.servers.kept[rows] = (database, waiting)
    return bench.servers.kept[rows]


def _finish(bench: Bench, database: Database, finished: UUID, rows: int) -> None:
    numbers = [(first, min(first + _CHUNK - 1, rows)) for first in range(1, rows + 1, _CHUNK)]

    def fill(chunk: tuple[int, int]) -> None:
        with database.plain() as connection:
            values = {
                "first": chunk[0],
                "last": chunk[1],
                "pattern": finished,
                "rows": rows,
                "seconds": _HISTORY.total_seconds(),
            }
            connection.execute(_copies(connection, _FINISHED), values)

    # One for each core; in about the order of their ids, as they would have come.
    with ThreadPoolExecutor(2) as fillers:
        for _ in bench.each(
            fillers.map(fill, numbers), f"{rows} finished rows", total=len(numbers)
        ):
            pass


def _far_future() -> datetime:
    return datetime.now(UTC) + timedelta(days=365)
