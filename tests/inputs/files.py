"""Files made by hand, for what no library writes, and pictures to put into the others."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

ORIENTATION = 0x0112


def scene(width: int, height: int) -> Image.Image:
    """A picture in which up, left, colours and edges can be told."""
    across = np.linspace(40, 220, width)[None, :].repeat(height, 0)
    down = np.linspace(220, 60, height)[:, None].repeat(width, 1)
    image = Image.fromarray(np.dstack([across, down, 255 - across]).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    unit = min(width, height) / 16
    draw.ellipse((unit, unit, 6 * unit, 6 * unit), fill=(230, 40, 40))
    draw.polygon(
        [(width - unit, unit), (width - 6 * unit, unit), (width - unit, 6 * unit)],
        fill=(250, 220, 60),
    )
    draw.rectangle((unit, height - 5 * unit, 8 * unit, height - unit), fill=(20, 60, 160))
    return image


def faded(image: Image.Image) -> Image.Image:
    """The picture, opaque on the left and gone on the right."""
    alpha = np.linspace(255, 0, image.width)[None, :].repeat(image.height, 0).astype(np.uint8)
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(alpha))
    return rgba


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    """EXIF that says how the stored picture must be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    *,
    depth: int,
    colour: int,
    rows: list[bytes],
    before: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """A PNG with these rows, and chunks before and behind its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", pixels)
        + behind
        + chunk(b"IEND", b"")
    )


def text_chunk(unpacked_bytes: int) -> bytes:
    """A compressed text of a PNG that unpacks to so much."""
    return chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(unpacked_bytes)))


def webp_canvas(width: int, height: int, *, flags: int = 0) -> bytes:
    """A WebP that is all header (RFC 9649, 2.7): its canvas is as large as it says."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes((flags, 0, 0, 0)) + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body


def safetensors(
    values: NDArray[Any] | bytes, dtype: str, shape: tuple[int, ...], **header: Any
) -> bytes:
    """A file of one tensor `latents`; `header` adds entries or replaces it."""
    import json

    data = values if isinstance(values, bytes) else values.tobytes()
    entries = {"latents": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    text = json.dumps(entries | header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npy(values: NDArray[Any], *, allow_pickle: bool = False) -> bytes:
    """What `numpy.save` writes."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_header(text: str, data: bytes = b"") -> bytes:
    """A .npy with any header."""
    header = text.encode("latin-1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def latents(height: int = 8, width: int = 8, seed: int = 1) -> NDArray[np.float32]:
    """Numbers like a latent picture's, float32 [4, h, w]."""
    return np.random.default_rng(seed).standard_normal((4, height, width), dtype=np.float32)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32s."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)
