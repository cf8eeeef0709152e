"""The overview's counts, against counting."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from sqlalchemy import Connection, Engine, text
from tests.factories import begun, claimed, result_of

from benchmarks.queue import rows
from benchmarks.queue.bench import Bench
from benchmarks.queue.peers.contender import BATCH
from benchmarks.report import Report
from twofold_schema.ledger import outcomes, tallies

# What the overview says, without the ledger's tallies.
_COUNT = text("""
    SELECT tenant, job_class, state, count(*) FROM jobs GROUP BY tenant, job_class, state
""")

_PENDING = text("SELECT count(*) FROM tally_changes")


def measure(bench: Bench) -> Report:
    """Milliseconds of the overview, and of counting the same from the rows.

    Raises:
        RuntimeError: The two disagree.
    """
    scale = bench.scale
    most = max(scale.finished)
    database, waiting = rows.filled(bench, most)
    rows.enqueue(database, waiting, 2 * scale.claims * BATCH)
    engine = database.connect()
    _fold(engine)
    with engine.connect() as connection:
        counted = {tuple(row[:3]): row[3] for row in connection.execute(_COUNT)}
        told = {
            (one.tenant, one.job_class.rank, str(one.state)): one.jobs
            for one in tallies.overview(connection)
        }
    if told != counted:
        raise RuntimeError(f"the overview says {told}, and there are {counted}")
    folded = _times(engine, tallies.overview, scale.looks)
    pending = _work(engine, scale.claims)
    unfolded = _times(engine, tallies.overview, scale.looks)
    by_rows = _times(engine, lambda connection: connection.execute(_COUNT).all(), scale.rounds)
    engine.dispose()
    found = {
        "overview, all folded": folded,
        f"overview, {pending} changes to fold": unfolded,
        "count(*) by tenant, class, state": by_rows,
    }
    milliseconds = {name: 1000 * median(times) for name, times in found.items()}
    table = [
        {
            "how": name,
            "median ms": milliseconds[name],
            "longest ms": 1000 * max(times),
            "count(*) is": f"{median(by_rows) / median(times):,.0f}x",
        }
        for name, times in found.items()
    ]
    details: dict[str, Any] = {"rows": most, "milliseconds": milliseconds, "pending": pending}
    # What a page costs between two of the keeper's folds.
    return Report(figures={"overview_ms_10m": 1000 * median(unfolded)}, details=details, rows=table)


def _fold(engine: Engine) -> None:
    while True:
        with engine.begin() as connection:
            if not tallies.fold(connection):
                return


def _work(engine: Engine, batches: int) -> int:
    """Claim and complete, so that there are changes that nobody has folded; returns how many."""
    run_id = begun(engine)
    for _ in range(batches):
        taken = claimed(engine, run_id, limit=BATCH)
        with engine.begin() as connection:
            outcomes.complete(connection, run_id, {held: result_of(held) for held in taken})
    with engine.connect() as connection:
        return int(connection.execute(_PENDING).scalar_one())


def _times(engine: Engine, look: Callable[[Connection], object], looks: int) -> list[float]:
    """Seconds of each look, with its transaction."""
    times = []
    for _ in range(looks):
        begin = time.perf_counter()
        with engine.begin() as connection:
            look(connection)
        times.append(time.perf_counter() - begin)
    return times
