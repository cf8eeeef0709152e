"""Untrusted bytes become pictures within limits, or an error of the job; never anything else."""

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from twofold_schema.errors import (
    CorruptSource,
    JobError,
    TooLarge,
    UnsupportedFormat,
)
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec import Header, decode, encode_png, finish, pad, read_header

LIMITS = SizeLimits(max_pixels=1_000_000, max_side=4096)
ORIENTATION = 0x0112


def _noise(height: int, width: int, channels: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    width: int, height: int, *, depth: int, colour: int, rows: list[bytes], extra: bytes = b""
) -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + extra
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


RGBA = Image.fromarray(_noise(24, 31))
RGB = RGBA.convert("RGB")
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Title", "of a picture", zip=True)
FILES = {
    "png": _save(RGBA, "PNG", pnginfo=TEXT, exif=_turned(6), icc_profile=b"x" * 300),
    "png-palette": _save(RGBA.convert("P"), "PNG", transparency=3),
    "png-16-bit": _save(Image.fromarray(_noise(24, 31)[..., 0].astype(np.uint16) * 257), "PNG"),
    "jpeg": _save(RGB, "JPEG", exif=_turned(6), icc_profile=b"x" * 300),
    "jpeg-progressive": _save(RGB, "JPEG", progressive=True),
    "jpeg-cmyk": _save(RGB.convert("CMYK"), "JPEG"),
    "jpeg-mpo": _save(RGB, "MPO", save_all=True, append_images=[RGB]),
}
every_file = pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())


@every_file
def test_the_header_agrees_with_the_decoded_picture(data: bytes) -> None:
    header = read_header(data, complete=True)
    picture = decode(data, LIMITS)
    assert header is not None
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == (header.height, header.width, 3)
    assert picture.alpha is None or picture.alpha.shape == picture.pixels.shape[:2]
    assert header.format == ("PNG" if data.startswith(b"\x89PNG") else "JPEG")


@every_file
def test_the_first_bytes_give_the_header_or_ask_for_more_and_never_a_wrong_one(data: bytes) -> None:
    whole = read_header(data, complete=True)
    answers = [read_header(data[:size], complete=False) for size in range(len(data) + 1)]
    known = next(size for size, answer in enumerate(answers) if answer is not None)
    assert answers[:known] == [None] * known
    assert answers[known:] == [whole] * (len(data) + 1 - known)
    assert known < len(data) or whole is None


@every_file
def test_a_cut_header_of_a_complete_file_is_corrupt(data: bytes) -> None:
    for size in range(40):
        with pytest.raises(CorruptSource):
            read_header(data[:size], complete=True)


@pytest.mark.parametrize("data", [b"GIF89a", b"RIFF....WEBPVP8 ", b"\x89PNX", b"<svg/>"])
@pytest.mark.parametrize("complete", [True, False])
def test_other_formats_are_refused_from_their_first_bytes(data: bytes, *, complete: bool) -> None:
    with pytest.raises(UnsupportedFormat):
        read_header(data, complete=complete)
    with pytest.raises(UnsupportedFormat):
        decode(data, LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_pillow_turns_them(
    kind: Literal["PNG", "JPEG"], orientation: int
) -> None:
    source = RGBA if kind == "PNG" else RGB
    data = _save(source, kind, exif=_turned(orientation))
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    picture = decode(data, LIMITS)
    assert np.array_equal(picture.pixels, upright[..., :3])
    assert read_header(data, complete=True) == Header(
        width=upright.shape[1], height=upright.shape[0], format=kind
    )
    if kind == "PNG":
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, upright[..., 3])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"junk", b"II*\0", b"II*\0\xff\xff", b"II*\0\x08\0\0\0\1"])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    data = _save(RGB, "JPEG", exif=b"Exif\0\0" + exif)
    assert decode(data, LIMITS).pixels.shape == (24, 31, 3)
    assert read_header(data, complete=True) == Header(width=31, height=24, format="JPEG")
    data = _png(2, 1, depth=8, colour=0, rows=[b"\0\0"], extra=_chunk(b"eXIf", exif))
    assert decode(data, LIMITS).pixels.shape == (1, 2, 3)
    assert read_header(data, complete=True) == Header(width=2, height=1, format="PNG")


