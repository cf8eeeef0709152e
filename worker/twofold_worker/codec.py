"""Bytes to pixels and back: pure functions over untrusted PNG and JPEG files.

A file's size is judged from its header, before a pixel is decoded. Transparency is kept apart
from the colours, because the model knows none.
"""

import io
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twofold_schema.errors import CorruptSource
from twofold_schema.lanes import SizeLimits
from twofold_worker.untrusted import opened, orientation, planes, transparent_key

# Exif 2.32, 4.6.4 A: how the stored picture must be turned to be seen upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself.

    Attributes:
        width: Pixels, after the EXIF orientation was applied.
        height: Likewise.
        format: The kind of file.
    """

    width: int
    height: int
    format: Literal["PNG", "JPEG"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: RGB, uint8 [h, w, 3].
        alpha: Opacity, uint8 [h, w], 255 is opaque; None where the file knows no transparency.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None


def read_header(head: bytes, *, complete: bool) -> Header | None:
    """Read size and format from the first bytes of a file.

    Args:
        head: The file's first bytes.
        complete: Whether this is the whole file.

    Returns:
        The header, or None where more bytes are needed; never None for a complete file.

    Raises:
        UnsupportedFormat: It is not a still PNG or JPEG.
        CorruptSource: The header is damaged or cut short.
        TooLarge: It states more than 178,956,970 pixels; otherwise the limits are the caller's.
    """
    try:
        with opened(head) as image:
            width, height = image.size
            if orientation(image) in {5, 6, 7, 8}:
                width, height = height, width
            return Header(
                width=width, height=height, format="PNG" if image.format == "PNG" else "JPEG"
            )
    except CorruptSource:
        # Damage and a cut look alike until all bytes are there.
        if complete:
            raise
        return None


def decode(data: bytes, limits: SizeLimits) -> Picture:
    """Decode a whole file.

    Sixteen bits per channel become eight, colour spaces and profiles other than RGB are
    converted as Pillow does, and everything but pixels and orientation is dropped.

    Raises:
        UnsupportedFormat: It is not a still PNG or JPEG.
        CorruptSource: The file is damaged or cut short.
        TooLarge: It is over the limits; found before any pixel is decoded.
    """
    with opened(data) as image:
        limits.check(*image.size)
        if image.format == "PNG":
            # Decoding checks no checksum of the pixels; `verify` does, and spends the image.
            image.verify()
    with opened(data) as image:
        turn = orientation(image)
        key = transparent_key(image)
        image.load()
        stored = planes(image, key)
    upright = [plane.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else plane for plane in stored]
    pixels, *alpha = [np.asarray(plane) for plane in upright]
    return Picture(pixels=pixels, alpha=alpha[0] if alpha else None)


def pad(pixels: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
    """Extend a picture [h, w, ...] to the bottom and right by reflection, edges not doubled.

    Args:
        pixels: The picture, 1x1 or larger.
        height: Of the result; at least the picture's.
        width: Likewise. More than one reflection is made where needed.
    """
    more = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1])]
    return np.pad(pixels, [*more, *[(0, 0)] * (pixels.ndim - 2)], mode="reflect")


def finish(
    upscaled: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, *, width: int, height: int
) -> NDArray[np.uint8]:
    """Cut the padding off an upscaled picture and put its transparency back.

    Args:
        upscaled: The padded picture at twice its size, uint8 [>= 2h, >= 2w, 3].
        alpha: The source's opacity, uint8 [h, w], or None; scaled with Lanczos, clipped.
        width: The source's, w.
        height: The source's, h.

    Returns:
        uint8 [2h, 2w, 3], or [2h, 2w, 4] with alpha.
    """
    cropped = upscaled[: 2 * height, : 2 * width]
    if alpha is None:
        return cropped
    scaled = Image.fromarray(alpha).resize((2 * width, 2 * height), Image.Resampling.LANCZOS)
    return np.dstack([cropped, np.asarray(scaled)])


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [h, w, 3] or [h, w, 4] as PNG.

    Level 1 takes a quarter of the default's time for files about a sixth larger.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
