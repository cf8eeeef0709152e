"""Pictures for tests: small, different, in the forms that people send."""

import io
from typing import Literal

import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Noise that no two seeds share."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(
    width: int = 40, height: int = 30, seed: int = 0, form: Literal["PNG", "JPEG"] = "PNG"
) -> bytes:
    """The bytes of such a picture's file."""
    buffer = io.BytesIO()
    picture(width, height, seed).save(buffer, form)
    return buffer.getvalue()
