"""Predicted against measured peak memory, over a grid of sizes and rungs."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import loads
from benchmarks.report import Report
from benchmarks.subject import Subject
from twofold_worker.upscaler.port import BatchTooLarge, Request, Upscaler


@dataclass(frozen=True, slots=True)
class Point:
    """What one stage took for one shape.

    Attributes:
        stage: "step" or "decode".
        rung: Slots; 1 for a decode.
        pixels: Of the source.
        measured: Peak bytes above what lay there before.
    """

    stage: str
    rung: int
    pixels: int
    measured: int


def measure(subject: Subject) -> Report:
    """The largest error over the grid, of what was predicted from its small corner."""
    upscaler, scale = subject.upscaler(), subject.scale
    points = [*_grid(upscaler, scale.sides, scale.rungs, on_gpu=subject.device == "cuda")]
    predict = planner(points)
    rows = [
        {
            "stage": point.stage,
            "source": f"{round(point.pixels**0.5)} px",
            "rung": point.rung,
            "predicted MiB": predict(point) / 2**20,
            "measured MiB": point.measured / 2**20,
            "error": f"{predict(point) / point.measured - 1:+.1%}",
        }
        for point in points
    ]
    worst = max(abs(predict(point) / point.measured - 1) for point in points)
    return Report(figures={"memory_prediction_error": worst}, rows=rows)


def planner(points: Sequence[Point]) -> Callable[[Point], float]:
    """What the planner predicts, from what it measures at start.

    Stands for the worker's own planner: a straight line for each stage through its three smallest
    shapes.
    """
    lines = {}
    for stage in {point.stage for point in points}:
        own = sorted((p for p in points if p.stage == stage), key=lambda p: p.rung * p.pixels)[:3]
        work = [point.rung * point.pixels for point in own]
        lines[stage] = np.polyfit(work, [point.measured for point in own], 1)
    return lambda point: float(np.polyval(lines[point.stage], point.rung * point.pixels))


def _grid(
    upscaler: Upscaler, sides: Sequence[int], rungs: Sequence[int], *, on_gpu: bool
) -> Iterator[Point]:
    peak = _peak_on_gpu if on_gpu else _peak_on_cpu
    for side in sides:
        request = Request(source=loads.crop(0, side, side), seed=0, steps=1)
        for rung in rungs:
            try:
                sample = upscaler.begin(request)
                with peak() as found:
                    upscaler.step([sample], rung=rung)
            except BatchTooLarge:
                continue
            yield Point("step", rung, side**2, found["bytes"])
        try:
            with peak() as found:
                upscaler.finish(sample)
        except BatchTooLarge:
            continue
        yield Point("decode", 1, side**2, found["bytes"])


@contextmanager
def _peak_on_gpu() -> Iterator[dict[str, int]]:
    """The most that torch's allocator gave out at once, above what it had given out before."""
    found: dict[str, int] = {}
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield found
    torch.cuda.synchronize()
    found["bytes"] = torch.cuda.max_memory_allocated() - before


@contextmanager
def _peak_on_cpu() -> Iterator[dict[str, int]]:
    """The most bytes of new tensors that lived at once: a CPU's allocator counts nothing."""
    found: dict[str, int] = {}
    with _Live() as live:
        yield found
    found["bytes"] = live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not say
    """Counts the storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not say
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's own signature
        del types
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        answer = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(answer):
            if _is_tensor(leaf) and _address(leaf) not in given | self._known:
                self._count(leaf)
        return answer

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._known.add(storage.data_ptr())
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, storage.data_ptr(), storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
