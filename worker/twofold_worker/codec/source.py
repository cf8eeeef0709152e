"""What a source is, by its first bytes: its header, then its content.

A file's size is judged from its header, before anything of that size is allocated.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from twofold_schema.errors import CorruptSource, UnsupportedFormat
from twofold_schema.formats import SNIFF_BYTES, SourceFormat, sniff
from twofold_schema.lanes import PIXELS_PER_LATENT, SizeLimits, padded
from twofold_worker.codec import latents, pictures

Number = TypeVar("Number", bound=np.generic)

#: What people send for latents, and what they can do about it.
_CONTAINERS: Final = {
    b"PK\x03\x04": "a zip archive, such as .npz, .pt or .pth",
    b"\x80": "a pickle, such as an old .pt or .ckpt",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself.

    Attributes:
        width: Of the picture, in pixels, after the EXIF orientation was applied; of latents, of
            the picture that they stand for.
        height: Likewise.
        format: The kind of file.
    """

    width: int
    height: int
    format: SourceFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded picture, upright, in sRGB.

    Attributes:
        pixels: RGB, uint8 [h, w, 3].
        alpha: Opacity, uint8 [h, w], 255 is opaque; None where the file knows no transparency.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        height, width = self.pixels.shape[:2]
        return width, height

    def on_the_lattice(self) -> NDArray[np.uint8]:
        """The pixels, padded: uint8 [H, W, 3]."""
        width, height = self.size
        return _padded(self.pixels, padded(height), padded(width), axis=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """Decoded latents.

    Attributes:
        values: float32 [4, h, w], finite.
    """

    values: NDArray[np.float32]

    alpha: None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture that they stand for, in pixels."""
        _, height, width = self.values.shape
        return width * PIXELS_PER_LATENT, height * PIXELS_PER_LATENT

    def on_the_lattice(self) -> NDArray[np.float32]:
        """The values, padded: float32 [4, H/8, W/8]."""
        width, height = self.size
        rows, columns = padded(height) // PIXELS_PER_LATENT, padded(width) // PIXELS_PER_LATENT
        return _padded(self.values, rows, columns, axis=1)


Decoded: TypeAlias = Picture | Latents


def read_header(head: bytes, *, complete: bool) -> Header | None:
    """Read size and format from the first bytes of a file.

    Args:
        head: The file's first bytes.
        complete: Whether this is the whole file.

    Returns:
        The header, or None where more bytes are needed; never None for a complete file.

    Raises:
        UnsupportedFormat: It is no still picture and no latents of a kind that is taken.
        InvalidLatents: It holds something else than latents.
        CorruptSource: The header is damaged or cut short.
        TooLarge: It states more than 178,956,970 pixels; otherwise the limits are the caller's.
    """
    if len(head) < SNIFF_BYTES and not complete:
        return None
    form = _form_of(head)
    try:
        if form.is_latents:
            shape = latents.read_shape(head, form)
            return Header(
                width=shape.width * PIXELS_PER_LATENT,
                height=shape.height * PIXELS_PER_LATENT,
                format=form,
            )
        size = pictures.read_size(head, form, complete=complete)
        return size and Header(width=size[0], height=size[1], format=form)
    except CorruptSource:
        # Damage and a cut look alike until all bytes are there.
        if complete:
            raise
        return None


def decode(data: bytes, limits: SizeLimits) -> Decoded:
    """Decode a whole file.

    Pictures: EXIF orientation is applied, sixteen bits per channel become eight, and every colour
    space and profile becomes sRGB; everything else that a file carries is dropped.

    Raises:
        UnsupportedFormat: It is no still picture and no latents of a kind that is taken.
        InvalidLatents: It holds something else than finite latents.
        CorruptSource: The file is damaged or cut short.
        TooLarge: It is over the limits; found before anything is decoded.
    """
    form = _form_of(data)
    if form.is_latents:
        return Latents(values=latents.decode(data, form, limits))
    pixels, alpha = pictures.decode(data, form, limits)
    return Picture(pixels=pixels, alpha=alpha)


def _form_of(head: bytes) -> SourceFormat:
    form = sniff(head)
    if form is not None:
        return form
    if len(head) < SNIFF_BYTES:
        raise CorruptSource(f"The source has {len(head)} bytes; it is empty or cut short.")
    for magic, name in _CONTAINERS.items():
        if head.startswith(magic):
            raise UnsupportedFormat(
                f"The source is {name}; store latents as safetensors or .npy, which run no code."
            )
    raise UnsupportedFormat


def _padded(array: NDArray[Number], height: int, width: int, *, axis: int) -> NDArray[Number]:
    """Extend an array to the bottom and right by reflection, edges not doubled.

    More than one reflection is made where needed.

    Args:
        array: 1x1 or larger along its rows and columns.
        height: Of the result; at least the array's.
        width: Likewise.
        axis: Of the rows; the columns follow.
    """
    more = [(0, 0)] * array.ndim
    more[axis] = (0, height - array.shape[axis])
    more[axis + 1] = (0, width - array.shape[axis + 1])
    return np.pad(array, more, mode="reflect")
