"""From what the model made to the bytes of a result and of its preview.

No encoder here holds the GIL: Pillow's JPEG encoder does, and would starve the thread that feeds
the device, so JPEG is libjpeg-turbo's, by simplejpeg.
"""

import io
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from twofold_schema.formats import ResultFormat
from twofold_schema.job import Output
from twofold_schema.lanes import PIXELS_PER_LATENT, padded

_WHITE: Final = 255
_PREVIEW_QUALITY: Final = 80


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


def finish_latents(
    upscaled: NDArray[np.float32], *, width: int, height: int
) -> NDArray[np.float32]:
    """Cut the padding off upscaled latents, to the last ones that the picture needs.

    Args:
        upscaled: float32 [4, >= 2h/8, >= 2w/8].
        width: The source's, w, in pixels.
        height: The source's, h, in pixels.
    """
    rows, columns = (-(-2 * side // PIXELS_PER_LATENT) for side in (height, width))
    return upscaled[:, :rows, :columns]


def encode(pixels: NDArray[np.uint8], output: Output) -> bytes:
    """Encode uint8 [h, w, 3], or [h, w, 4] with alpha, as a picture of the wanted kind.

    Speed is chosen over size: PNG level 1 takes a quarter of the default's time for files about a
    sixth larger, lossless WebP with the least effort half of that for files a fifth smaller.

    Raises:
        ValueError: The kind is no picture's.
    """
    if output.format is ResultFormat.JPEG:
        return _jpeg(pixels, output.quality)
    options: dict[ResultFormat, dict[str, object]] = {
        ResultFormat.PNG: {"format": "PNG", "compress_level": 1},
        # `exact` keeps the colours of what is wholly transparent.
        ResultFormat.WEBP_LOSSLESS: {
            "format": "WEBP",
            "lossless": True,
            "quality": 0,
            "method": 0,
            "exact": True,
        },
        ResultFormat.WEBP: {"format": "WEBP", "quality": output.quality, "method": 2},
    }
    if output.format not in options:
        raise ValueError(f"{output.format} is no picture")
    return _saved(Image.fromarray(pixels), options[output.format])


def without_padding(view: NDArray[np.uint8], *, width: int, height: int) -> NDArray[np.uint8]:
    """Cut the padding's share off a coarse view of the padded picture.

    Args:
        view: uint8 [vh, vw, 3], of the padded picture at any scale.
        width: The source's, in pixels.
        height: As `width`.
    """
    rows = max(1, round(view.shape[0] * height / padded(height)))
    columns = max(1, round(view.shape[1] * width / padded(width)))
    return view[:rows, :columns]


def preview(pixels: NDArray[np.uint8], *, width: int, height: int, side: int) -> bytes:
    """A small WebP of a result.

    Args:
        pixels: uint8 [h, w, 3], or [h, w, 4] with alpha: the result, or a view of it.
        width: The result's, in pixels, which the preview keeps the ratio of.
        height: As `width`.
        side: What the longer side has at most, in pixels, 1 or more.
    """
    scale = min(1.0, side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
    return _saved(small, {"format": "WEBP", "quality": _PREVIEW_QUALITY, "method": 2})


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    if pixels.shape[2] == 4:
        colours, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
        pixels = ((colours * alpha + _WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)
    # Full chroma from 90 up: whoever asks for that much does not want colours at half the size.
    chroma = "444" if quality >= 90 else "420"
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorsubsampling=chroma
    )
    return data


def _saved(image: Image.Image, options: dict[str, object]) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)  # type: ignore[arg-type]  # Pillow's options are anything
    return file.getvalue()
