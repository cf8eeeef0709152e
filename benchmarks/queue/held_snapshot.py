"""Claim and complete while somebody holds a snapshot open, so that nothing can be vacuumed."""

from itertools import pairwise
from typing import Any, Final

from benchmarks.queue import rows
from benchmarks.queue.bench import Bench
from benchmarks.queue.crew import Crew, Sample, rate
from benchmarks.queue.keeping import kept
from benchmarks.queue.peers import Twofold
from benchmarks.queue.peers.contender import BATCH
from benchmarks.queue.servers import Database
from benchmarks.report import Report

_CLIENTS: Final = 4
#: Of the time before the snapshot, what is left to the start.
_START_SHARE: Final = 0.25


def measure(bench: Bench) -> Report:
    """The last seconds' rate under the snapshot, against the rate before it."""
    scale = bench.scale
    with bench.servers.database() as database:
        engine = database.connect()
        waiting, _ = rows.plant(engine)
        engine.dispose()
        work = Twofold(database=database, waiting=waiting, batch=BATCH).work
        # Three steps of progress; what each takes is known.
        steps = bench.each(("before", "under a snapshot", "its end"), "held-snapshot")
        with (
            kept(database),
            Crew(work, clients=_CLIENTS) as crew,
            rows.kept_full(database, waiting, crew.shift, scale.depth),
        ):
            next(steps)
            crew.begin()
            crew.watch(_START_SHARE * scale.calm_seconds)
            calm = crew.watch((1 - _START_SHARE) * scale.calm_seconds)
            next(steps)
            with database.plain() as holder:
                holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT FROM jobs LIMIT 1")
                held = crew.watch(scale.held_seconds - scale.last_seconds)
                next(steps)
                last = crew.watch(scale.last_seconds)
                depth = _depth(database)
                holder.execute("ROLLBACK")
    before, after = rate(calm), rate(last)
    table: list[dict[str, object]] = [
        {"when": "before the snapshot", "jobs/s": before},
        {"when": f"all {scale.held_seconds:g} s of it", "jobs/s": rate(held + last)},
        {"when": f"its last {scale.last_seconds:g} s", "jobs/s": after},
    ]
    details: dict[str, Any] = {
        "clients": _CLIENTS,
        "depth": scale.depth,
        "depth_at_the_end": depth,
        "taken_at": held[0][0] - calm[0][0],
        "last_from": last[0][0] - calm[0][0],
        "by_second": _by_second(calm + held + last),
        "before": before,
    }
    return Report(
        figures={"claim_rate_ratio_held_snapshot": after / before}, details=details, rows=table
    )


def _depth(database: Database) -> int:
    with database.plain() as connection:
        (depth,) = connection.execute(
            "SELECT count(*) FROM jobs WHERE state = 'queued'"
        ).fetchone() or (0,)
    return int(depth)


def _by_second(samples: list[Sample]) -> list[tuple[float, float]]:
    """Seconds from the start, and jobs a second over the one that ends there."""
    ends = [samples[0]]
    for sample in samples:
        if sample[0] - ends[-1][0] >= 1.0:
            ends.append(sample)
    ends.append(samples[-1])
    return [
        (after[0] - samples[0][0], (after[1] - before[1]) / (after[0] - before[0]))
        for before, after in pairwise(ends)
        if after[0] - before[0] >= 0.2
    ]
