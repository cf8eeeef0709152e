"""A file of countless pieces is refused before anybody goes through them."""

import struct
import time
import zlib
from contextlib import suppress

import pytest
from PIL import Image
from tests.inputs.files import chunk, png, saved, scene
from tests.unit.worker.codec.test_catalogue import ROOM, over_the_limit

from twofold_schema.errors import CorruptSource
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec.source import Picture, decode, read_header

LIMITS = SizeLimits(max_pixels=2048 * 2048, max_side=4096)

JPEG = saved(scene(64, 48), "JPEG", quality=90)
WEBP = saved(scene(64, 48), "WEBP", icc_profile=b"x")
GREY = saved(Image.new("L", (2048, 2048), 128), "JPEG", progressive=True)


def _png(before: bytes) -> bytes:
    return png(1, 1, depth=8, colour=0, rows=[b"\0"], before=before)


def _words(number: int) -> bytes:
    """A text of a million letters, each of which takes four bytes of memory, in a kilobyte."""
    text = zlib.compress(("a" * 999_990 + "\N{GRINNING FACE}").encode())
    return chunk(b"iTXt", b"%d\0\1\0en\0x\0" % number + text)


def _webp(behind: bytes) -> bytes:
    body = WEBP[8:] + behind
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _again(data: bytes, times: int) -> bytes:
    """A JPEG whose last scan comes so many times more."""
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * times + data[-2:]


def _separate(times: int) -> bytes:
    """A sequential JPEG whose colours come in scans of their own, and so many empty ones."""
    scan = b"\xff\xda" + bytes((0, 8, 1, 1, 0, 0, 63, 0))
    start = JPEG.index(b"\xff\xda")
    return JPEG[:start] + scan * times + JPEG[start:]


BOMBS = {
    "png of empty chunks": _png(chunk(b"prVt", b"") * 100_000),
    "png of texts": _png(b"".join(_words(number) for number in range(60))),
    "png of one text": _png(chunk(b"iTXt", b"T\0\0\0\0\0" + b"a" * 30_000_000)),
    "jpeg of empty segments": JPEG[:2] + b"\xff\xec\0\2" * 500_000 + JPEG[2:],
    "jpeg of fill": JPEG[:2] + b"\xff" * 3_000_000 + JPEG[2:],
    "jpeg of junk": JPEG[:20] + b"\xff\0" * 1_500_000 + JPEG[20:],
    "jpeg of markers": JPEG[:2] + b"\xff\xd0" * 1_500_000 + JPEG[2:],
    "jpeg of scans": _again(GREY, 20_000),
    "jpeg of scans of one colour": _separate(20_000),
    "webp of empty chunks": _webp(struct.pack("<4sI", b"JUNK", 0) * 3_000_000),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_file_of_countless_pieces_is_refused_in_time(data: bytes) -> None:
    """To decode it would take seconds; of the largest, minutes, and a stalled step ends workers."""
    began = time.process_time()
    with pytest.raises(CorruptSource):
        decode(data, LIMITS)
    with suppress(CorruptSource):
        read_header(data, complete=True)
    assert time.process_time() - began < 1


def test_and_within_the_limit_on_memory() -> None:
    files = [(name, data, "corrupt_source") for name, data in BOMBS.items()]
    assert over_the_limit(files, ROOM) == []


@pytest.mark.parametrize(
    "data",
    [
        _png(chunk(b"prVt", bytes(100)) * 1000),
        _png(_words(1) + _words(2)),
        JPEG[:2] + b"\xff" * 1000 + JPEG[2:],
        JPEG[:2] + b"\xff\xec\0\2" * 1000 + JPEG[2:],
        # A video behind the picture, as phones append it; it is full of what looks like markers.
        JPEG + b"\xff\xda\0\1" * 100_000,
        GREY + b"\xff\xda\0\1" * 100_000,
        _again(GREY, 20),
        _webp(struct.pack("<4sI", b"JUNK", 0) * 1000),
        saved(scene(64, 48), "MPO", save_all=True, append_images=[scene(64, 48)] * 20),
        saved(scene(64, 48), "JPEG", restart_marker_blocks=1, progressive=True),
    ],
)
def test_what_honest_programs_write_is_taken(data: bytes) -> None:
    assert isinstance(decode(data, LIMITS), Picture)


@pytest.mark.parametrize("kind", range(0xC0, 0xFF))
def test_no_segment_hides_what_pillow_reads_byte_by_byte(kind: int) -> None:
    hidden = b"\xff" * 60_000
    segment = bytes((0xFF, kind)) + struct.pack(">H", len(hidden) + 2) + hidden
    began = time.process_time()
    with suppress(CorruptSource):
        decode(JPEG[:2] + segment * 50 + JPEG[2:], LIMITS)
    assert time.process_time() - began < 1
