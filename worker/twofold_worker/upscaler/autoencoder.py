"""Pictures to latents and back, one at a time: a batch of them would gain nothing.

Decoding needs nine times the UNet's memory for each picture, and takes as long in a batch as one
by one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from twofold_worker.upscaler.port import Latents, Pixels

# diffusers hides its parts' methods from type checkers.
Vae: TypeAlias = Any

#: The longer side of the coarse view of latents, in latents: 256 pixels.
_VIEW_SIDE: Final = 32


def encode(vae: Vae, pixels: Pixels, generator: torch.Generator) -> Tensor:
    """Latents of a picture, scaled, [1, 4, h, w]: a draw from their distribution, as in training.

    Args:
        vae: On its device.
        pixels: RGB, uint8 [H, W, 3].
        generator: On the CPU; drawn from once.
    """
    # As bytes on their way to the device: a fourth of what floats would be.
    shown = _sent(torch.from_numpy(pixels)[None], vae.device).permute(0, 3, 1, 2)
    centred = 2.0 * (shown.float() / 255.0) - 1.0
    told = vae.encode(centred.to(vae.dtype))
    latents: Tensor = told.latent_dist.sample(generator) * vae.config.scaling_factor
    return latents


def decode(vae: Vae, latents: Tensor) -> tuple[Pixels, bool]:
    """The picture of latents.

    Args:
        vae: On its device.
        latents: Scaled, [1, 4, h, w].

    Returns:
        RGB, uint8 [8h, 8w, 3], and whether all values were finite.
    """
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    raw = vae.decode(scaled, return_dict=False)[0]
    finite = raw.isfinite().all()
    shown = (raw * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
    pixels: Pixels = _received(shown[0].permute(1, 2, 0).contiguous()).numpy()
    return pixels, bool(finite)


def coarse(latents: Tensor) -> Tensor:
    """Latents [1, 4, h, w] averaged down so that their longer side is `_VIEW_SIDE` at most."""
    height, width = latents.shape[-2:]
    scale = max(1.0, max(height, width) / _VIEW_SIDE)
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    return functional.adaptive_avg_pool2d(latents, size)


def given(values: Latents, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Latents that are a source, [1, 4, h, w], on the device."""
    return _sent(torch.from_numpy(values)[None], device).to(dtype)


def taken(latents: Tensor) -> Latents:
    """Latents [1, 4, h, w] as a result, float32 [4, h, w]."""
    values: Latents = _received(latents[0].float().contiguous()).numpy()
    return values


@contextmanager
def single_precision(vae: Vae) -> Iterator[Vae]:
    """Let an autoencoder work in float32 for a while; its weights come back as they were."""
    weights = list(vae.parameters())
    own = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.float()
        yield vae
    finally:
        # Kept, not made anew: that could fail, too, where memory has just run out.
        for weight, data in zip(weights, own, strict=True):
            weight.data = data


def _sent(values: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        # From pinned memory the copy runs while the device works.
        return values.pin_memory().to(device, non_blocking=True)
    return values


def _received(values: Tensor) -> Tensor:
    if values.device.type != "cuda":
        return values
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    pinned.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return pinned
