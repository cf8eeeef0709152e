"""Many jobs over HTTP against the same through the Python door, and the service's memory."""

import time
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, Final

from benchmarks.api.bench import Bench
from benchmarks.api.serving import serving
from benchmarks.queue.producing import producer_of, requests
from benchmarks.report import Report
from twofold_producer.client import Client

_HTTP: Final = "twofold, over HTTP"
_DOOR: Final = "Producer.submit_many"
#: A bulk takes longer than a request does.
_PATIENCE_SECONDS: Final = 600.0


def measure(bench: Bench) -> Report:
    """Jobs a second by both ways, and the peak memory of services that took few and many.

    Raises:
        RuntimeError: What was submitted is not there.
    """
    scale, servers = bench.scale, bench.servers
    times: dict[str, list[float]] = {_HTTP: [], _DOOR: []}
    peaks: list[int] = []
    with servers.database() as database:
        with (
            serving(database, servers.redis_url) as served,
            Client(served.url, served.key, timeout=_PATIENCE_SECONDS) as client,
            producer_of(database.url, servers.redis_url) as producer,
        ):
            client.submit_many(_items(1, "warm"))
            producer.submit_many(requests(1, "warm-door"))
            for number in bench.each(range(scale.rounds), "bulk"):
                begin = time.perf_counter()
                by_http = client.submit_many(_items(scale.submitted, f"http-{number}"))
                between = time.perf_counter()
                by_door = producer.submit_many(requests(scale.submitted, f"door-{number}"))
                end = time.perf_counter()
                times[_HTTP].append(between - begin)
                times[_DOOR].append(end - between)
                _check(scale.submitted, by_http.created, by_door.created)
        for items in scale.remembered:
            with (
                serving(database, servers.redis_url) as served,
                Client(served.url, served.key, timeout=_PATIENCE_SECONDS) as client,
            ):
                _check(items, client.submit_many(_items(items, f"memory-{items}")).created)
                peaks.append(served.peak_kib())
    return _report(bench, times, peaks)


def _items(items: int, name: str) -> Iterator[Mapping[str, Any]]:
    """The fields of `producing.requests`, as a service that speaks HTTP makes them."""
    for number in range(items):
        yield {
            "source": f"s3://twofold/uploads/album/{number:08d}.png",
            "key": f"{name}-{number:08d}",
            "width": 512,
            "height": 768,
        }


def _check(jobs: int, *created: int) -> None:
    for found in created:
        if found != jobs:
            raise RuntimeError(f"{found} jobs were created, not {jobs}")


def _report(bench: Bench, times: dict[str, list[float]], peaks: list[int]) -> Report:
    rates = {name: bench.scale.submitted / median(seconds) for name, seconds in times.items()}
    few, many = peaks
    of_items = dict(zip(map(str, bench.scale.remembered), (few / 1024, many / 1024), strict=True))
    return Report(
        figures={
            "bulk_ratio": rates[_HTTP] / rates[_DOOR],
            "service_rss_ratio": many / few,
        },
        details={
            "jobs": bench.scale.submitted,
            "jobs_per_second": rates,
            "seconds": times,
            "service_peak_mib": of_items,
            "notes": [
                "The service's peak memory: "
                + ", ".join(f"{mib:.0f} MiB for {items} jobs" for items, mib in of_items.items())
                + "."
            ],
        },
        rows=[
            {"what": name, "jobs/s": found, "of the door": f"{found / rates[_DOOR]:.0%}"}
            for name, found in rates.items()
        ],
    )
