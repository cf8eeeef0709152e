"""Thousands of mixed jobs on a device that is allowed 12 GiB: none may fail."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from benchmarks import loads
from benchmarks.clock import VirtualClock, WallClock
from benchmarks.driving import Room, drive_engine
from benchmarks.report import Report
from benchmarks.subject import Subject
from twofold_schema.settings import LimitSettings, WorkerSettings
from twofold_worker.capacity import Capacity
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.planning import capacity_of
from twofold_worker.upscaler.port import Request, Upscaler

CAP_BYTES: Final = 12 * 2**30

#: More slots than fit, so that the cap is met.
_MOST: Final = 32


def measure(subject: Subject) -> Report:
    """How many jobs failed."""
    requests = _requests(subject)
    arrivals = loads.at_once(requests)
    if subject.is_timed:
        virtual = VirtualClock()
        timed = subject.timed(clock=virtual, memory_bytes=CAP_BYTES, makes_pictures=False)
        # Without a plan: what does not fit shows when it is tried.
        room = Room(_MOST, 1 << 40)
        done = drive_engine(timed, arrivals, most=_MOST, capacity=room, clock=virtual)
    else:
        with _capped():
            upscaler = subject.upscaler()
            capacity = _planned(subject, upscaler)
            done = drive_engine(
                upscaler, arrivals, most=_MOST, capacity=capacity, clock=WallClock()
            )
    failed = sum(one.made is None for one in done) + len(requests) - len(done)
    sizes = Counter(request.size for request in requests)
    rows = [
        {"source": f"{width} x {height} px", "jobs": count}
        for (height, width), count in sorted(sizes.items())
    ]
    details = {"jobs": len(requests), "cap_bytes": CAP_BYTES}
    return Report(figures={"jobs_failed_under_cap": float(failed)}, details=details, rows=rows)


def _requests(subject: Subject) -> list[Request]:
    """All sizes, step counts with and without CFG: short ones, for memory is what is tried."""
    scale = subject.scale
    random = np.random.default_rng(4)
    return [
        replace(
            request,
            steps=int(random.integers(1, 5)),
            guidance_scale=float(random.choice([0.0, 0.0, 0.0, 5.0])),
        )
        for request in loads.mixed_sizes(scale.capped, steps=1, scale=scale.size_factor)
    ]


def _planned(subject: Subject, upscaler: Upscaler) -> Capacity:
    """What a worker with this budget plans."""
    if not isinstance(upscaler, DiffusionUpscaler):
        raise TypeError(f"{upscaler.name} has no memory to plan")
    settings = {
        "TWOFOLD_DEVICE": subject.torch_device.type,
        "TWOFOLD_MAX_BATCH": str(_MOST),
        "TWOFOLD_MEMORY_BUDGET": str(CAP_BYTES),
    }
    return capacity_of(upscaler, WorkerSettings.load(settings), LimitSettings.load({}))


@contextmanager
def _capped() -> Iterator[None]:
    """Let torch have that much of the GPU and no more; of a CPU it cannot."""
    if not torch.cuda.is_available():
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_BYTES / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
