"""Third part of the training: encoder, K-UNet and decoder together, on pictures.

Four numbers for each 16 x 16 pixels of the large picture are all that the small latents hold, and a
narrow decoder alone gets less out of them than there is. Trained together the encoder writes what
the K-UNet can read, and the K-UNet what the decoder can show. Of pictures only the enlarged one
counts; the autoencoder is held by the answers, which must not stray far from the true latents.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from tools.demo_model import crops, parts
from tools.demo_model.run import Run
from tools.demo_model.train_upscaler import first_answer
from torch import Tensor, nn
from torch.nn import functional

_STAGES = ((0.65, 128, 4), (0.88, 192, 2), (1.0, 256, 1))  # up to, crop's side, crops
_FLOOR = 2e-3  # of a mean square, where pictures in [-1, 1] are 33 dB alike
_WINDOW = 7  # pixels a side, of the structural similarity


class Together(nn.Module):
    """The autoencoder and the K-UNet as one model."""

    def __init__(self, vae: parts.Autoencoder, unet: parts.Unet) -> None:
        super().__init__()
        self.vae = vae
        self.unet = unet


def loss_of(
    both: Together, pictures: NDArray[np.uint8], scale: float, run: Run, seed: int
) -> Callable[[float], Tensor]:
    """What `Run.train` asks for.

    Args:
        both: What is trained.
        pictures: uint8 [count, side, side, 3].
        scale: What makes the latents' deviation 1; it stays as it is.
        run: The training.
        seed: Of crops and noise, with the step where the run began.
    """
    random = np.random.default_rng((seed, 4, run.step))
    vae, unet = both.vae, both.unet

    def loss(progress: float) -> Tensor:
        _, side, count = next(stage for stage in _STAGES if progress <= stage[0])
        truth = crops.crops(random, pictures, count=count, side=side).to(run.device)
        halved = crops.halved(truth).contiguous(memory_format=torch.channels_last)
        again = max(1, count // 4)
        with torch.autocast(run.device.type, torch.bfloat16):
            small = parts.encode(vae, halved).float()
            large = parts.encode(vae, truth[:again]).float()
            noise = torch.randn(count, parts.LATENTS, side // 8, side // 8, device=run.device)
            best = first_answer(unet, noise, small * scale)
            upscaled = parts.decode(vae, _sampled(best / scale, scale)).float()
        # Else latents grow for ever, the more the less the noise harms them; the answers, too.
        unscaled = (torch.cat([small.flatten(), large.flatten()]).std() * scale - 1) ** 2
        strayed = (best[:again] - large.detach() * scale).square().mean()
        return _missed(upscaled, truth) + 0.05 * (unscaled + strayed)

    return loss


def _sampled(latents: Tensor, scale: float) -> Tensor:
    """Latents with the noise that the pipeline's last step leaves in them."""
    noisy = latents + parts.SIGMA_MIN / scale * torch.randn_like(latents)
    return noisy.contiguous(memory_format=torch.channels_last)


def _missed(shown: Tensor, truth: Tensor) -> Tensor:
    """How far pictures in [-1, 1] are from the true ones: decibels, values and structure."""
    gap = shown - truth
    decibels = (1 + gap.square().mean((1, 2, 3)) / _FLOOR).log().mean()
    return 0.15 * decibels + 0.3 * gap.abs().mean() + 1.2 * (1 - _similarity(shown, truth))


def _similarity(shown: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli, 2004) over square windows, mean."""

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, _WINDOW, stride=2)

    mean_shown, mean_truth = mean(shown), mean(truth)
    spread_shown = mean(shown * shown) - mean_shown**2
    spread_truth = mean(truth * truth) - mean_truth**2
    shared = mean(shown * truth) - mean_shown * mean_truth
    light, contrast = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    alike = (2 * mean_shown * mean_truth + light) * (2 * shared + contrast)
    most = (mean_shown**2 + mean_truth**2 + light) * (spread_shown + spread_truth + contrast)
    return (alike / most).mean()
