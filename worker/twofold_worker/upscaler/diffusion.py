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
from twofold_schema.lanes import LATTICE, PIXELS_PER_LATENT
from twofold_schema.settings import DEMO_MODEL
from twofold_worker.upscaler import demo, provenance, weights
from twofold_worker.upscaler.port import BatchTooLarge, DeviceLost, Latents, Made, Pixels, Slot
from twofold_worker.upscaler.standin import is_stand_in

# Its only message quotes what a prompt has beyond 77 tokens: users' words, kept out of logs.
_PROMPT_QUOTING_LOGGER: Final = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_latent_upscale"
)


#: The longer side of the coarse view of latents, in latents: 256 pixels.
_VIEW_SIDE: Final = 32


class DiffusionUpscaler:
    """The latent upscaler on one device; see `Upscaler` for what it promises.

    Not thread-safe: the pipeline's scheduler counts its steps and the tokenizer switches its
    padding in place, so two calls at once spoil each other. One thread may call it, for ever or
    in turn.

    Attributes:
        name: "demo" for the model that comes with Twofold, "stand-in" for the stand-in's random
            weights, else the hub id or the folder's name.
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
            model: "demo", a local folder, or a hub id (fetched unless it is in the hub's cache).
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
        folder, name, found = _found(model, revision)
        if place.type == "cpu":
            # Kernels split a batch among their threads. With another number of them than a power
            # of two, a picture was seen to depend on its slot.
            torch.set_num_threads(1 << (torch.get_num_threads().bit_length() - 1))
        # Logs are lines; a bar that redraws itself fills them with noise.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        pipeline = weights.assemble(folder, number)
        return cls(pipeline.to(place), name=name, revision=found)

    def warm_up(self) -> None:
        """Run one small batch, so that the first job pays for nothing but itself."""
        slot = Slot(source=np.zeros((LATTICE, LATTICE, 3), np.uint8), seed=0)
        self.upscale([slot], rung=1, steps=1, guidance_scale=0, on_step=lambda: None)

    def upscale(
        self,
        slots: Sequence[Slot],
        *,
        rung: int,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[], None],
    ) -> list[Made | JobError]:
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
    ) -> list[Made | JobError]:
        spare = Slot(source=np.zeros_like(slots[0].source), seed=0)
        batch = [*slots, *[spare] * (rung - len(slots))]
        latents = self._pipeline(
            prompt=[slot.prompt for slot in batch],
            negative_prompt=[slot.negative_prompt for slot in batch],
            image=_images(batch),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            # On the CPU a half-precision draw is the fp32 draw, rounded.
            generator=[torch.Generator("cpu").manual_seed(slot.seed) for slot in batch],
            output_type="latent",
            callback=lambda *_: on_step(),
        ).images
        return self._finish(slots, latents)

    def _finish(self, slots: Sequence[Slot], latents: torch.Tensor) -> list[Made | JobError]:
        # The whole rung or nothing: with fewer slots decoded the others' pixels would differ.
        pictures = coarse = None
        if not all(slot.wants_latents for slot in slots):
            pictures = self._decode(latents)
        if any(slot.wants_latents for slot in slots):
            coarse = self._decode(_coarse(latents))
        answers: list[Made | JobError] = []
        for number, slot in enumerate(slots):
            view = coarse if slot.wants_latents else pictures
            pixels = None if view is None else view[number]
            own = latents[number].float().cpu().numpy() if slot.wants_latents else None
            if pixels is None or (own is not None and not np.isfinite(own).all()):
                answers.append(NotFinite())
            else:
                answers.append(Made(pixels=pixels, latents=own))
        return answers

    def _decode(self, latents: torch.Tensor) -> list[Pixels | None]:
        """The pipeline's own last step, kept apart because its clamp would turn inf into white.

        Returns:
            For each slot uint8 [8h, 8w, 3], or None where it is not finite.
        """
        vae = self._pipeline.vae
        with torch.no_grad():
            raw = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
            finite = raw.isfinite().flatten(1).all(dim=1).tolist()
            shown = self._pipeline.image_processor.postprocess(raw, output_type="pt")
            rounded = shown.float().mul(255).round().to(torch.uint8)
        pixels = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return [picture if good else None for picture, good in zip(pixels, finite, strict=True)]


def _found(model: str, revision: str | None) -> tuple[Path, str, str]:
    """A model's folder, its name as people read it, and its revision."""
    if model == DEMO_MODEL:
        folder, name, found = demo.FOLDER, model, provenance.digest(demo.check())
    elif Path(model).is_dir():
        folder = Path(model).resolve()
        name = "stand-in" if is_stand_in(folder) else folder.name
        found = provenance.digest(provenance.hashes(folder))
    else:
        folder = weights.fetch(model, revision)
        return folder, model, folder.name  # the hub's cache names a snapshot by its commit
    provenance.check(folder, found, revision)
    return folder, name, found


def _images(batch: Sequence[Slot]) -> list[Image.Image] | torch.Tensor:
    """The sources as the pipeline takes each kind without asking what it might be.

    A tensor of pictures with one negative value anywhere would be normalised otherwise; a picture
    of four channels would be taken for latents.
    """
    if batch[0].source.dtype == np.uint8:
        return [Image.fromarray(slot.source) for slot in batch]
    return torch.from_numpy(np.stack([slot.source for slot in batch]))


def _coarse(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, 4, h, w] averaged down so that their longer side is `_VIEW_SIDE` at most."""
    height, width = latents.shape[-2:]
    scale = max(1.0, max(height, width) / _VIEW_SIDE)
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    return torch.nn.functional.adaptive_avg_pool2d(latents, size)


def _check(slots: Sequence[Slot], rung: int) -> None:
    if not 1 <= len(slots) <= rung:
        raise ValueError(f"{len(slots)} slots do not fit a rung of {rung}")
    # The pipeline would silently resize every picture to the first one's size, or to a floor of 8.
    source = slots[0].source
    if not (_is_picture(source) or _is_latents(source)):
        raise ValueError(f"{source.dtype} {source.shape} is no RGB or latents on the lattice")
    for slot in slots:
        if slot.source.shape != source.shape or slot.source.dtype != source.dtype:
            raise ValueError("the slots of a batch are pictures, or latents, of one shape")


def _is_picture(source: Pixels | Latents) -> bool:
    *sides, channels = source.shape
    return source.dtype == np.uint8 and channels == 3 and not any(side % LATTICE for side in sides)


def _is_latents(source: Pixels | Latents) -> bool:
    channels, *sides = source.shape
    lattice = LATTICE // PIXELS_PER_LATENT
    return (
        source.dtype == np.float32 and channels == 4 and not any(side % lattice for side in sides)
    )
