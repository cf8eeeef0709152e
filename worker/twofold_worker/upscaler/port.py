"""What the engine needs of a model; `diffusion` is the real one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twofold_schema.errors import ConfigError
from twofold_schema.lanes import PIXELS_PER_LATENT

Pixels: TypeAlias = NDArray[np.uint8]
Latents: TypeAlias = NDArray[np.float32]


class DeviceUnseen(ConfigError):
    """torch sees no such device: a setting is wrong, or the device is gone."""

    code = "device_unseen"


class BatchTooLarge(Exception):
    """What was asked did not fit the device's memory; nothing changed, a smaller batch may fit."""


class DeviceLost(Exception):
    """The device gives errors from now on, whatever it is asked; only a new process helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one job asks of the model.

    Attributes:
        source: The padded picture, RGB, uint8 [H, W, 3]; or its latents, float32 [4, H/8, W/8].
            H and W are multiples of 64.
        wants_latents: Whether the result is to stay in latent space.
        seed: Seeds this request's own noise, drawn on the CPU in fp32; 0 to 2**63 - 1.
        steps: Sampling steps, 1 or more.
        guidance_scale: 0 is no prompt, up to 1 no CFG, above 1 CFG.
        prompt: Steers the picture; ignored by the model when guidance is 0.
        negative_prompt: Steers away; heard only when guidance is above 1.
    """

    source: Pixels | Latents
    seed: int
    steps: int
    guidance_scale: float = 0.0
    wants_latents: bool = False
    prompt: str = ""
    negative_prompt: str = ""

    @property
    def slots(self) -> int:
        """How many places of a batch it takes: two with CFG, else one."""
        return 2 if self.guidance_scale > 1 else 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the padded picture, in pixels."""
        if self.source.dtype == np.uint8:
            height, width = self.source.shape[:2]
        else:
            height, width = (side * PIXELS_PER_LATENT for side in self.source.shape[1:])
        return height, width


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """A request's state on the device, from its noise to its picture.

    Attributes:
        request: What is asked.
        step: Sampling steps that are done.
    """

    request: Request
    step: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all its steps are done."""
        return self.step == self.request.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the model made of a request.

    Attributes:
        pixels: RGB, uint8 [2H, 2W, 3]. For a request that wanted latents a coarse view of them,
            with sides in about the same ratio, for a preview.
        latents: float32 [4, 2H/8, 2W/8] where they were wanted, else None.
    """

    pixels: Pixels
    latents: Latents | None = None


class Upscaler(Protocol):
    """A loaded model. Only one thread may call it.

    Every method is done wholly or not at all: after `BatchTooLarge` each sample is where it was.

    Attributes:
        name: The model's name as people read it.
        revision: What exactly was loaded: a hub commit or a digest of a local folder.
    """

    name: str
    revision: str

    def warm_up(self) -> None:
        """Run one small request, so that the first job pays for nothing but itself."""

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        """Encode the source and the prompts, draw the noise.

        Args:
            request: What is asked.
            careful: Encode, and later decode, in single precision: slower, and needs twice the
                memory.

        Raises:
            ValueError: The source is no picture and no latents on the lattice.
            BatchTooLarge: It does not fit the device.
            DeviceLost: The device cannot be used any more.
        """

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        """Bring each sample one step on.

        A sample's values depend on the rung, never on its neighbours or its place among them.

        Args:
            samples: Of one size, none of them done; together of 1 to `rung` slots.
            rung: How many slots the batch has on the device; empty ones are padded.

        Raises:
            ValueError: The samples do not fit the rung, or are not of one size; or one of them is
                done, there twice, or not begun here.
            BatchTooLarge: The batch does not fit the device.
            DeviceLost: The device cannot be used any more.
        """

    def finish(self, sample: Sample) -> Made:
        """Decode a sample that is done.

        Raises:
            ModelOutputInvalid: Its values are not finite; begun carefully it may go well.
            BatchTooLarge: It does not fit the device.
            DeviceLost: The device cannot be used any more.
        """
