"""The kinds of files that come in and go out: their media types, suffixes and first bytes.

What a file is, its first bytes say; its name and its declared content type are never believed.
"""

from enum import StrEnum
from typing import Final


class SourceFormat(StrEnum):
    """What a source can be."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    SAFETENSORS = "safetensors"
    NPY = "npy"

    @property
    def is_latents(self) -> bool:
        """Whether it holds latents rather than a picture."""
        return self in {SourceFormat.SAFETENSORS, SourceFormat.NPY}

    @property
    def media_type(self) -> str:
        """Its registered media type; latents have none."""
        return "application/octet-stream" if self.is_latents else f"image/{self}"


class ResultFormat(StrEnum):
    """What a result can be."""

    #: Lossless, read everywhere.
    PNG = "png"
    #: Lossless and a fifth smaller.
    WEBP_LOSSLESS = "webp-lossless"
    #: Lossy, with transparency; `quality` says how.
    WEBP = "webp"
    #: Lossy, without transparency: what is transparent becomes white.
    JPEG = "jpeg"
    #: The upscaled latents themselves, undecoded: float32 [4, 2h/8, 2w/8] in safetensors.
    LATENTS = "latents"

    @property
    def suffix(self) -> str:
        """Of file names, with its dot."""
        return _SUFFIXES[self]

    @property
    def media_type(self) -> str:
        """Its registered media type; latents have none."""
        return _MEDIA_TYPES[self]

    @property
    def max_side(self) -> int:
        """The longest side that such a file can have, in pixels."""
        return _MAX_SIDES.get(self, 2**31 - 1)

    @property
    def is_lossy(self) -> bool:
        """Whether `quality` means something."""
        return self in {ResultFormat.WEBP, ResultFormat.JPEG}


_SUFFIXES: Final = {
    ResultFormat.PNG: ".png",
    ResultFormat.WEBP_LOSSLESS: ".webp",
    ResultFormat.WEBP: ".webp",
    ResultFormat.JPEG: ".jpg",
    ResultFormat.LATENTS: ".safetensors",
}
_MEDIA_TYPES: Final = {
    ResultFormat.PNG: "image/png",
    ResultFormat.WEBP_LOSSLESS: "image/webp",
    ResultFormat.WEBP: "image/webp",
    ResultFormat.JPEG: "image/jpeg",
    ResultFormat.LATENTS: "application/octet-stream",
}
# RFC 9649, 2.4; libjpeg-turbo's JPEG_MAX_DIMENSION.
_MAX_SIDES: Final = {
    ResultFormat.WEBP_LOSSLESS: 16_383,
    ResultFormat.WEBP: 16_383,
    ResultFormat.JPEG: 65_500,
}

#: How many first bytes `sniff` needs to know a file.
SNIFF_BYTES: Final = 12

# PNG 3rd edition, 5.2; ITU-T T.81, B.1.1.3 (SOI and the first byte of the marker after it);
# numpy.lib.format.
_MAGIC: Final = {
    b"\x89PNG\r\n\x1a\n": SourceFormat.PNG,
    b"\xff\xd8\xff": SourceFormat.JPEG,
    b"\x93NUMPY": SourceFormat.NPY,
}


def sniff(head: bytes) -> SourceFormat | None:
    """What a file's first bytes say that it is; None for anything else.

    Args:
        head: At least `SNIFF_BYTES` of it, or the whole file.
    """
    for magic, found in _MAGIC.items():
        if head.startswith(magic):
            return found
    # RFC 9649, 2.4: RIFF, the file's length, WEBP.
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return SourceFormat.WEBP
    # safetensors: the length of a JSON header, eight bytes, little end first; then the header.
    # Behind three zeros at the end of the length lies no header that anybody wrote by chance.
    if head[5:9] == b"\0\0\0{":
        return SourceFormat.SAFETENSORS
    return None
