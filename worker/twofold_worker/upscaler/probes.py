"""Runs each stage of a model once, with made-up input, for the planner to measure."""

import contextlib
from collections.abc import Callable

import numpy as np

from twofold_schema.errors import ModelOutputInvalid
from twofold_schema.lanes import PIXELS_PER_LATENT
from twofold_worker.upscaler.port import Request, Sample, Upscaler


class PortProbes:
    """`calibration.Probes` over any `Upscaler`.

    Sides are the padded source's, in pixels, multiples of 64. What samples hold on the device is
    part of what is measured: in a batch they are there as well.

    Args:
        upscaler: On its device.
        wait: Returns when the device has done what it was told.
    """

    def __init__(self, upscaler: Upscaler, wait: Callable[[], None]) -> None:
        self._upscaler = upscaler
        self._wait = wait

    def unet(self, slots: int, height: int, width: int) -> None:
        """One step of so many samples; raises BatchTooLarge."""
        samples = [self._begun(height, width) for _ in range(slots)]
        self._upscaler.step(samples, rung=slots)
        self._wait()

    def encode(self, height: int, width: int) -> None:
        """Encode one picture; raises BatchTooLarge."""
        source = np.zeros((height, width, 3), np.uint8)
        self._upscaler.begin(Request(source=source, seed=0, steps=1))
        self._wait()

    def decode(self, height: int, width: int) -> None:
        """Decode one picture; raises BatchTooLarge."""
        sample = self._begun(height, width)
        sample.step = sample.request.steps
        # It is noise, whose picture need not be one.
        with contextlib.suppress(ModelOutputInvalid):
            self._upscaler.finish(sample)
        self._wait()

    def _begun(self, height: int, width: int) -> Sample:
        sides = (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
        return self._upscaler.begin(
            Request(source=np.zeros((4, *sides), np.float32), seed=0, steps=1)
        )
