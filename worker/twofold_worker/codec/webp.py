"""The header of a WebP file (RFC 9649), read by hand.

Pillow hands a file to libwebp, which wants all of it and makes room for two canvases of the size
that the header states, before anybody could look at that size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from twofold_schema.errors import CorruptSource

_ANIMATION: Final = 0x02
# A chunk of these kinds counts only if its flag is set.
_NOTES: Final = {b"EXIF": 0x08, b"XMP ": 0x04}
_VP8_START_CODE: Final = b"\x9d\x01\x2a"
_VP8L_SIGNATURE: Final = 0x2F
#: Enough for the header of each of the three kinds.
HEADER_BYTES: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What the first chunk says.

    Attributes:
        width: In pixels, as stored.
        height: Likewise.
        notes: The kinds of chunks in which an orientation may stand, behind the pixels.
        is_animated: Whether it moves.
    """

    width: int
    height: int
    notes: frozenset[bytes] = frozenset()
    is_animated: bool = False


def read_canvas(head: bytes) -> Canvas:
    """Read the first chunk of a file that begins `RIFF….WEBP`.

    Raises:
        CorruptSource: It is none of the three known kinds, or there are not enough bytes.
    """
    if len(head) < HEADER_BYTES:
        raise CorruptSource
    kind, payload = head[12:16], head[20:HEADER_BYTES]
    if kind == b"VP8X":  # 2.7: flags, 24 bits reserved, the canvas's sides less one in 24 bits each
        return Canvas(
            width=1 + int.from_bytes(payload[4:7], "little"),
            height=1 + int.from_bytes(payload[7:10], "little"),
            notes=frozenset(kind for kind, flag in _NOTES.items() if payload[0] & flag),
            is_animated=bool(payload[0] & _ANIMATION),
        )
    if kind == b"VP8L" and payload[0] == _VP8L_SIGNATURE:  # 3.4: 14 bits each, less one
        bits = int.from_bytes(payload[1:5], "little")
        return Canvas(width=1 + (bits & 0x3FFF), height=1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and payload[3:6] == _VP8_START_CODE:  # RFC 6386, 9.1: 14 bits, 2 of scale
        return Canvas(
            width=int.from_bytes(payload[6:8], "little") & 0x3FFF,
            height=int.from_bytes(payload[8:10], "little") & 0x3FFF,
        )
    raise CorruptSource("The WebP's first chunk is damaged.")


def chunks(data: bytes) -> Iterator[tuple[bytes, slice]]:
    """Name and place in the file of each chunk (2.3), as far as the file reaches.

    Args:
        data: A file that begins `RIFF….WEBP`, or its first bytes.
    """
    place, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while place + 8 <= end:
        content = place + 8
        length = int.from_bytes(data[place + 4 : content], "little")
        yield data[place : place + 4], slice(content, content + length)
        place = content + length + length % 2
