"""The parts of the demo model: the real model's classes, narrow, and one rule for its noise.

What the widths are bound by is said in `twofold_worker.upscaler.standin`.
"""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call, attr-defined"

from typing import Any, TypeAlias

import diffusers
import torch
from torch import Tensor

from twofold_worker.upscaler import standin

# diffusers hides its parts' methods from type checkers.
Autoencoder: TypeAlias = Any
Unet: TypeAlias = Any

LATENTS = 4
TEXT_WIDTH = standin.TEXT_WIDTH
# Of the pipeline's scheduler, from pure noise to almost none.
SIGMA_MAX, SIGMA_MIN = 14.6146, 0.0292
_NO_VARIANCE = -30.0  # diffusers' own lower bound of a logarithmic variance


def autoencoder() -> Autoencoder:
    """An untrained autoencoder: 8 times smaller, 4 channels, no attention."""
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=256,
    )


def encode(vae: Autoencoder, pictures: Tensor) -> Tensor:
    """The means of the latents of pictures in [-1, 1], not scaled."""
    means: Tensor = vae.quant_conv(vae.encoder(pictures))[:, :LATENTS]
    return means


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """The pictures of latents that are not scaled, about in [-1, 1]."""
    pictures: Tensor = vae.decoder(vae.post_quant_conv(latents))
    return pictures


def without_variance(vae: Autoencoder) -> None:
    """Make the latents' distribution a point: the pipeline draws from it, we want its mean."""
    with torch.no_grad():
        vae.quant_conv.weight[LATENTS:] = 0
        vae.quant_conv.bias[LATENTS:] = _NO_VARIANCE


def upscaler() -> Unet:
    """An untrained K-UNet."""
    return standin.unet((64, 64, 128, 128), head_width=32, sample_size=32)
