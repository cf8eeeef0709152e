"""Pillow over bytes from anybody: what it gets wrong, refuses late or raises at random, put right.

Nothing here judges a picture's size; whoever opens one does that before loading it.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, cast

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin
from PIL.ExifTags import Base as ExifTag

from twofold_schema.errors import CorruptSource, TooLarge, UnsupportedFormat
from twofold_schema.formats import sniff
from twofold_worker.codec import pieces
from twofold_worker.codec.profiles import to_srgb

# All texts of a PNG together, unpacked, in letters of up to four bytes. Pillow allows 64 million.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

Key: TypeAlias = int | tuple[int, ...] | bytes
"""The grey, colour or palette entries that a PNG's tRNS chunk makes transparent."""

_FORMATS: Final = ("PNG", "JPEG", "WEBP")
# What fuzzing made Pillow raise for damaged files.
_DAMAGED: Final = (OSError, SyntaxError, ValueError, TypeError, IndexError, struct.error)
# Pillow refuses from twice its limit on, and only warns from its limit on (an exception where
# warnings are errors); `Limits` never reach that far, so both mean the same here.
_BOMB: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@contextmanager
def opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """Open a still picture, pixels not yet decoded; Pillow's errors in the body become ours.

    Raises:
        UnsupportedFormat: It moves.
        CorruptSource: It is damaged or cut short.
        TooLarge: Pillow takes it for a decompression bomb.
    """
    pieces.check(data, sniff(data))
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # A camera's MPO is a JPEG with more pictures behind it; the first is the photograph.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise UnsupportedFormat(
                    f"The source is an animated {image.format}; submit one of its frames."
                )
            # Cut between two segments, a JPEG opens, with what the rest would say left out.
            if image.format != "WEBP" and not image.tile:
                raise CorruptSource
            if image.mode == "P" and image.palette is None:
                raise CorruptSource("The source is a palette PNG without its palette.")
            yield image
    except _BOMB as error:
        raise TooLarge from error
    except _DAMAGED as error:
        raise CorruptSource(f"The source is damaged or cut short ({error}).") from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation written before the pixels; damaged EXIF turns nothing.

    `PngImageFile.getexif` would decode the whole picture to look behind it.

    Returns:
        1 to 8 in a sound file.
    """
    try:
        return cast("int", Image.Image.getexif(image).get(ExifTag.Orientation, 1))
    except _DAMAGED:
        return 1


def transparent_key(image: ImageFile.ImageFile) -> Key | None:
    """The tRNS key of a PNG that is not loaded yet, in the numbers its pixels will have.

    That of a 16-bit colour stays whole, to be compared with all of its bits (see `low_bytes`).
    Pillow stretches 2 and 4 bits to 8, but leaves the key as it stands in the
    file (PNG 3rd edition, 11.3.2.1), so that it would match no pixel or a wrong one.
    """
    # A PNG's text of that name would stand in its place.
    key: Key | str | None = image.info.pop("transparency", None)
    if key is None or isinstance(key, str):
        return None
    image.info["transparency"] = key
    layout = image.tile[0].args
    if isinstance(key, int) and layout in {"L;2", "L;4"}:
        return key * {"L;2": 85, "L;4": 17}[layout]
    return key


def low_bytes(image: ImageFile.ImageFile) -> Image.Image:
    """Those that Pillow cuts from a PNG of 16 bits a colour which is not loaded yet."""
    # As if the low byte came last, it takes the second of each two.
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def is_wide(image: ImageFile.ImageFile) -> bool:
    """Whether a picture that is not loaded yet is one of 16 bits a colour, without opacity."""
    return bool(image.tile) and image.tile[0].args == "RGB;16B"


def planes(
    image: Image.Image, key: Key | None, low: Image.Image | None = None
) -> list[Image.Image]:
    """A loaded picture's colours as sRGB and, where it may be transparent, its opacity as L.

    Args:
        image: The picture.
        key: Of what is transparent.
        low: The low bytes of its colours, which the key is of as well.
    """
    profile = image.info.get("icc_profile")
    if image.mode == "I;16":
        # Pillow would clip to 255.
        wide = np.asarray(image)
        grey = Image.fromarray(((wide.astype(np.uint32) + 128) // 257).astype(np.uint8))
        opaque = [] if key is None else [Image.fromarray(wide != key).convert("L")]
        return [to_srgb(grey, profile), *opaque]
    image.info.pop("transparency", None)
    if low is not None:
        whole_colours = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
        opaque = (whole_colours != np.array(key)).any(axis=2)
        return [to_srgb(image, profile), Image.fromarray(opaque).convert("L")]
    if key is not None:
        image.info["transparency"] = key
    alpha = []
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        alpha = [whole.getchannel("A")]
        # Grey stays grey: its profile is for one channel.
        image = image.convert("L") if image.mode in {"1", "L", "LA", "La"} else whole.convert("RGB")
    elif image.mode not in {"L", "RGB", "CMYK"}:
        image = image.convert("L" if image.mode == "1" else "RGB")
    return [to_srgb(image, profile), *alpha]
