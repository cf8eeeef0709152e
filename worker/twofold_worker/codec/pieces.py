"""How many pieces a picture's file has, counted before Pillow goes through them.

Pillow takes the chunks of a PNG and the segments of a JPEG one by one in Python, with the GIL held,
and keeps what they say. Of nothing but empty pieces a small file would keep a worker for minutes,
and take many times its own size in memory; a JPEG of many scans asks for the same pixels to be gone
over a million times.
"""

import re
from typing import Final

from PIL import JpegImagePlugin

from twofold_schema.errors import CorruptSource
from twofold_schema.formats import SourceFormat
from twofold_worker.codec import webp

#: Chunks or segments. Encoders that cut pixels into the smallest chunks stay far below.
_MOST_PIECES: Final = 50_000
#: Bytes between two segments that are none, of which Pillow reads each by itself.
_MOST_FILL: Final = 64 * 1024
#: Passes of a JPEG over the picture; encoders make about ten.
_MOST_SCANS: Final = 200
#: What a PNG may say in words, in its Exif and in its profile, in bytes as stored. Pillow keeps
#: several copies, one of up to four bytes a letter.
_MOST_WORDS: Final = 4 * 2**20

_WORDS: Final = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"}
# ITU-T T.81, B.1.1.2 and table B.1: a marker is a byte that is neither 0 nor 255, behind a 255;
# D0 to D7 stand between the pixels of a scan.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
_MARKER_OF_SCANS: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAMES: Final = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = {0xC2, 0xC6, 0xCA, 0xCE}
_SCAN, _END = 0xDA, 0xD9


def check(data: bytes, form: SourceFormat | None) -> None:
    """Accept a picture's file, or as much of it as is there.

    Raises:
        CorruptSource: It has more pieces than any picture needs.
    """
    if form is SourceFormat.PNG:
        _png(data)
    elif form is SourceFormat.JPEG:
        _jpeg(data)
    elif form is SourceFormat.WEBP:
        _webp(data)


def _png(data: bytes) -> None:
    place, pieces, words = 8, 0, 0
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        words += length if data[place + 4 : place + 8] in _WORDS else 0
        place += 12 + length
        pieces += 1
        _refuse(pieces > _MOST_PIECES, "chunks", _MOST_PIECES)
        _refuse(words > _MOST_WORDS, "bytes of texts, Exif and profile", _MOST_WORDS)


def _webp(data: bytes) -> None:
    for before, _ in enumerate(webp.chunks(data)):
        _refuse(before >= _MOST_PIECES, "chunks", _MOST_PIECES)


def _jpeg(data: bytes) -> None:
    """Go the way that Pillow goes to the first scan, and libjpeg from there to the end."""
    place, pieces, fill, scans, components, progressive = 2, 0, 0, 0, 0, False
    while (found := (_MARKER_OF_SCANS if scans else _MARKER).search(data, place)) is not None:
        kind = data[found.end() - 1]
        pieces += 1
        fill += 0 if scans else found.start() - place
        place = found.end()
        if kind in _FRAMES:
            progressive, components = kind in _PROGRESSIVE, _byte(data, place + 7)
        elif kind == _SCAN:
            scans += 1
            if not progressive and _byte(data, place + 2) == components:
                return
        elif kind == _END and scans:
            return
        if _has_length(kind):
            place += int.from_bytes(data[place : place + 2], "big")
        _refuse(pieces > _MOST_PIECES, "segments", _MOST_PIECES)
        _refuse(fill > _MOST_FILL, "bytes between its segments", _MOST_FILL)
        _refuse(scans > _MOST_SCANS, "scans", _MOST_SCANS)


def _byte(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 1], "big")


def _has_length(kind: int) -> bool:
    _, _, handler = JpegImagePlugin.MARKER.get(0xFF00 | kind, ("", "", None))
    return handler is not None


def _refuse(over: bool, what: str, most: int) -> None:  # noqa: FBT001 - read as a sentence
    if over:
        raise CorruptSource(
            f"The source has more than {most} {what}, which no picture needs; save it anew."
        )
