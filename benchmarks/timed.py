"""A model without a model: it takes the time that a GPU would, and the GIL as the real one does.

Every step issues about a thousand tiny torch operations, as the UNet issues its launches, and then
sleeps to an absolute schedule. A thread beside it that keeps the GIL makes the launches late, and
with them the schedule: what a codec costs the engine shows. A wait that ends late shows as well.

The picture is cheap and proves where it comes from: see `expected`.
"""

import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch

from benchmarks.clock import Clock, WallClock
from benchmarks.device_model import DeviceModel
from twofold_schema.lanes import PIXELS_PER_LATENT
from twofold_worker.upscaler.port import BatchTooLarge, Latents, Made, Pixels, Request, Sample

STEP_OPERATIONS: Final = 1000
_ENCODE_OPERATIONS: Final = 120
_DECODE_OPERATIONS: Final = 160

#: The pattern's side in pixels of the result, and how many of a byte's low bits it may change:
#: enough that a picture compresses no better than an upscaled photograph.
_TILE, _BITS = 64, 2


class TimedUpscaler:
    """`Upscaler` on a device that there is only a model of.

    Args:
        device: How long it takes.
        clock: Where the time comes from.
        operations: How many tiny torch operations a step issues.
        ahead: How many calls the device may be behind when `step` returns. 0: a step returns at
            its end. 1: at the end of the one before, as the real engine does on CUDA.
        makes_pictures: Whether `finish` makes them; else it hands back the source.

    Attributes:
        busy_seconds: What the device has worked so far.
        finished: For each picture when it was done, and how many seconds the device and this
            process's threads had worked by then.
    """

    name = "timed"
    revision = "timed-1"

    def __init__(
        self,
        device: DeviceModel,
        *,
        clock: Clock | None = None,
        operations: int = STEP_OPERATIONS,
        ahead: int = 0,
        makes_pictures: bool = True,
    ) -> None:
        self.device = device
        self.busy_seconds = 0.0
        self.finished: list[tuple[float, float, float]] = []
        self._clock = clock or WallClock()
        self._share = operations / STEP_OPERATIONS
        self._ends = [0.0] * (ahead + 1)
        self._makes = expected if makes_pictures else _untouched
        self._one = torch.ones(1)

    def warm_up(self) -> None:
        """Nothing gets warm."""

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        """Take the time of encoding; a copy to the device waits for nobody."""
        del careful  # what it would change is the picture
        if request.source.dtype == np.uint8:
            height, width = request.size
            self._work(self.device.encode_seconds(height * width), _ENCODE_OPERATIONS)
        return Sample(request=request)

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        """Take the time of one step of the whole rung."""
        if not 1 <= sum(sample.request.slots for sample in samples) <= rung:
            raise ValueError(f"{len(samples)} samples do not fit a rung of {rung}")
        if len({sample.request.size for sample in samples}) > 1:
            raise ValueError("the samples of a batch are of one size")
        if any(sample.is_done for sample in samples):
            raise ValueError("a sample that is done takes no more steps")
        height, width = samples[0].request.size
        if not self.device.fits(self.device.step_bytes(rung, height * width)):
            raise BatchTooLarge(f"{rung} slots do not fit the device")
        self._work(self.device.step_seconds(rung, height * width), STEP_OPERATIONS)
        self._clock.sleep_until(self._ends[0])
        for sample in samples:
            sample.step += 1

    def finish(self, sample: Sample) -> Made:
        """Take the time of decoding, and make the picture meanwhile."""
        if not sample.is_done:
            raise ValueError("only a sample that is done can be finished")
        height, width = sample.request.size
        if not self.device.fits(self.device.decode_bytes(height * width)):
            raise BatchTooLarge("the picture does not fit the device")
        made: list[Made] = []
        self._work(
            self.device.decode_seconds(height * width),
            _DECODE_OPERATIONS,
            beside=lambda: made.append(self._makes(sample.request)),
        )
        self._clock.sleep_until(self._ends[-1])
        self.finished.append((self._clock.now(), self.busy_seconds, time.process_time()))
        return made[0]

    def _work(
        self, seconds: float, operations: int, *, beside: Callable[[], None] = lambda: None
    ) -> None:
        begin = max(self._clock.now(), self._ends[-1])
        for _ in range(round(operations * self._share)):
            self._one.add_(1)
        beside()
        # No device ends before it was told of its last operation.
        self._ends = [*self._ends[1:], max(begin + seconds, self._clock.now())]
        self.busy_seconds += seconds


def expected(request: Request) -> Made:
    """What the timed upscaler makes of a request, from its pixels and everything that is asked.

    Every pixel four times, the low bits changed by a pattern that seed, steps, guidance and
    prompts choose.
    """
    source = request.source
    picture = _shown(source) if source.dtype != np.uint8 else source.astype(np.uint8, copy=False)
    pixels = _doubled(picture, _pattern(request))
    if not request.wants_latents:
        return Made(pixels=pixels)
    view = pixels[::PIXELS_PER_LATENT, ::PIXELS_PER_LATENT]
    latents = view[..., [0, 1, 2, 0]].transpose(2, 0, 1).astype(np.float32) / np.float32(
        32
    ) - np.float32(4)
    return Made(pixels=view, latents=latents)


def _untouched(request: Request) -> Made:
    return Made(pixels=request.source.astype(np.uint8, copy=False))


def _pattern(request: Request) -> Pixels:
    """Low bits, uint8 [tile, tile, 3]."""
    numbers = struct.pack("<QId", request.seed, request.steps, request.guidance_scale)
    words = f"{request.prompt}\0{request.negative_prompt}".encode()
    seed = int.from_bytes(hashlib.sha256(numbers + words).digest()[:8], "little")
    return np.random.default_rng(seed).integers(0, 1 << _BITS, (_TILE, _TILE, 3), np.uint8)


def _doubled(picture: Pixels, pattern: Pixels) -> Pixels:
    """A picture on the lattice, [h, w, 3], at twice its sides under the pattern."""
    height, width, _ = picture.shape
    wide = picture.repeat(2, axis=1).reshape(-1, _TILE // 2, 1, 6 * width)
    strip = np.tile(pattern, (1, 2 * width // _TILE, 1)).reshape(_TILE // 2, 2, 6 * width)
    return np.bitwise_xor(wide, strip).reshape(2 * height, 2 * width, 3)


def _shown(latents: Latents | Pixels) -> Pixels:
    """Latents as the picture that they stand for, roughly: uint8 [8h, 8w, 3]."""
    colours = np.clip(latents[:3].transpose(1, 2, 0) * 32 + 128, 0, 255).astype(np.uint8)
    return colours.repeat(PIXELS_PER_LATENT, axis=0).repeat(PIXELS_PER_LATENT, axis=1)
