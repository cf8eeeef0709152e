"""What is asked of the engine: photographs in many crops, and requests over them."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from twofold_worker.upscaler.port import Pixels, Request

#: Sizes that a photo service sees, height by width, and how often: thumbnails to small prints.
NATURAL_SIZES: Final = (
    ((256, 256), 0.20),
    ((384, 256), 0.15),
    ((384, 512), 0.20),
    ((512, 512), 0.25),
    ((512, 768), 0.12),
    ((768, 768), 0.06),
    ((768, 1024), 0.02),
)


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A request and when it comes, in seconds from the start."""

    at: float
    request: Request


def photographs() -> list[Pixels]:
    """The colour photographs that come with scikit-image."""
    from skimage import data

    names = ("astronaut", "coffee", "chelsea", "rocket")
    return [getattr(data, name)() for name in names]


def crop(number: int, height: int, width: int) -> Pixels:
    """A part of a photograph, different for each number; what is too small is mirrored on."""
    random = np.random.default_rng(number)
    photo = random.choice(np.array(photographs(), dtype=object))
    lacking = (max(0, height - photo.shape[0]), max(0, width - photo.shape[1]))
    while any(lacking):
        sides = [min(need, side - 1) for need, side in zip(lacking, photo.shape, strict=False)]
        photo = np.pad(photo, ((0, sides[0]), (0, sides[1]), (0, 0)), mode="reflect")
        lacking = (max(0, height - photo.shape[0]), max(0, width - photo.shape[1]))
    top = random.integers(0, photo.shape[0] - height + 1)
    left = random.integers(0, photo.shape[1] - width + 1)
    part = photo[top : top + height, left : left + width]
    return np.ascontiguousarray(part[:, ::-1] if random.integers(2) else part)


def uniform(count: int, *, side: int, steps: int) -> list[Request]:
    """Requests of one size and step count."""
    sources = [crop(number, side, side) for number in range(min(count, 8))]
    return [
        Request(source=sources[number % len(sources)], seed=number, steps=steps)
        for number in range(count)
    ]


def mixed_steps(count: int, *, side: int, steps: tuple[int, int]) -> list[Request]:
    """Requests of one size, each with a step count drawn from a range, both ends included."""
    drawn = np.random.default_rng(1).integers(steps[0], steps[1] + 1, count)
    return [
        Request(source=request.source, seed=request.seed, steps=int(own))
        for request, own in zip(uniform(count, side=side, steps=1), drawn, strict=True)
    ]


def mixed_sizes(count: int, *, steps: int, scale: float = 1.0) -> list[Request]:
    """Requests of natural sizes.

    Args:
        count: How many.
        steps: Of each.
        scale: Of the sides; they stay on the lattice of 64 pixels.
    """
    sizes, shares = zip(*NATURAL_SIZES, strict=True)
    drawn = np.random.default_rng(2).choice(len(sizes), count, p=shares)
    scaled = [tuple(max(64, round(s * scale / 64) * 64) for s in size) for size in sizes]
    sources = {size: crop(7, *size) for size in scaled}
    return [
        Request(source=sources[scaled[which]], seed=number, steps=steps)
        for number, which in enumerate(drawn)
    ]


def at_once(requests: Sequence[Request]) -> list[Arrival]:
    """A backlog."""
    return [Arrival(0.0, request) for request in requests]


def poisson(requests: Sequence[Request], *, per_second: float) -> list[Arrival]:
    """Requests that come independently of each other."""
    gaps = np.random.default_rng(3).exponential(1 / per_second, len(requests))
    return [
        Arrival(float(at), request) for at, request in zip(gaps.cumsum(), requests, strict=True)
    ]


def files(count: int, side: int, form: str) -> Iterator[bytes]:
    """Crops as files, PNG, WEBP, lossless WebP or JPEG."""
    options = {
        "png": {"format": "PNG", "compress_level": 1},
        "webp_lossless": {"format": "WEBP", "lossless": True, "quality": 0, "method": 0},
        "webp": {"format": "WEBP", "quality": 90},
        "jpeg": {"format": "JPEG", "quality": 92},
    }[form]
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(crop(number, side, side)).save(file, **options)  # type: ignore[arg-type]
        yield file.getvalue()
