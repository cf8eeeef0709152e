"""What the pipeline needs of a model; `diffusion` is the real one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twofold_schema.errors import JobError

Pixels: TypeAlias = NDArray[np.uint8]
Latents: TypeAlias = NDArray[np.float32]


class BatchTooLarge(Exception):
    """The batch did not fit the device's memory; nothing of it was kept, a smaller one may fit."""


class DeviceLost(Exception):
    """The device gives errors from now on, whatever it is asked; only a new process helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One job's place in a batch.

    Attributes:
        source: The padded picture, RGB, uint8 [H, W, 3]; or its latents, float32 [4, H/8, W/8].
            H and W are multiples of 64.
        wants_latents: Whether the result is to stay in latent space.
        seed: Seeds this slot's own noise, drawn on the CPU in fp32; 0 to 2**63 - 1.
        prompt: Steers the picture; ignored by the model when guidance is 0.
        negative_prompt: Steers away; heard only when guidance is above 1.
    """

    source: Pixels | Latents
    seed: int
    wants_latents: bool = False
    prompt: str = ""
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the model made of a slot.

    Attributes:
        pixels: RGB, uint8 [2H, 2W, 3]. For a slot that wanted latents a coarse view of them, with
            sides in about the same ratio, for a preview.
        latents: float32 [4, 2H/8, 2W/8] where they were wanted, else None.
    """

    pixels: Pixels
    latents: Latents | None = None


class Upscaler(Protocol):
    """A loaded model. Only one thread may call it.

    Attributes:
        name: The model's name as people read it.
        revision: What exactly was loaded: a hub commit or a digest of a local folder.
    """

    name: str
    revision: str

    def warm_up(self) -> None:
        """Run one small batch, so that the first job pays for nothing but itself."""

    def upscale(
        self,
        slots: Sequence[Slot],
        *,
        rung: int,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[], None],
    ) -> list[Made | JobError]:
        """Upscale pictures of one size, each to exactly twice its sides.

        Args:
            slots: 1 to `rung` slots, all with pictures or all with latents, of one shape.
            rung: How many slots the batch has on the device; empty ones are padded.
            steps: Sampling steps, 1 or more.
            guidance_scale: 0 is no prompt, up to 1 no CFG, above 1 CFG.
            on_step: Called after each sampling step: the engine is alive.

        Returns:
            For each slot, in order, what was made of it, or the error of that slot alone.

        Raises:
            BatchTooLarge: The batch does not fit the device.
            DeviceLost: The device cannot be used any more.
        """
