"""Continuous against static batches on mixed step counts, and mixed sizes against one."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from benchmarks import loads
from benchmarks.clock import Clock, VirtualClock, WallClock
from benchmarks.driving import Done, Room, drive_engine, drive_static
from benchmarks.loads import Arrival
from benchmarks.report import Report
from benchmarks.subject import Subject
from twofold_worker.upscaler.port import Request, Upscaler

CONTINUOUS: Final = "continuous"
STATIC: Final = "static"
EQUAL: Final = "static, equal steps only"

#: Shares of what the continuous engine can do, at which requests arrive.
_LOADS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def measure(subject: Subject) -> Report:
    """Both ratios; of the timed device in virtual time, for they are its schedule's."""
    scale = subject.scale
    clock: Clock = VirtualClock() if subject.is_timed else WallClock()
    upscaler: Upscaler = (
        subject.timed(clock=clock, makes_pictures=False) if subject.is_timed else subject.upscaler()
    )
    requests = loads.mixed_steps(scale.mixed, side=scale.side, steps=scale.range_of_steps)
    backlog = loads.at_once(requests)
    rates = {
        name: len(requests) / drive(upscaler, backlog, clock)[-1].at
        for name, drive in _ways(subject).items()
    }
    uniform = loads.uniform(scale.mixed, side=scale.side, steps=scale.steps)
    natural = loads.mixed_sizes(scale.mixed, steps=scale.steps, scale=scale.size_factor)
    megapixels = {
        name: _megapixels(load)
        / _ways(subject)[CONTINUOUS](upscaler, loads.at_once(load), clock)[-1].at
        for name, load in (("one size", uniform), ("natural mix of sizes", natural))
    }
    figures = {
        "ratio_continuous_to_static": rates[CONTINUOUS] / rates[STATIC],
        "ratio_continuous_to_static_of_equal_steps": rates[CONTINUOUS] / rates[EQUAL],
        "size_mix_ratio": megapixels["natural mix of sizes"] / megapixels["one size"],
    }
    details: dict[str, Any] = {
        "range_of_steps": scale.range_of_steps,
        "images_per_second": rates,
        "megapixels_per_second": megapixels,
    }
    if subject.is_timed:
        details["arrivals"] = _arrivals(subject, rates[CONTINUOUS])
    rows: list[dict[str, object]] = [
        {"load": "mixed steps", "how": name, "rate": rate, "unit": "images/s"}
        for name, rate in rates.items()
    ]
    rows += [
        {"load": name, "how": CONTINUOUS, "rate": rate, "unit": "Mpx/s of results"}
        for name, rate in megapixels.items()
    ]
    return Report(figures=figures, details=details, rows=rows)


def _ways(
    subject: Subject,
) -> dict[str, Callable[[Upscaler, Sequence[Arrival], Clock], list[Done]]]:
    most, most_pixels = subject.scale.most, subject.scale.most * subject.scale.side**2
    return {
        CONTINUOUS: lambda upscaler, arrivals, clock: drive_engine(
            upscaler, arrivals, most=4 * most, capacity=Room(4 * most, most_pixels), clock=clock
        ),
        STATIC: lambda upscaler, arrivals, clock: drive_static(
            upscaler, arrivals, most=most, clock=clock
        ),
        EQUAL: lambda upscaler, arrivals, clock: drive_static(
            upscaler, arrivals, most=most, clock=clock, equal_steps=True
        ),
    }


def _arrivals(subject: Subject, capacity: float) -> dict[str, list[dict[str, float]]]:
    """What requests wait, at several loads: the schedule alone, in virtual time."""
    scale = subject.scale
    requests = loads.mixed_steps(4 * scale.mixed, side=scale.side, steps=scale.range_of_steps)
    found: dict[str, list[dict[str, float]]] = {}
    for name, drive in _ways(subject).items():
        for share in _LOADS:
            clock = VirtualClock()
            arrivals = loads.poisson(requests, per_second=share * capacity)
            done = drive(subject.timed(clock=clock, makes_pictures=False), arrivals, clock)
            took = [one.at - one.arrival.at for one in done]
            found.setdefault(name, []).append(
                {
                    "per_second": share * capacity,
                    "median": float(np.median(took)),
                    "p95": float(np.quantile(took, 0.95)),
                }
            )
    return found


def _megapixels(requests: Sequence[Request]) -> float:
    """Of the results, in all."""
    return sum(4 * request.size[0] * request.size[1] for request in requests) / 1e6
