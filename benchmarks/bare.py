"""The bare engine against the model card's snippet, static batches and the device's own rate."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import loads, model
from benchmarks.clock import WallClock
from benchmarks.driving import Room, drive_engine
from benchmarks.report import Report
from benchmarks.subject import Subject
from twofold_worker.upscaler.port import BatchTooLarge, Upscaler


def measure(subject: Subject) -> Report:
    """Pictures a second at each rung, and of the timed device nothing more."""
    if subject.is_timed:
        return _of_engine(subject, subject.upscaler(), {})
    return _of_engine(subject, *_compared(subject))


def _compared(subject: Subject) -> tuple[Upscaler, dict[str, float]]:
    """The engine, and what the same weights do without it, in pictures a second."""
    scale, device = subject.scale, subject.torch_device
    pipeline = subject.pipeline()
    pictures = [loads.crop(number, scale.side, scale.side) for number in range(8)]

    def rate(count: int, run: Callable[[], None], rounds: int) -> float:
        model.wait(device)
        begin = time.perf_counter()
        for _ in range(rounds):
            run()
        model.wait(device)
        return count * rounds / (time.perf_counter() - begin)

    found = {}
    model.snippet(pipeline, pictures[:1], 1)
    found["snippet, weights kept loaded"] = rate(
        1, lambda: model.snippet(pipeline, pictures[:1], scale.steps), scale.images
    )
    for rung in scale.rungs:
        batch = [pictures[number % len(pictures)] for number in range(rung)]
        run = partial(model.snippet, pipeline, batch, scale.steps)
        try:
            model.snippet(pipeline, batch, 1)
            found[f"static batch of {rung}"] = rate(rung, run, max(1, scale.images // rung))
        except torch.OutOfMemoryError:
            break
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline.save_pretrained(folder, safe_serialization=True)

        def task() -> None:
            own = model.reload(folder, device, subject.dtype)
            model.snippet(own, pictures[:1], scale.steps)

        task()  # the files are in memory from now on: a warm disk, in the snippet's favour
        per_task = rate(1, task, scale.per_task)
    return model.upscaler(pipeline), {"snippet, weights loaded per task": per_task} | found


def _of_engine(subject: Subject, upscaler: Upscaler, others: dict[str, float]) -> Report:
    scale, device = subject.scale, subject.torch_device
    rates: dict[str, float] = {}
    for rung in scale.rungs:
        requests = loads.uniform(max(scale.images, 2 * rung), side=scale.side, steps=scale.steps)
        requests = requests[: len(requests) // rung * rung]
        try:
            warm = [upscaler.begin(request) for request in requests[:rung]]
            upscaler.step(warm, rung=rung)
        except BatchTooLarge:
            break
        model.wait(device)
        clock = WallClock()
        done = drive_engine(
            upscaler,
            loads.at_once(requests),
            most=rung,
            capacity=Room(rung, rung * scale.side**2),
            clock=clock,
        )
        rates[f"engine, rung {rung}"] = len(done) / done[-1].at
    best = max(rates.values())
    figures = {"images_per_second": best}
    details: dict[str, Any] = {"side": scale.side, "steps": scale.steps}
    details["images_per_second"] = others | rates
    if others:
        flops = model.flops_per_image(upscaler, side=scale.side, steps=scale.steps)
        ceiling = model.matmul_rate(device, seconds=scale.seconds)
        static = max(rate for name, rate in others.items() if name.startswith("static"))
        figures |= {
            "ratio_to_snippet_loaded": best / others["snippet, weights kept loaded"],
            "ratio_to_snippet_per_task": best / others["snippet, weights loaded per task"],
            "ratio_to_static_batch": best / static,
            "share_of_matmul_rate": best * flops / ceiling,
        }
        details |= {"flops_per_image": flops, "matmul_flops_per_second": ceiling}
    rows = [
        {"what": name, "images/s": rate, "engine is": f"{best / rate:.2f}x"}
        for name, rate in (others | rates).items()
    ]
    return Report(figures=figures, details=details, rows=rows)
