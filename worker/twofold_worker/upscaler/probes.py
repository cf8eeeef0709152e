"""Runs one stage of a loaded model at a time, with made-up input, for it to be measured."""

import contextlib
from collections.abc import Callable
from itertools import count

import numpy as np
import torch

from twofold_schema.errors import ModelOutputInvalid
from twofold_schema.lanes import PIXELS_PER_LATENT
from twofold_worker.upscaler.port import DeviceLost, Pixels, Request, Sample, Upscaler

#: So many steps are taken before samples have to begin anew; any number would do.
_STEPS = 50


class PortProbes:
    """The stages of an upscaler, by nothing but its port; see `calibration.Probes`.

    A stage takes with it what it takes for a job: the samples that step count as the step's. They
    stay until the next size or stage, so that a forward can be timed without their beginning: of
    the real model 1.5 bytes a pixel, of the 672 that it takes.

    Args:
        upscaler: Loaded and warmed up.
        wait: Returns when the device is done.
    """

    def __init__(self, upscaler: Upscaler, wait: Callable[[], None] = lambda: None) -> None:
        self._upscaler = upscaler
        self._wait = wait
        self._samples: list[Sample] = []
        self._texts = count()

    def encode(self, height: int, width: int) -> None:
        """Encode one picture, and a prompt that is new, for which a text encoder may come back."""
        self._samples = []
        source: Pixels = np.zeros((height, width, 3), np.uint8)
        prompt = f"measured {next(self._texts)}"
        request = Request(source=source, seed=0, steps=1, guidance_scale=1.0, prompt=prompt)
        self._upscaler.begin(request)
        self._settle()

    def unet(self, slots: int, height: int, width: int) -> None:
        """One step of a full batch; the first of a size begins its samples, too."""
        size = (height, width)
        if len(self._samples) != slots or self._samples[0].request.size != size:
            self._samples = []
        if not self._samples or self._samples[0].is_done:
            self._samples = [self._begun(height, width) for _ in range(slots)]
        self._upscaler.step(self._samples, rung=slots)
        self._settle()

    def decode(self, height: int, width: int) -> None:
        """Decode one picture. It is noise, which may decode to no picture at all."""
        self._samples = []
        sample = self._begun(height, width)
        sample.step = sample.request.steps
        with contextlib.suppress(ModelOutputInvalid):
            self._upscaler.finish(sample)
        self._settle()

    def _settle(self) -> None:
        """Wait for the device: what it found wrong is said here, be it late."""
        try:
            self._wait()
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error)) from error

    def _begun(self, height: int, width: int) -> Sample:
        """A sample of latents: encoding it takes nothing."""
        sides = (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
        source = np.zeros((4, *sides), np.float32)
        return self._upscaler.begin(Request(source=source, seed=0, steps=_STEPS))