def test_transparency_is_kept_apart_for_every_way_to_write_it() -> None:
    colours = _noise(24, 31)
    picture = decode(_save(Image.fromarray(colours), "PNG"), LIMITS)
    assert np.array_equal(picture.pixels, colours[..., :3])
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, colours[..., 3])
    for mode in ("RGB", "L", "1", "P"):
        assert decode(_save(RGB.convert(mode), "PNG"), LIMITS).alpha is None


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "alpha"),
    [
        (1, 0, b"\x80", ">H1", [0, 255]),
        (2, 0, b"\x60", ">H1", [0, 255]),
        (4, 0, b"\x56", ">H5", [0, 255]),
        (8, 0, b"\x05\x06", ">H5", [0, 255]),
        (16, 0, b"\x01\x2c\x01\x2d", ">H300", [0, 255]),
        (8, 2, b"\x01\x02\x03\x03\x02\x01", ">H1,2,3", [0, 255]),
        (16, 2, b"\x12\x34\x12\x34\x12\x34\x34\x34\x34\x34\x34\x34", ">H4660,4660,4660", [0, 255]),
    ],
)
def test_the_one_transparent_colour_is_found_at_every_bit_depth(
    depth: int, colour: int, row: bytes, key: str, alpha: list[int]
) -> None:
    numbers = [int(number) for number in key.removeprefix(">H").split(",")]
    chunk = _chunk(b"tRNS", struct.pack(f">{len(numbers)}H", *numbers))
    data = _png(2, 1, depth=depth, colour=colour, rows=[row], extra=chunk)
    found = decode(data, LIMITS).alpha
    assert found is not None
    assert found.tolist() == [alpha]


def test_palette_entries_may_be_half_transparent() -> None:
    palette = _chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])) + _chunk(b"tRNS", bytes([128, 64]))
    picture = decode(_png(2, 1, depth=8, colour=3, rows=[b"\0\1"], extra=palette), LIMITS)
    assert picture.pixels.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[128, 64]]


def test_a_palette_png_without_its_palette_is_corrupt() -> None:
    with pytest.raises(CorruptSource, match="palette"):
        decode(_png(2, 1, depth=8, colour=3, rows=[b"\0\1"]), LIMITS)


def test_an_empty_profile_behind_the_pixels_is_corrupt() -> None:
    data = _png(1, 1, depth=8, colour=0, rows=[b"\0"])
    with pytest.raises(CorruptSource):
        decode(data[:-12] + _chunk(b"iCCP", b"") + data[-12:], LIMITS)


def test_more_opacities_than_palette_entries_are_corrupt() -> None:
    palette = _chunk(b"PLTE", bytes(6)) + _chunk(b"tRNS", bytes([128] * 257))
    with pytest.raises(CorruptSource):
        decode(_png(2, 1, depth=8, colour=3, rows=[b"\0\1"], extra=palette), LIMITS)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    wide = np.array([[0, 127, 128, 129, 256, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    pixels = decode(_save(Image.fromarray(wide), "PNG"), LIMITS).pixels
    expected = np.round(wide / 65535 * 255)
    assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


def test_an_animated_png_is_refused_and_the_first_picture_of_an_mpo_is_taken() -> None:
    moving = _save(RGBA, "PNG", save_all=True, append_images=[RGBA.rotate(90)])
    with pytest.raises(UnsupportedFormat, match="animated"):
        read_header(moving, complete=True)
    with pytest.raises(UnsupportedFormat, match="animated"):
        decode(moving, LIMITS)
    first = decode(_save(RGB, "JPEG"), LIMITS).pixels
    assert np.array_equal(decode(FILES["jpeg-mpo"], LIMITS).pixels, first)


@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [(100, 100, True), (101, 100, False), (200, 50, True), (201, 1, False), (1, 201, False)],
)
def test_limits_hold_to_the_pixel(width: int, height: int, *, fits: bool) -> None:
    limits = SizeLimits(max_pixels=10_000, max_side=200)
    data = _save(Image.new("RGB", (width, height)), "PNG")
    if fits:
        assert decode(data, limits).pixels.shape == (height, width, 3)
        return
    with pytest.raises(TooLarge, match="TWOFOLD_MAX_PIXELS"):
        decode(data, limits)


def _bomb(side: int) -> bytes:
    return _png(side, side, depth=8, colour=2, rows=[bytes(1000)])


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize("side", [9_460, 13_000, 60_000])
def test_a_bomb_is_too_large_whether_pillow_warns_raises_or_says_nothing(
    side: int, action: str
) -> None:
    greatest = SizeLimits(max_pixels=89_478_485, max_side=2**31)
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]  # a literal, parametrized
        with pytest.raises(TooLarge):
            decode(_bomb(side), greatest)


def test_refusing_a_bomb_takes_no_memory() -> None:
    """Decoding it would take 507 MB; 64 MiB more than a process has at rest is too little."""
    script = """
import resource, sys
from pathlib import Path
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec import decode
from twofold_schema.errors import TooLarge
data = sys.stdin.buffer.read()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
try:
    decode(data, SizeLimits(max_pixels=16_000_000, max_side=8192))
except TooLarge:
    sys.exit(0)
sys.exit(1)
"""
    data = _save(Image.new("RGB", (13_000, 13_000)), "PNG")
    done = subprocess.run(
        [sys.executable, "-c", script], input=data, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_text_that_unpacks_beyond_reason_is_refused() -> None:
    packed = b"Title\0\0" + zlib.compress(bytes(50_000_000))
    for position in ("before", "after"):
        data = _png(1, 1, depth=8, colour=0, rows=[b"\0"])
        cut = -12 if position == "after" else 33
        with pytest.raises(CorruptSource):
            decode(data[:cut] + _chunk(b"zTXt", packed) + data[cut:], LIMITS)


@every_file
def test_a_cut_file_is_corrupt(data: bytes) -> None:
    # A cut within the last chunk or marker takes nothing of the picture; MPO has more behind.
    picture = 700 if data is FILES["jpeg-mpo"] else len(data) - 12
    for size in range(0, picture, 7):
        with pytest.raises(CorruptSource):
            decode(data[:size], LIMITS)


def test_any_flipped_bit_of_a_png_is_corrupt() -> None:
    """Its checksums say so, also where the pixels would still decode. IEND holds nothing."""
    data = _save(RGBA, "PNG")
    for position in range(8, len(data) - 12):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises((CorruptSource, TooLarge)):
            decode(bytes(damaged), LIMITS)


def _sealed(data: bytes) -> bytes:
    """Make a damaged PNG's checksums right again, so that the damage reaches the parsers."""
    whole, rest = data[:8], data[8:]
    while len(rest) >= 12:
        length = struct.unpack(">I", rest[:4])[0]
        whole += _chunk(rest[4:8], rest[8 : 8 + length])
        rest = rest[12 + length :]
    return whole + rest


def _keep(data: bytes) -> bytes:
    return data


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=400)
@given(
    data=st.sampled_from(list(FILES.values())),
    seed=st.integers(0, 2**32),
    cut=st.booleans(),
    seal=st.sampled_from([_sealed, _keep]),
)
def test_damage_anywhere_ends_in_a_picture_or_an_error_of_the_job(
    data: bytes, seed: int, seal: Callable[[bytes], bytes], *, cut: bool
) -> None:
    chance = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        damaged[chance.randrange(min(len(damaged), 900))] = chance.choice([0, 1, 127, 255])
    if data.startswith(b"\x89PNG"):
        damaged = bytearray(seal(bytes(damaged)))
    _survives(bytes(damaged[: chance.randrange(len(damaged))] if cut else damaged))


@pytest.mark.filterwarnings("ignore")
@given(start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]), data=st.binary())
def test_any_bytes_end_in_a_picture_or_an_error_of_the_job(start: bytes, data: bytes) -> None:
    _survives(start + data)


