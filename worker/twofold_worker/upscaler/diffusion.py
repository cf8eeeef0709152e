"""The real model: diffusers' `StableDiffusionLatentUpscalePipeline` behind the port."""

import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from twofold_schema.errors import JobError, NotFinite
from twofold_schema.lanes import LATTICE
from twofold_worker.upscaler import provenance, weights
from twofold_worker.upscaler.port import BatchTooLarge, DeviceLost, Pixels, Slot
from twofold_worker.upscaler.standin import is_stand_in

# Its only message quotes what a prompt has beyond 77 tokens: users' words, kept out of logs.
_PROMPT_QUOTING_LOGGER: Final = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_latent_upscale"
)


class DiffusionUpscaler:
    """The latent upscaler on one device; see `Upscaler` for what it promises.

    Not thread-safe: the pipeline's scheduler counts its steps and the tokenizer switches its
    padding in place, so two calls at once spoil each other. One thread may call it, for ever or
    in turn.

    Attributes:
        name: "stand-in" for the stand-in's random weights, else the hub id or the folder's name.
        revision: The hub commit, or `sha256:` and 16 hex digits over a local folder's files.
    """

    def __init__(self, pipeline: weights.Pipeline, *, name: str, revision: str) -> None:
        self.name = name
        self.revision = revision
        self._pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        logging.getLogger(_PROMPT_QUOTING_LOGGER).setLevel(logging.ERROR)

    @classmethod
    def load(
        cls, model: str, *, revision: str | None, device: str, dtype: str
    ) -> "DiffusionUpscaler":
        """Load the weights, from safetensors only, and move them to the device.

        Args:
            model: A local folder, or a hub id (fetched unless it is in the hub's cache).
            revision: The hub commit; a model that changes under a running fleet would break what
                `reproducible` promises. Of a folder the digest, if it shall be compared; a commit
                is ignored there.
            device: "auto" (CUDA where there is one, else the CPU) or a name known to torch.
            dtype: "float32", "bfloat16", "float16", or "auto": float32 on the CPU, bfloat16 on
                CUDA, float16 where bfloat16 is not native.

        Raises:
            ConfigError: A value is not known here, or the model is missing, damaged or another one.
            torch.OutOfMemoryError: The weights do not fit the device.
        """
        place = weights.device_named(device)
        number = weights.dtype_named(dtype, place)
        local = Path(model).is_dir()
        folder = Path(model).resolve() if local else weights.fetch(model, revision)
        # The hub's cache names a snapshot's folder by its commit.
        found = provenance.digest(provenance.hashes(folder)) if local else folder.name
        if local:
            provenance.check(folder, found, revision)
        if place.type == "cpu":
            # Kernels split a batch among their threads. With another number of them than a power
            # of two, a picture was seen to depend on its slot.
            torch.set_num_threads(1 << (torch.get_num_threads().bit_length() - 1))
        # Logs are lines; a bar that redraws itself fills them with noise.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        pipeline = weights.assemble(folder, number)
        return cls(
            pipeline.to(place),
            name="stand-in" if is_stand_in(folder) else folder.name if local else model,
            revision=found,
        )

    def warm_up(self) -> None:
        """Run one small batch, so that the first job pays for nothing but itself."""
        slot = Slot(pixels=np.zeros((LATTICE, LATTICE, 3), np.uint8), seed=0)
        self.upscale([slot], rung=1, steps=1, guidance_scale=0, on_step=lambda: None)

    def upscale(
        self,
        slots: Sequence[Slot],
        *,
        rung: int,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[], None],
    ) -> list[Pixels | JobError]:
        """Upscale pictures of one size; see `Upscaler.upscale`.

        A slot's pixels depend on the rung, never on its neighbours or its place among them.

        Raises:
            ValueError: The slots do not fit the rung, or are not of one shape on the lattice.
            BatchTooLarge: The batch does not fit the device; nothing of it was kept.
            DeviceLost: The device cannot be used any more.
        """
        _check(slots, rung)
        try:
            return self._run(slots, rung, steps, guidance_scale, on_step)
        except torch.OutOfMemoryError:
            failure: Exception = BatchTooLarge(f"{rung} slots do not fit the device")
        except torch.AcceleratorError as error:
            failure = DeviceLost(str(error))
        # Outside of `except`: its traceback would keep the batch's tensors alive.
        if isinstance(failure, BatchTooLarge):
            gc.collect()
            torch.cuda.empty_cache()
        raise failure

    def _run(
        self,
        slots: Sequence[Slot],
        rung: int,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[], None],
    ) -> list[Pixels | JobError]:
        spare = Slot(pixels=np.zeros_like(slots[0].pixels), seed=0)
        batch = [*slots, *[spare] * (rung - len(slots))]
        latents = self._pipeline(
            prompt=[slot.prompt for slot in batch],
            negative_prompt=[slot.negative_prompt for slot in batch],
            # A tensor batch with one negative value anywhere is normalised otherwise.
            image=[Image.fromarray(slot.pixels) for slot in batch],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            # On the CPU a half-precision draw is the fp32 draw, rounded.
            generator=[torch.Generator("cpu").manual_seed(slot.seed) for slot in batch],
            output_type="latent",
            callback=lambda *_: on_step(),
        ).images
        return self._decode(latents)[: len(slots)]

    def _decode(self, latents: torch.Tensor) -> list[Pixels | JobError]:
        """The pipeline's own last step, kept apart because its clamp would turn inf into white."""
        vae = self._pipeline.vae
        with torch.no_grad():
            raw = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
            finite = raw.isfinite().flatten(1).all(dim=1).tolist()
            shown = self._pipeline.image_processor.postprocess(raw, output_type="pt")
            rounded = shown.float().mul(255).round().to(torch.uint8)
        pixels = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return [
            picture if good else NotFinite() for picture, good in zip(pixels, finite, strict=True)
        ]


def _check(slots: Sequence[Slot], rung: int) -> None:
    if not 1 <= len(slots) <= rung:
        raise ValueError(f"{len(slots)} slots do not fit a rung of {rung}")
    # The pipeline would silently resize every picture to the first one's size, or to a floor of 8.
    height, width, channels = slots[0].pixels.shape
    if height % LATTICE or width % LATTICE or channels != 3:
        raise ValueError(f"{slots[0].pixels.shape} is not RGB on the lattice of {LATTICE} pixels")
    for slot in slots:
        if slot.pixels.shape != slots[0].pixels.shape or slot.pixels.dtype != np.uint8:
            raise ValueError("the slots of a batch are uint8 pictures of one shape")
