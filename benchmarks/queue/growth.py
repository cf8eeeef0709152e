"""From one worker run to 64: what they do together, and how long a claim takes each."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from statistics import median, quantiles
from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from tests.factories import AMPLE, begun, result_of

from benchmarks.queue import rows
from benchmarks.queue.bench import Bench
from benchmarks.queue.crew import Crew, Shift, rate
from benchmarks.queue.keeping import kept
from benchmarks.queue.peers.contender import BATCH
from benchmarks.queue.servers import Database
from benchmarks.report import Report
from twofold_schema.database import committing_each
from twofold_schema.ledger import claims, outcomes, runs, sweeps
from twofold_schema.ledger.low_water import LowWater
from twofold_worker.heartbeat import BEATS


def measure(bench: Bench) -> Report:
    """Jobs a second and claim times by the number of runs."""
    scale = bench.scale
    found: dict[int, dict[str, float]] = {}
    for count in bench.each(scale.runs, "growth"):
        with bench.servers.database() as database:
            engine = database.connect()
            waiting, _ = rows.plant(engine)
            engine.dispose()
            work = _Run(database, scale.lease_seconds).work
            with (
                kept(database),
                Crew(work, clients=count) as crew,
                rows.kept_full(database, waiting, crew.shift, scale.depth),
            ):
                crew.begin()
                crew.watch(0.2 * scale.run_seconds)
                samples = crew.watch(scale.run_seconds)
        taken = [seconds for answer in crew.answers for seconds in answer["claims"]]
        beats = [seconds for answer in crew.answers for seconds in answer["beats"]]
        found[count] = {
            "jobs_per_second": rate(samples),
            "claim_median_ms": 1000 * median(taken),
            "claim_p99_ms": 1000 * quantiles(taken, n=100)[98],
            "beats": len(beats),
            "beat_longest_ms": 1000 * max(beats, default=0.0),
        }
    return _report(found)


@dataclass(frozen=True, slots=True)
class _Run:
    """A worker's run without its work: it claims, completes and beats as a worker does."""

    database: Database
    lease_seconds: float

    def work(self, shift: Shift) -> None:
        engine = self.database.connect()
        run_id = begun(engine, lease=timedelta(seconds=self.lease_seconds))
        stop, beats, taken = threading.Event(), list[float](), list[float]()
        taker = committing_each(self.database.connect(in_order=True))
        each = committing_each(engine)
        low_water = LowWater()
        shift.begin()
        heart = threading.Thread(target=self._beat, args=(engine, run_id, stop, beats))
        heart.start()
        while not shift.over:
            begin = time.perf_counter()
            with taker.begin() as connection:
                jobs = claims.claim(
                    connection, run_id, limit=BATCH, run_deadline=AMPLE, low_water=low_water
                )
            if not jobs:
                time.sleep(0.01)
                continue
            taken.append(time.perf_counter() - begin)
            results = {job.claim: result_of(job.claim) for job in jobs}
            with each.begin() as connection:
                settled = outcomes.complete(connection, run_id, results)
            shift.did(sum(one.stands for one in settled))
        stop.set()
        heart.join()
        taker.dispose()
        engine.dispose()
        shift.tell({"claims": taken, "beats": beats})

    def _beat(
        self, engine: Engine, run_id: UUID, stop: threading.Event, beats: list[float]
    ) -> None:
        every = self.lease_seconds / BEATS
        while not stop.wait(every):
            begin = time.perf_counter()
            with engine.begin() as connection:
                runs.renew(connection, run_id, holding=BATCH)
            with engine.begin() as connection:
                sweeps.rescue(connection, every_seconds=every)
            beats.append(time.perf_counter() - begin)


def _report(found: Mapping[int, Mapping[str, float]]) -> Report:
    table = [
        {
            "runs": count,
            "jobs/s": one["jobs_per_second"],
            "claim, median ms": one["claim_median_ms"],
            "p99 ms": one["claim_p99_ms"],
            "heartbeats": int(one["beats"]),
            "longest, ms": one["beat_longest_ms"],
        }
        for count, one in found.items()
    ]
    details: dict[str, Any] = {"batch": BATCH, "runs": {str(n): one for n, one in found.items()}}
    return Report(figures={}, details=details, rows=table)
