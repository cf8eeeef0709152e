"""Predicted against measured peak memory, over a grid of sizes and rungs."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from benchmarks.report import Report
from benchmarks.subject import Subject
from twofold_worker import calibration
from twofold_worker.upscaler.meter import CudaMeter, HostMeter
from twofold_worker.upscaler.port import BatchTooLarge
from twofold_worker.upscaler.probes import PortProbes
from twofold_worker.vram import Stage


def measure(subject: Subject) -> Report:
    """The largest error of the worker's plan over the grid.

    What was measured for the plan is part of the grid; the `new` error is of the rest alone.
    """
    upscaler, scale, device = subject.upscaler(), subject.scale, subject.torch_device
    on_gpu = subject.device == "cuda"
    meter = CudaMeter(device) if on_gpu else HostMeter()
    probes = PortProbes(upscaler, partial(torch.cuda.synchronize, device) if on_gpu else _at_once)
    seen = _Seen(probes)
    sides = calibration.GPU_SIDES if on_gpu else calibration.CPU_SIDES
    plan = calibration.measure(seen, meter, sides=sides)
    rows: list[dict[str, object]] = []
    errors: dict[bool, list[float]] = {True: [0.0], False: [0.0]}
    for stage, slots, side in _grid(scale.sides, scale.rungs):
        try:
            measured = meter.peak_bytes(lambda: _run(probes, stage, slots, side))  # noqa: B023
        except BatchTooLarge:
            continue
        predicted = plan.predicted_bytes(stage, slots, side, side)
        error = predicted / measured - 1
        is_new = (stage, slots, side) not in seen.shapes
        errors[is_new].append(abs(error))
        rows.append(
            {
                "stage": stage.value,
                "source": f"{side} px",
                "rung": slots,
                "predicted MiB": predicted / 2**20,
                "measured MiB": measured / 2**20,
                "error": f"{error:+.1%}",
                "the plan's own": "no" if is_new else "yes",
            }
        )
    figures = {
        "memory_prediction_error": max(max(kind) for kind in errors.values()),
        "memory_prediction_error_new": max(errors[True]),
    }
    return Report(figures=figures, details={"plan": plan.describe()}, rows=rows)


class _Seen:
    """Probes that note what was probed: in the order of `calibration.Probes`."""

    def __init__(self, probes: PortProbes) -> None:
        self._probes = probes
        self.shapes: set[tuple[Stage, int, int]] = set()

    def unet(self, slots: int, height: int, width: int) -> None:
        self.shapes.add((Stage.UNET, slots, height))
        self._probes.unet(slots, height, width)

    def encode(self, height: int, width: int) -> None:
        self.shapes.add((Stage.ENCODE, 1, height))
        self._probes.encode(height, width)

    def decode(self, height: int, width: int) -> None:
        self.shapes.add((Stage.DECODE, 1, height))
        self._probes.decode(height, width)


def _grid(sides: Sequence[int], rungs: Sequence[int]) -> Iterator[tuple[Stage, int, int]]:
    for side in sides:
        yield Stage.ENCODE, 1, side
        for rung in rungs:
            yield Stage.UNET, rung, side
        yield Stage.DECODE, 1, side


def _run(probes: PortProbes, stage: Stage, slots: int, side: int) -> None:
    match stage:
        case Stage.ENCODE:
            probes.encode(side, side)
        case Stage.UNET:
            probes.unet(slots, side, side)
        case Stage.DECODE:
            probes.decode(side, side)


def _at_once() -> None:
    """A CPU is done when it returns."""
