"""An upscaler without a model: every pixel four times. It passes the suite of the real one."""

import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twofold_schema.lanes import LATTICE
from twofold_worker.upscaler.port import BatchTooLarge, Latents, Made, Pixels, Request, Sample


class NearestUpscaler:
    """`Upscaler` by repetition of pixels."""

    name = "nearest"
    revision = "1"

    def warm_up(self) -> None:
        pass

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        del careful  # it has no precision
        height, width = request.size
        channels = request.source.shape[-1 if request.source.dtype == np.uint8 else 0]
        if height % LATTICE or width % LATTICE or channels not in (3, 4):
            raise ValueError(f"{request.source.shape} is not on the lattice")
        return Sample(request=request)

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        if not 1 <= sum(sample.request.slots for sample in samples) <= rung:
            raise ValueError(f"{len(samples)} samples do not fit a rung of {rung}")
        if len({sample.request.size for sample in samples}) > 1:
            raise ValueError("the samples of a batch are of one size")
        if any(sample.is_done for sample in samples) or len(set(samples)) < len(samples):
            raise ValueError("a sample is done, or there twice")
        for sample in samples:
            sample.step += 1

    def finish(self, sample: Sample) -> Made:
        if not sample.is_done:
            raise ValueError("only a sample that is done can be finished")
        return _made(sample.request)


def _made(request: Request) -> Made:
    if request.source.dtype == np.uint8:
        pixels = request.source.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        latents = request.source[::8, ::8, [0, 1, 2, 0]].transpose(2, 0, 1).astype(np.float32)
    else:
        latents = request.source.astype(np.float32)
        pixels = _shown(latents).repeat(16, axis=0).repeat(16, axis=1)
    if not request.wants_latents:
        return Made(pixels=pixels)
    return Made(pixels=pixels[::8, ::8], latents=latents.repeat(2, axis=1).repeat(2, axis=2))


def _shown(latents: Latents) -> Pixels:
    """The first three channels, as if they were colours: uint8 [h, w, 3]."""
    return np.clip(latents[:3].transpose(1, 2, 0) * 32 + 128, 0, 255).astype(np.uint8)


class Hanging(NearestUpscaler):
    """Hangs at its first step, once per marker file: its successor works."""

    def __init__(self, marker: Path, *, holding_gil: bool) -> None:
        self._marker = marker
        self._holding_gil = holding_gil

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        if not self._marker.exists():
            self._marker.touch()
            if self._holding_gil:
                # PyDLL, unlike CDLL, keeps the GIL during the call.
                ctypes.PyDLL(None).sleep(3600)
            threading.Event().wait()
        super().step(samples, rung=rung)


class Noting(NearestUpscaler):
    """Notes of each step who took it: the seeds, and the shape of their sources."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, ...]] = []
        self.rungs: list[int] = []
        self.shapes: list[set[tuple[int, ...]]] = []

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        self.steps.append(tuple(sample.request.seed for sample in samples))
        self.rungs.append(rung)
        self.shapes.append({sample.request.source.shape for sample in samples})
        super().step(samples, rung=rung)


class Small(Noting):
    """A device that holds only so many slots."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        if rung > self.most:
            self.rungs.append(rung)
            raise BatchTooLarge
        super().step(samples, rung=rung)
