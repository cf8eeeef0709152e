"""The sampling loop, one step at a time: EDM's preconditioning and Euler's method.

Karras, Aittala, Aila and Laine, "Elucidating the Design Space of Diffusion-Based Generative
Models", 2022 (arXiv:2206.00364), table 1 and algorithm 1 without churn, with sigma_data = 1 as
`StableDiffusionLatentUpscalePipeline` has it. In float32 on a CPU every value here equals the
pipeline's to the bit, so each is made of the same operations in the same order.

Rows are what the UNet sees: one for a sample, two for one with classifier-free guidance. Each row
stands at its own step, so all that depends on the noise is a column with a value for each row.
"""

import itertools
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

# diffusers hides its schedulers' methods and attributes from type checkers.
Scheduler: TypeAlias = Any

#: Of the condition on the noise of the source, which is always none: ones, then zeros.
_NO_NOISE: Final = (64, 64)


class Coefficients(NamedTuple):
    """What a step is made of; each of shape [rows], float32.

    Attributes:
        time: What the UNet is told of the noise: a quarter of sigma's logarithm.
        shrink: What the latents are divided by on their way into the UNet: 1 / c_in.
        skip: The latents' share of the answer: c_skip.
        out: The UNet's share of the answer: c_out.
        sigma: The noise's deviation before the step.
        change: What the step changes it by; below 0.
    """

    time: Tensor
    shrink: Tensor
    skip: Tensor
    out: Tensor
    sigma: Tensor
    change: Tensor


class Schedule(NamedTuple):
    """The coefficients of all steps, and the deviation of the noise that sampling begins with.

    Attributes:
        table: float32 [steps, 6], the columns in the order of `Coefficients`.
        initial_sigma: Of the first noise.
    """

    table: Tensor
    initial_sigma: Tensor


def schedule(scheduler: Scheduler, steps: int, device: torch.device) -> Schedule:
    """Let a scheduler place the steps.

    Args:
        scheduler: An `EulerDiscreteScheduler`; its state changes.
        steps: How many, 1 or more.
        device: Where the coefficients are used.
    """
    scheduler.set_timesteps(steps)
    # It places one sigma more than there are steps, and 0 behind it: the last step ends above 0.
    sigmas: list[Tensor] = list(scheduler.sigmas[: steps + 1])
    # One by one: a logarithm of a vector may differ from a scalar's in the last bit.
    rows = [_coefficients(*pair) for pair in itertools.pairwise(sigmas)]
    table = torch.stack([torch.stack(list(row)) for row in rows])
    return Schedule(table.to(device), torch.as_tensor(scheduler.init_noise_sigma).to(device))


def _coefficients(sigma: Tensor, following: Tensor) -> Coefficients:
    shrink = (sigma**2 + 1) ** 0.5
    return Coefficients(
        time=torch.log(sigma) * 0.25,
        shrink=shrink,
        skip=1 / (sigma**2 + 1),
        out=sigma / shrink,
        sigma=sigma,
        change=following - sigma,
    )


def noise(height: int, width: int, channels: int, generator: torch.Generator) -> Tensor:
    """Unit noise, float32 [1, channels, height, width], drawn on the generator's device."""
    return torch.randn((1, channels, height, width), generator=generator, dtype=torch.float32)


def condition(small: Tensor) -> Tensor:
    """Small latents [B, C, h, w] as the UNet sees them, [B, C, 2h, 2w]."""
    return functional.interpolate(small, scale_factor=2, mode="nearest")


def time_condition(pooled: Tensor) -> Tensor:
    """What the UNet's time embedding is conditioned on, [B, 128 + width].

    Args:
        pooled: The text encoder's pooled output, [B, width].
    """
    ones, zeros = _NO_NOISE
    return torch.cat(
        [pooled.new_ones(len(pooled), ones), pooled.new_zeros(len(pooled), zeros), pooled], dim=1
    )


def seen(latents: Tensor, conditions: Tensor, at: Coefficients) -> Tensor:
    """The UNet's input, [rows, 2C, h, w], in the conditions' dtype.

    Args:
        latents: With their noise, float32 [rows, C, h, w].
        conditions: [rows, C, h, w].
        at: Where each row stands.
    """
    shrunk = latents / _column(at.shrink)
    return torch.cat([shrunk.to(conditions.dtype), conditions], dim=1)


def answer(raw: Tensor, latents: Tensor, at: Coefficients) -> Tensor:
    """What the UNet takes the latents without noise for ("x0"), float32 [rows, C, h, w].

    Args:
        raw: The UNet's output, [rows, C + 1, h, w]; its last channel is a variance that nobody
            uses.
        latents: With their noise, float32 [rows, C, h, w].
        at: Where each row stands.
    """
    return _column(at.skip) * latents + _column(at.out) * raw[:, :-1].float()


def guided(without: Tensor, towards: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022) of one answer by another."""
    return without + scale * (towards - without)


def euler(latents: Tensor, best: Tensor, at: Coefficients) -> Tensor:
    """The latents after a step, float32 [B, C, h, w].

    Args:
        latents: Before it, float32 [B, C, h, w].
        best: What they are taken for without noise, float32 [B, C, h, w].
        at: Where each stands.
    """
    derivative = (latents - best) / _column(at.sigma)
    return latents + derivative * _column(at.change)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