def _survives(data: bytes) -> None:
    try:
        picture = decode(data, LIMITS)
    except JobError:
        return
    header = read_header(data, complete=True)
    assert header is not None
    assert picture.pixels.shape == (header.height, header.width, 3)


pictures = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(pixels=pictures, more_rows=st.integers(0, 70), more_columns=st.integers(0, 70))
def test_padding_reflects_to_and_fro_from_any_size(
    pixels: NDArray[np.uint8], more_rows: int, more_columns: int
) -> None:
    def source(position: int, size: int) -> int:
        """Walk back and forth between the edges, standing on each once."""
        there_and_back: list[int] = [*range(size), *range(size - 2, 0, -1)]
        return there_and_back[position % len(there_and_back)]

    height, width = pixels.shape[0] + more_rows, pixels.shape[1] + more_columns
    rows = [source(row, pixels.shape[0]) for row in range(height)]
    columns = [source(column, pixels.shape[1]) for column in range(width)]
    padded = pad(pixels, height=height, width=width)
    assert np.array_equal(padded, pixels[np.ix_(rows, columns)])


@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_a_finished_picture_is_exactly_twice_its_source(height: int, width: int) -> None:
    upscaled = _noise(64, 64, 3)
    alpha = _noise(height, width, 1)[..., 0]
    plain = finish(upscaled, None, width=width, height=height)
    assert np.array_equal(plain, upscaled[: 2 * height, : 2 * width])
    whole = finish(upscaled, alpha, width=width, height=height)
    assert whole.shape == (2 * height, 2 * width, 4)
    assert np.array_equal(whole[..., :3], plain)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_even_opacity_stays_as_it_is_and_a_hard_edge_does_not_wrap(value: int) -> None:
    upscaled = _noise(16, 16, 3)
    even = np.full((8, 8), value, np.uint8)
    assert (finish(upscaled, even, width=8, height=8)[..., 3] == value).all()
    edge = np.repeat(np.array([[0, 0, 0, 0, 255, 255, 255, 255]], np.uint8), 8, axis=0)
    scaled = finish(upscaled, edge, width=8, height=8)[0, :, 3]
    assert (scaled[:5] < 64).all()
    assert (scaled[-5:] > 191).all()
    assert ((scaled > 0) & (scaled < 255)).any(), "not smooth"


@pytest.mark.parametrize("channels", [3, 4])
def test_an_encoded_picture_decodes_to_the_same_pixels(channels: int) -> None:
    pixels = _noise(33, 47, channels)
    encoded = encode_png(pixels)
    picture = decode(encoded, LIMITS)
    assert np.array_equal(picture.pixels, pixels[..., :3])
    if channels == 4:
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, pixels[..., 3])
    cut = encode_png(np.ascontiguousarray(pixels)[:20, :30])
    assert decode(cut, LIMITS).pixels.shape == (20, 30, 3)
