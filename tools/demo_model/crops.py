"""Batches for the trainings: crops of the drawn pictures, each with colours of its own."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LOBES = 3  # of Lanczos's window, to either side


def crops(
    random: np.random.Generator, pictures: NDArray[np.uint8], *, count: int, side: int
) -> Tensor:
    """Crops in [-1, 1], shape [count, 3, side, side]; a third of them from smaller pictures."""
    return torch.stack([_crop(random, pictures, side) for _ in range(count)])


def halved(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] half as large by Lanczos, as Pillow makes them but for its rounding.

    Args:
        pictures: Shape [..., side, side].
    """
    half = _lanczos(pictures.shape[-1]).to(pictures.device)
    return (half @ pictures @ half.T).clamp(-1, 1)


@cache
def _lanczos(side: int) -> Tensor:
    """What each of half as many pixels takes of each pixel of a line; shape [side / 2, side]."""
    away = (torch.arange(side) + 0.5) / 2 - (torch.arange(side // 2) + 0.5)[:, None]
    taken = torch.sinc(away) * torch.sinc(away / _LOBES) * (away.abs() < _LOBES)
    return taken / taken.sum(1, keepdim=True)


def _crop(random: np.random.Generator, pictures: NDArray[np.uint8], side: int) -> Tensor:
    whole = pictures.shape[1]
    smaller = side * 2 <= whole and random.random() < 0.35
    taken = 2 * side if smaller else side
    top, left = random.integers(0, whole - taken + 1, 2)
    picture = pictures[random.integers(len(pictures))]
    pixels = np.array(picture[top : top + taken, left : left + taken])
    crop = torch.from_numpy(pixels).float().div(255).permute(2, 0, 1)
    if smaller:
        crop = halved(crop[None] * 2 - 1)[0] / 2 + 0.5
    if random.random() < 0.5:
        crop = crop.flip(1)
    if random.random() < 0.5:
        crop = crop.flip(2)
    if random.random() < 0.5:
        crop = crop.transpose(1, 2)
    crop = crop[torch.from_numpy(random.permutation(3))]
    # Photographs are greyer than drawn pictures, and seldom use the whole range.
    grey = crop.mean(0, keepdim=True)
    crop = grey + (crop - grey) * min(1.4, random.uniform(0, 2.2))
    gain, middle = random.uniform(0.5, 1.1), random.uniform(0.25, 0.75)
    crop = (crop - crop.mean()) * gain + crop.mean() * 0.6 + 0.4 * middle
    return crop.clamp(0, 1) * 2 - 1
