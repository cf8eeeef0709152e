"""Second part of the training: the K-UNet, on latents of pictures and of their halves.

The pipeline asks the model, at falling sigmas, what it takes the large latents for ("x0"); the
first question shows nothing but noise beside the small latents. Here the model learns to answer
that one with the mean of all large latents that fit the small ones, the best guess by squared
error. So it ignores its noise, and shows the same picture for each seed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tools.demo_model import crops, parts
from tools.demo_model.arithmetic import shortened
from tools.demo_model.run import Run
from tools.demo_model.train_autoencoder import difference
from torch import Tensor
from torch.nn import functional

_ENCODED = 4  # pictures encoded at once
_SIDE = 256  # of these
_BATCH = 4
_DECODED = 2  # of a batch
_SHOWN_FROM = 0.3  # from here on pictures are compared, not latents alone
_SHOWN = 16  # latents a side of what is decoded then, of 32


class Latents:
    """Pairs of latents that were encoded once, and the pictures that they are of."""

    def __init__(self, large: Tensor, small: Tensor, pictures: Tensor, scale: float) -> None:
        self.large, self.small, self.pictures, self.scale = large, small, pictures, scale

    @classmethod
    def encoded(
        cls,
        path: Path,
        vae: parts.Autoencoder,
        pictures: NDArray[np.uint8],
        *,
        seed: int,
        count: int,
        device: torch.device,
    ) -> "Latents":
        """Encode changed pictures and their halves, or read what was encoded before."""
        if not path.exists():
            random = np.random.default_rng((seed, 2))
            large, small, shown = [], [], []
            with torch.no_grad(), shortened(device):
                for _ in range(count // _ENCODED):
                    truth = crops.crops(random, pictures, count=_ENCODED, side=_SIDE)
                    truth = ((truth + 1) * 127.5).round().div(127.5).sub(1).to(device)
                    large.append(parts.encode(vae, truth).float().cpu())
                    small.append(parts.encode(vae, crops.halved(truth)).float().cpu())
                    shown.append(((truth.cpu() + 1) * 127.5).round().to(torch.uint8))
            both = torch.cat([torch.cat(large).flatten(), torch.cat(small).flatten()])
            saved = (torch.cat(large), torch.cat(small), torch.cat(shown), 1 / both.std().item())
            torch.save(saved, path)
        large, small, shown, scale = torch.load(path)
        return cls(large * scale, small * scale, shown, scale)

    def batch(self, random: np.random.Generator, device: torch.device) -> tuple[Tensor, ...]:
        """Some pairs and their pictures in [-1, 1]."""
        taken = torch.from_numpy(random.integers(0, len(self.large), _BATCH))
        pictures = self.pictures[taken].float().div(127.5).sub(1)
        return self.large[taken].to(device), self.small[taken].to(device), pictures.to(device)


def answer(unet: parts.Unet, noisy: Tensor, sigma: Tensor, small: Tensor) -> Tensor:
    """What the pipeline takes the large latents for, by the model's output ("x0").

    Args:
        unet: The model.
        noisy: Large latents with noise, shape [batch, 4, 2 height, 2 width].
        sigma: The noise's deviation, shape [batch].
        small: Small latents, shape [batch, 4, height, width].
    """
    at = sigma[:, None, None, None]
    condition = functional.interpolate(small, scale_factor=2, mode="nearest")
    raw: Tensor = unet(
        torch.cat([noisy / (at**2 + 1).sqrt(), condition], 1),
        0.25 * sigma.log(),
        # The text encoder's weights are zeros: every prompt looks like this.
        encoder_hidden_states=torch.zeros(len(small), 1, parts.TEXT_WIDTH, device=small.device),
        timestep_cond=torch.cat(
            [
                torch.ones(len(small), 64, device=small.device),
                torch.zeros(len(small), 64 + parts.TEXT_WIDTH, device=small.device),
            ],
            1,
        ),
        return_dict=False,
    )[0][:, : parts.LATENTS].float()
    return noisy / (at**2 + 1) + at / (at**2 + 1).sqrt() * raw


def first_answer(unet: parts.Unet, noise: Tensor, small: Tensor) -> Tensor:
    """The answer to the sampler's first question, where all is noise; it has unit deviation."""
    first = torch.full((len(small),), parts.SIGMA_MAX, device=small.device)
    return answer(unet, parts.SIGMA_MAX * noise, first, small)


def loss_of(
    unet: parts.Unet, vae: parts.Autoencoder, latents: Latents, run: Run, seed: int
) -> Callable[[float], Tensor]:
    """What `Run.train` asks for."""
    random = np.random.default_rng((seed, 3, run.step))
    vae.requires_grad_(requires_grad=False)

    def loss(progress: float) -> Tensor:
        large, small, pictures = latents.batch(random, run.device)
        noise = torch.randn_like(large)
        with shortened(run.device):
            best = first_answer(unet, noise, small)
            total = (best - large).square().mean()
            if progress > _SHOWN_FROM:
                shown, truth = _corner(random, vae, best[:_DECODED] / latents.scale, pictures)
                total = 0.3 * total + 3 * difference(shown, truth)
        return total

    return loss


def _corner(
    random: np.random.Generator, vae: parts.Autoencoder, latents: Tensor, pictures: Tensor
) -> tuple[Tensor, Tensor]:
    """Decode a part of the latents; and the same part of the pictures."""
    top, left = random.integers(0, latents.shape[2] - _SHOWN + 1, 2)
    part = latents[:, :, top : top + _SHOWN, left : left + _SHOWN]
    return (
        parts.decode(vae, part).float(),
        pictures[: len(latents), :, 8 * top : 8 * (top + _SHOWN), 8 * left : 8 * (left + _SHOWN)],
    )
