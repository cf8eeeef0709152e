"""What is asked of the model in tests, and how it is brought to its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import Made, Request, Sample, Upscaler


def load(model: Path | str, *, dtype: str = "float32", device: str = "cpu") -> DiffusionUpscaler:
    """A local folder's model."""
    return DiffusionUpscaler.load(str(model), revision=None, device=device, dtype=dtype)


def of_picture(number: int, *, height: int = 64, width: int = 64, **more: Any) -> Request:
    """Noise that no two numbers share, and prompts likewise."""
    random = np.random.default_rng(number)
    return _request(number, random.integers(0, 256, (height, width, 3), dtype=np.uint8), **more)


def of_latents(number: int, *, height: int = 64, width: int = 64, **more: Any) -> Request:
    """As `of_picture`, of the same sizes."""
    random = np.random.default_rng(number)
    values = random.standard_normal((4, height // 8, width // 8), dtype=np.float32)
    return _request(number, values, **more)


def _request(number: int, source: NDArray[Any], **more: Any) -> Request:
    asked: dict[str, Any] = {
        "source": source,
        "seed": 2**62 + number,
        "steps": 3,
        "prompt": f"a photograph of {number} cats",
        "negative_prompt": "blurred" if number % 2 else "",
    }
    return Request(**asked | more)


def advance(upscaler: Upscaler, samples: Sequence[Sample], *, rung: int) -> None:
    """Do all their steps together; who is done leaves."""
    while left := [sample for sample in samples if not sample.is_done]:
        upscaler.step(left, rung=rung)


def make(upscaler: Upscaler, requests: Sequence[Request], *, rung: int) -> list[Made]:
    """What becomes of requests that begin together."""
    samples = [upscaler.begin(request) for request in requests]
    advance(upscaler, samples, rung=rung)
    return [upscaler.finish(sample) for sample in samples]


def decibels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """How alike two pictures are: PSNR, 99 where they are the same."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))
