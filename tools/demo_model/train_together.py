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
from tools.demo_model.arithmetic import shortened
from tools.demo_model.run import Run
from tools.demo_model.train_upscaler import first_answer
from torch import Tensor, nn
from torch.nn import functional

_STAGES = ((0.65, 128, 4), (0.88, 192, 2), (1.0, 256, 1))  # up to, crop's side, crops
_FLOOR = 2e-3  # of a mean square, where pictures in [-1, 1] are 33 dB alike
_WINDOW, _DEVIATION = 5, 1.5  # pixels to either side, of the structural similarity


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
        halved = crops.halved(truth)
        again = max(1, count // 4)
        with shortened(run.device):
            small = parts.encode(vae, halved).float()
            with torch.no_grad():
                large = parts.encode(vae, truth[:again]).float() * scale
            noise = torch.randn(count, parts.LATENTS, side // 8, side // 8, device=run.device)
            best = first_answer(unet, noise, small * scale)
            upscaled = parts.decode(vae, _sampled(best / scale, scale)).float()
        # Else latents grow for ever, the more the less the noise harms them; the answers, too.
        unscaled = (small.std() * scale - 1) ** 2
        strayed = (best[:again] - large).square().mean()
        return _missed(upscaled, truth) + 0.05 * (unscaled + strayed)

    return loss


def _sampled(latents: Tensor, scale: float) -> Tensor:
    """Latents with the noise that the pipeline's last step leaves in them."""
    return latents + parts.SIGMA_MIN / scale * torch.randn_like(latents)


def _missed(shown: Tensor, truth: Tensor) -> Tensor:
    """How far pictures in [-1, 1] are from the true ones: decibels, values and structure."""
    gap = shown - truth
    decibels = (1 + gap.square().mean((1, 2, 3)) / _FLOOR).log().mean()
    return 0.15 * decibels + 0.3 * gap.abs().mean() + 2.5 * (1 - similarity(shown, truth))


def similarity(shown: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli, 2004) of pictures, their mean.

    Args:
        shown: In [-1, 1], shape [count, 3, height, width].
        truth: As `shown`.
    """
    # It asks how light a place is, so black must be 0.
    shown, truth = (shown + 1) / 2, (truth + 1) / 2
    mean_shown, mean_truth, square_shown, square_truth, product = _nearby(
        torch.cat([shown, truth, shown * shown, truth * truth, shown * truth])
    ).chunk(5)
    spread_shown = square_shown - mean_shown**2
    spread_truth = square_truth - mean_truth**2
    shared = product - mean_shown * mean_truth
    light, contrast = 0.01**2, 0.03**2
    alike = (2 * mean_shown * mean_truth + light) * (2 * shared + contrast)
    most = (mean_shown**2 + mean_truth**2 + light) * (spread_shown + spread_truth + contrast)
    return (alike / most).mean()


def _nearby(values: Tensor) -> Tensor:
    """Means over a Gaussian window about each pixel that has a whole one."""
    away = torch.arange(-_WINDOW, _WINDOW + 1, device=values.device)
    window = torch.exp(-((away / _DEVIATION) ** 2) / 2)
    window = window / window.sum()
    lines = values.flatten(0, 1)[:, None]
    along = functional.conv2d(lines, window[None, None, :, None])
    across: Tensor = functional.conv2d(along, window[None, None, None])
    return across.reshape(*values.shape[:2], *across.shape[2:])
