"""What a claim costs in time and in pages read, with up to ten million finished rows around it."""

import time
from collections.abc import Mapping
from statistics import median, quantiles
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Engine, text
from tests.factories import AMPLE, begun, result_of

from benchmarks.queue import rows
from benchmarks.queue.bench import Bench
from benchmarks.queue.keeping import kept
from benchmarks.queue.peers.contender import BATCH
from benchmarks.report import Report
from twofold_schema.database import committing_each
from twofold_schema.ledger import claims, outcomes
from twofold_schema.ledger.low_water import LowWater

#: Claims that go before those that are timed, in every round.
_WARM: Final = 5

# Pages of tables and indexes that a backend has looked at, cached ones too.
_BUFFERS = text("""
    SELECT coalesce(sum(hits + reads), 0) FROM pg_stat_get_backend_io(:pid)
    WHERE object = 'relation'
""")

# Lets a backend count what it did in time for the next look.
_COUNT_NOW = text("SELECT pg_backend_pid(), pg_stat_force_next_flush()")


def measure(bench: Bench) -> Report:
    """The median and the 99th percentile of a claim's time, and its buffers, by finished rows.

    Raises:
        RuntimeError: A claim came back with less than was there.
    """
    scale = bench.scale
    for count in scale.finished:
        rows.filled(bench, count)
    times: dict[int, list[list[float]]] = {count: [] for count in scale.finished}
    buffers: dict[int, list[float]] = {count: [] for count in scale.finished}
    plan = [(number, count) for number in range(scale.rounds) for count in scale.finished]
    for _, count in bench.each(plan, "finished-rows"):
        database, waiting = rows.filled(bench, count)
        rows.enqueue(database, waiting, (scale.claims + _WARM) * BATCH)
        taker, ender = committing_each(database.connect(in_order=True)), database.connect()
        run_id, low_water = begun(ender), LowWater()
        with kept(database):
            for _ in range(_WARM):
                _claim(taker, ender, run_id, low_water)
            before = _buffers(taker, ender)
            times[count].append(
                [_claim(taker, ender, run_id, low_water) for _ in range(scale.claims)]
            )
            buffers[count].append((_buffers(taker, ender) - before) / scale.claims)
        taker.dispose()
        ender.dispose()
    return _report(times, buffers)


def _claim(taker: Engine, ender: Engine, run_id: UUID, low_water: LowWater) -> float:
    """Seconds for a claim with its transaction; another connection completes what it took."""
    begin = time.perf_counter()
    with taker.begin() as connection:
        jobs = claims.claim(
            connection, run_id, limit=BATCH, run_deadline=AMPLE, low_water=low_water
        )
    took = time.perf_counter() - begin
    if len(jobs) != BATCH:
        raise RuntimeError(f"a claim took {len(jobs)} jobs, not {BATCH}")
    with ender.begin() as connection:
        outcomes.complete(connection, run_id, {job.claim: result_of(job.claim) for job in jobs})
    return took


def _buffers(taker: Engine, ender: Engine) -> float:
    with taker.begin() as connection:
        pid = connection.execute(_COUNT_NOW).one()[0]
    with ender.begin() as connection:
        return float(connection.execute(_BUFFERS, {"pid": pid}).scalar_one())


def _report(times: Mapping[int, list[list[float]]], buffers: Mapping[int, list[float]]) -> Report:
    least, most = min(times), max(times)
    medians = {count: [median(one) for one in own] for count, own in times.items()}

    def ratio(values: Mapping[int, list[float]]) -> float:
        """Round by round, for what disturbs the machine disturbs both of a round."""
        return median(full / bare for full, bare in zip(values[most], values[least], strict=True))

    figures = {
        "claim_median_ratio_10m": ratio(medians),
        "claim_buffers_ratio_10m": ratio(buffers),
    }
    found: dict[int, dict[str, Any]] = {
        count: {
            "median_ms": 1000 * median(medians[count]),
            "p99_ms": 1000 * quantiles([t for one in own for t in one], n=100)[98],
            "buffers": median(buffers[count]),
        }
        for count, own in times.items()
    }
    table = [
        {
            "finished rows": f"{count:,}",
            "claim, median ms": one["median_ms"],
            "p99 ms": one["p99_ms"],
            "buffers a claim": one["buffers"],
        }
        for count, one in found.items()
    ]
    details = {
        "batch": BATCH,
        "claims": {str(count): one for count, one in found.items()},
        "medians_ms": {str(c): [1000 * m for m in own] for c, own in medians.items()},
        "buffers_by_round": {str(count): own for count, own in buffers.items()},
    }
    return Report(figures=figures, details=details, rows=table)
