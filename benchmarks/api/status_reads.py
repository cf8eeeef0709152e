"""Reads of a job's state against a route that does nothing, while many listen to what happens."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Final
from uuid import UUID

from benchmarks.api.asking import Asking, Listening
from benchmarks.api.bench import Bench
from benchmarks.api.serving import NOTHING, Served, serving
from benchmarks.queue.crew import Crew, Shift, rate
from benchmarks.queue.producing import producer_of, requests
from benchmarks.queue.servers import Database
from benchmarks.report import Report
from twofold_schema.ledger import requests as ledger

_STATE: Final = "GET /v1/jobs/{id}"
_NOTHING: Final = "a route that does nothing"
_LIVEZ: Final = "/livez, without a key"
_TICK_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class _Changing:
    """Submits jobs and calls them off, so many each second."""

    database: Database
    broker_url: str
    jobs: int

    def __call__(self, shift: Shift) -> None:
        engine = self.database.connect()
        each = max(1, round(self.jobs * _TICK_SECONDS))
        with producer_of(self.database.url, self.broker_url) as producer:
            shift.begin()
            number, due = 0, time.monotonic()
            while not shift.over:
                name = f"change-{time.monotonic_ns()}"
                made = producer.submit_many(requests(each, name))
                with engine.begin() as connection:
                    ledger.cancel(connection, list(made.job_ids))
                shift.did(each)
                number, due = number + 1, due + _TICK_SECONDS
                time.sleep(max(0.0, due - time.monotonic()))
        engine.dispose()


def measure(bench: Bench) -> Report:
    """Requests a second of each, in turn; the figure is of their medians.

    Raises:
        RuntimeError: A listener was told of nothing.
    """
    scale, servers = bench.scale, bench.servers
    rates: dict[str, list[float]] = {name: [] for name in (_STATE, _NOTHING, _LIVEZ)}
    with servers.database() as database, serving(database, servers.redis_url) as served:
        asked = _asked(served, _known(bench, database))
        listening = Listening(served.url, served.key, scale.listeners)
        changing = _Changing(database, servers.redis_url, scale.changed)
        with (
            Crew(listening, clients=scale.listeners, processes=1) as listeners,
            Crew(changing, clients=1) as changes,
        ):
            listeners.begin()
            changes.begin()
            for _ in bench.each(range(scale.rounds), "status-reads"):
                for name, asking in asked.items():
                    with Crew(asking, clients=scale.readers) as readers:
                        readers.begin()
                        rates[name].append(rate(readers.watch(scale.reading_seconds)))
    if not all(listeners.answers):
        raise RuntimeError("a listener was told of nothing")
    return _report(bench, rates, listeners.shift.done, changes.shift.done)


def _known(bench: Bench, database: Database) -> list[UUID]:
    with producer_of(database.url, bench.servers.redis_url) as producer:
        return list(producer.submit_many(requests(bench.scale.known, "known")).job_ids)


def _asked(served: Served, job_ids: list[UUID]) -> dict[str, Asking]:
    def of(paths: list[str], status: int) -> Asking:
        return Asking(served.url, served.key, paths, status)

    return {
        _STATE: of([f"/v1/jobs/{job_id}" for job_id in job_ids], 200),
        _NOTHING: of([NOTHING], 204),
        _LIVEZ: of(["/livez"], 204),
    }


def _report(bench: Bench, rates: dict[str, list[float]], events: int, changed: int) -> Report:
    middle = {name: median(found) for name, found in rates.items()}
    figures = {"status_read_ratio": middle[_STATE] / middle[_NOTHING]}
    rows = [
        {
            "what": name,
            "requests/s": found,
            "of one that does nothing": f"{found / middle[_NOTHING]:.0%}",
        }
        for name, found in middle.items()
    ]
    said = (
        f"{bench.scale.readers} clients, one request at a time each; {bench.scale.listeners} "
        f"listeners were told of {events} events meanwhile, of {changed} jobs."
    )
    details = {
        "requests_per_second": middle,
        "rounds": rates,
        "listeners": bench.scale.listeners,
        "readers": bench.scale.readers,
        "notes": [said],
    }
    return Report(figures=figures, details=details, rows=rows)
