"""First part of the training: the autoencoder."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from tools.demo_model import crops, parts
from tools.demo_model.arithmetic import shortened
from tools.demo_model.run import Run
from torch import Tensor
from torch.nn import functional

_NOISE = 0.03  # of the latents' deviation: what lies close must look alike
_TOLD_UNTIL = 0.55  # of the training: from then on colours lie where they lie best
_COLOUR_SCALE = 3.0
_STAGES = ((0.45, 64, 16), (0.8, 128, 4), (1.0, 256, 1))  # up to, crop's side, crops


def loss_of(
    vae: parts.Autoencoder, pictures: NDArray[np.uint8], run: Run, seed: int
) -> Callable[[float], Tensor]:
    """What `Run.train` asks for."""
    random = np.random.default_rng((seed, run.step))

    def loss(progress: float) -> Tensor:
        _, side, count = next(stage for stage in _STAGES if progress <= stage[0])
        truth = crops.crops(random, pictures, count=count, side=side).to(run.device)
        with shortened(run.device):
            latents = parts.encode(vae, truth).float()
            deviation = latents.std()
            noisy = latents + _NOISE * deviation.detach() * torch.randn_like(latents)
            shown = parts.decode(vae, noisy).float()
        kept = 1e-3 * ((deviation - 1) ** 2 + latents.mean() ** 2)
        told = max(0.0, 1 - progress / _TOLD_UNTIL)
        return difference(shown, truth) + kept + told * _colours_missed(latents, truth)

    return loss


def _colours_missed(latents: Tensor, truth: Tensor) -> Tensor:
    """How far the first two latents are from the patches' two axes of colour.

    Left alone, all latents go to light and dark, and nothing pulls them away: as long as no latent
    has colour the decoder cannot learn to show it, and as long as the decoder does not show it no
    latent gains by having it.
    """
    red, green, blue = functional.avg_pool2d(truth, 8).unbind(1)
    colours = torch.stack([red - green, (red + green) / 2 - blue], 1)
    return (latents[:, :2] - _COLOUR_SCALE * colours).square().mean()


def difference(shown: Tensor, truth: Tensor) -> Tensor:
    """How far pictures in [-1, 1] are from the true ones: values, squares, edges, and patches."""
    gap = shown - truth
    edges = gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean()
    # Without it the colours come late: all latents go to light and dark first.
    patches = functional.avg_pool2d(gap, 8).square().mean()
    return 0.5 * gap.abs().mean() + 3 * gap.square().mean() + 0.25 * edges + 10 * patches
