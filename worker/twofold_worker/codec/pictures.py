"""PNG, JPEG and WebP: size from the header, pixels upright and in sRGB, transparency kept apart."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twofold_schema.errors import UnsupportedFormat
from twofold_schema.formats import SourceFormat
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec import webp
from twofold_worker.codec.untrusted import (
    is_wide,
    low_bytes,
    opened,
    orientation,
    planes,
    transparent_key,
)

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
_ON_ITS_SIDE: Final = {5, 6, 7, 8}
# Where Pillow keeps what such chunks of a WebP say.
_PILLOW_NAMES: Final = {b"EXIF": "exif", b"XMP ": "xmp"}


def read_size(head: bytes, form: SourceFormat, *, complete: bool) -> tuple[int, int] | None:
    """Width and height of the upright picture, in pixels, from the first bytes of a file.

    Args:
        head: The file's first bytes.
        form: What they say that it is.
        complete: Whether this is the whole file.

    Returns:
        The size, or None where more bytes are needed.

    Raises:
        UnsupportedFormat: It moves.
        CorruptSource: It is damaged, or there are not enough bytes.
        TooLarge: It states more than 178,956,970 pixels.
    """
    if form is SourceFormat.WEBP:
        canvas = _still_canvas(head)
        if not canvas.notes:
            return canvas.width, canvas.height
        if not complete:
            return None
        (width, height), turn = (canvas.width, canvas.height), _turn_of_webp(head, canvas)
    else:
        with opened(head) as image:
            (width, height), turn = image.size, orientation(image)
    return (height, width) if turn in _ON_ITS_SIDE else (width, height)


def decode(
    data: bytes, form: SourceFormat, limits: SizeLimits
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """A whole file's colours, uint8 [h, w, 3], and its opacity, uint8 [h, w], if it knows any.

    Raises:
        UnsupportedFormat: It moves.
        CorruptSource: It is damaged or cut short.
        TooLarge: It is over the limits; found before any pixel is decoded.
    """
    if form is SourceFormat.WEBP:
        canvas = _still_canvas(data)
        limits.check(canvas.width, canvas.height)
    else:
        with opened(data) as image:
            limits.check(*image.size)
            if form is SourceFormat.PNG:
                # Decoding checks no checksum of the pixels; `verify` does, and spends the image.
                image.verify()
    low = None
    with opened(data) as image:
        turn = orientation(image)
        key = transparent_key(image)
        if key is not None and is_wide(image):
            with opened(data) as again:
                low = low_bytes(again)
        image.load()
        stored = planes(image, key, low)
    upright = [plane.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else plane for plane in stored]
    pixels, *alpha = [np.asarray(plane) for plane in upright]
    return pixels, alpha[0] if alpha else None


def _turn_of_webp(data: bytes, canvas: webp.Canvas) -> int:
    # By an image of no size: to open the file would make room for its canvas.
    notes = Image.Image()
    for kind, place in webp.chunks(data):
        if kind in canvas.notes:
            notes.info.setdefault(_PILLOW_NAMES[kind], data[place])
    return orientation(notes)


def _still_canvas(head: bytes) -> webp.Canvas:
    canvas = webp.read_canvas(head)
    if canvas.is_animated:
        raise UnsupportedFormat("The source is an animated WebP; submit one of its frames.")
    return canvas
