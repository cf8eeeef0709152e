"""What a thread that encodes pictures costs a thread that issues operations.

A tiny operation on the CPU stands for a kernel launch: it takes the GIL, does next to nothing, and
gives it back. An encoder that keeps the GIL makes it wait; see `twofold_worker.codec.result`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

from benchmarks import loads
from benchmarks.report import Report
from benchmarks.subject import Subject
from benchmarks.timed import expected
from twofold_schema.formats import ResultFormat
from twofold_schema.job import Output
from twofold_worker.codec import result
from twofold_worker.upscaler.port import Request

FORMATS: Final = (
    ResultFormat.PNG,
    ResultFormat.WEBP_LOSSLESS,
    ResultFormat.WEBP,
    ResultFormat.JPEG,
)

_WARM: Final = 1000


def measure(subject: Subject) -> Report:
    """Median and 99th percentile of an operation, alone and beside a thread of each encoder."""
    scale = subject.scale
    source = loads.crop(0, scale.side, scale.side)
    pixels = expected(Request(source=source, seed=0, steps=1)).pixels
    found = {"alone": _operations(scale.seconds)}
    for kind in FORMATS:
        output = Output(format=kind)
        with _thread(lambda output=output: result.encode(pixels, output)):  # type: ignore[misc]
            found[kind.value] = _operations(scale.seconds)
    worst = max(found[kind.value][1] for kind in FORMATS)
    figures = {
        "dispatch_median_ratio": max(found[k.value][0] for k in FORMATS) / found["alone"][0],
        "dispatch_p99_microseconds": worst,
    }
    rows = [
        {"beside": name, "median us": median, "p99 us": p99, "mean us": mean}
        for name, (median, p99, mean) in found.items()
    ]
    return Report(figures=figures, rows=rows)


def _operations(seconds: float) -> tuple[float, float, float]:
    """Median, 99th percentile and mean of one tiny operation, in microseconds."""
    one, took = torch.ones(1), []
    for _ in range(_WARM):
        one.add_(1)
    deadline = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < deadline:
        one.add_(1)
        took.append(time.perf_counter() - begin)
    micros = np.array(took) * 1e6
    return float(np.median(micros)), float(np.quantile(micros, 0.99)), float(micros.mean())


@contextmanager
def _thread(work: Callable[[], object]) -> Iterator[None]:
    """Do something over and over beside this block."""
    stop, started = threading.Event(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()
