"""Last part of the training: the K-UNet gives its first answer again at every later question.

What the sampler ends with is made of all answers, the late ones' most of all. Those must tell the
noise that is left from the picture: the less noise, the finer, which so small a model cannot. It
need not where the latents are so large that the noise is nothing beside them.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from tools.demo_model import crops, parts
from tools.demo_model.arithmetic import shortened
from tools.demo_model.run import Run
from tools.demo_model.train_together import Together
from tools.demo_model.train_upscaler import answer, first_answer
from torch import Tensor

#: How much larger the latents become than those that the first answers were learned with. The
#: pipeline's noise ends at 0.03 whatever their size; the larger they are, the less it is of them.
STRETCH = 12.0

_SIDE, _COUNT = 256, 2
_FIRST = 0.2  # of the questions: the first answer must stay
_DRIFT = 0.1  # how far earlier errors may have led


def stretched(unet: parts.Unet, times: float) -> None:
    """Make a model about right for latents that are so many times as large, in place."""
    with torch.no_grad():
        unet.conv_in.weight /= times
        unet.conv_out.weight *= times
        unet.conv_out.bias *= times


def loss_of(
    unet: parts.Unet,
    teacher: Together,
    *,
    pictures: NDArray[np.uint8],
    scale: float,
    run: Run,
    seed: int,
) -> Callable[[float], Tensor]:
    """What `Run.train` asks for.

    Args:
        unet: What is trained.
        teacher: Whose first answers are right; frozen.
        pictures: uint8 [count, side, side, 3].
        scale: What makes the latents' deviation 1 for the teacher.
        run: The training.
        seed: Of crops and noise, with the step where the run began.
    """
    random = np.random.default_rng((seed, 5, run.step))
    teacher.requires_grad_(requires_grad=False)
    span = np.log(parts.SIGMA_MAX / parts.SIGMA_MIN)

    def loss(progress: float) -> Tensor:  # noqa: ARG001 - the same from beginning to end
        truth = crops.crops(random, pictures, count=_COUNT, side=_SIDE).to(run.device)
        halved = crops.halved(truth)
        with shortened(run.device):
            with torch.no_grad():
                small = parts.encode(teacher.vae, halved).float() * scale
                noise = torch.randn(
                    _COUNT, parts.LATENTS, _SIDE // 8, _SIDE // 8, device=run.device
                )
                goal = STRETCH * first_answer(teacher.unet, noise, small)
            share = torch.rand(_COUNT, device=run.device)
            sigma = parts.SIGMA_MIN * torch.exp(span * (share / (1 - _FIRST)).clamp(max=1))
            at = sigma[:, None, None, None]
            drift = STRETCH * _DRIFT * torch.rand_like(at) * torch.randn_like(goal)
            noisy = (1 - at / parts.SIGMA_MAX) * (goal + drift) + at * noise
            given = answer(unet, noisy, sigma, STRETCH * small)
        return ((given - goal) / STRETCH).square().mean()

    return loss
