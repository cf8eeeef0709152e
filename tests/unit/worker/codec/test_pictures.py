"""Untrusted bytes become pictures within limits, or an error of the job; never anything else."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin
from tests.inputs.files import chunk, png, saved, turned, webp_canvas

from twofold_schema.errors import (
    CorruptSource,
    JobError,
    TooLarge,
    UnsupportedFormat,
)
from twofold_schema.formats import SourceFormat, sniff
from twofold_schema.lanes import SizeLimits
from twofold_worker.codec.source import Header, Latents, Picture, read_header
from twofold_worker.codec.source import decode as decode_any

LIMITS = SizeLimits(max_pixels=1_000_000, max_side=4096)


def decode(data: bytes, limits: SizeLimits) -> Picture:
    """A file that is known to be a picture's, if anything's."""
    decoded = decode_any(data, limits)
    assert isinstance(decoded, Picture)
    return decoded


def _noise(height: int, width: int, channels: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


RGBA = Image.fromarray(_noise(24, 31))
RGB = RGBA.convert("RGB")
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Title", "of a picture", zip=True)
FILES = {
    "png": saved(RGBA, "PNG", pnginfo=TEXT, exif=turned(6), icc_profile=b"x" * 300),
    "png-palette": saved(RGBA.convert("P"), "PNG", transparency=3),
    "png-16-bit": saved(Image.fromarray(_noise(24, 31)[..., 0].astype(np.uint16) * 257), "PNG"),
    "jpeg": saved(RGB, "JPEG", exif=turned(6), icc_profile=b"x" * 300),
    "jpeg-progressive": saved(RGB, "JPEG", progressive=True),
    "jpeg-cmyk": saved(RGB.convert("CMYK"), "JPEG"),
    "webp": saved(RGB, "WEBP", quality=90),
    "webp-lossless": saved(RGBA, "WEBP", lossless=True, exact=True),
    "webp-turned": saved(RGBA, "WEBP", exif=turned(6), icc_profile=b"x" * 300),
    "webp-turned-by-xmp": saved(RGBA, "WEBP", xmp=b'<x tiff:Orientation="6"/>'),
    "jpeg-mpo": saved(RGB, "MPO", save_all=True, append_images=[RGB]),
}
STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\x80\0\0\0WEBPVP8X",
    b"RIFF\x80\0\0\0WEBPVP8L",
    b"\x93NUMPY\x01\0",
    b"\x40\0\0\0\0\0\0\0{",
]
every_file = pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())


@every_file
def test_the_header_agrees_with_the_decoded_picture(data: bytes) -> None:
    header = read_header(data, complete=True)
    picture = decode(data, LIMITS)
    assert header is not None
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == (header.height, header.width, 3)
    assert picture.alpha is None or picture.alpha.shape == picture.pixels.shape[:2]
    assert header.format is sniff(data)


@pytest.mark.parametrize("name", ["webp-turned", "webp-turned-by-xmp"])
def test_a_webp_that_may_be_turned_asks_for_all_its_bytes(name: str) -> None:
    """Its orientation stands behind its pixels."""
    data = FILES[name]
    assert read_header(data, complete=True) == Header(width=24, height=31, format=SourceFormat.WEBP)
    assert {read_header(data[:size], complete=False) for size in range(len(data))} == {None}


@pytest.mark.parametrize(
    "data", [data for name, data in FILES.items() if not name.startswith("webp-turned")]
)
def test_the_first_bytes_give_the_header_or_ask_for_more_and_never_a_wrong_one(data: bytes) -> None:
    whole = read_header(data, complete=True)
    answers = [read_header(data[:size], complete=False) for size in range(len(data) + 1)]
    known = next(size for size, answer in enumerate(answers) if answer is not None)
    assert answers[:known] == [None] * known
    assert answers[known:] == [whole] * (len(data) + 1 - known)
    assert known < len(data)


@every_file
def test_a_cut_header_of_a_complete_file_is_corrupt(data: bytes) -> None:
    for size in range(30):
        with pytest.raises(CorruptSource):
            read_header(data[:size], complete=True)


@pytest.mark.parametrize(
    "data", [b"GIF89a" + bytes(6), b"RIFF....WAVE....", b"\x89PNX" + bytes(8), b"<svg></svg> "]
)
@pytest.mark.parametrize("complete", [True, False])
def test_other_formats_are_refused_from_their_first_bytes(data: bytes, *, complete: bool) -> None:
    with pytest.raises(UnsupportedFormat):
        read_header(data, complete=complete)
    with pytest.raises(UnsupportedFormat):
        decode(data, LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_pillow_turns_them(kind: str, orientation: int) -> None:
    source = RGB if kind == "JPEG" else RGBA
    data = saved(source, kind, exif=turned(orientation))
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    picture = decode(data, LIMITS)
    assert np.array_equal(picture.pixels, upright[..., :3])
    assert read_header(data, complete=True) == Header(
        width=upright.shape[1], height=upright.shape[0], format=SourceFormat(kind.lower())
    )
    if kind != "JPEG":
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, upright[..., 3])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"junk", b"II*\0", b"II*\0\xff\xff", b"II*\0\x08\0\0\0\1"])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    data = saved(RGB, "JPEG", exif=b"Exif\0\0" + exif)
    assert decode(data, LIMITS).pixels.shape == (24, 31, 3)
    assert read_header(data, complete=True) == Header(width=31, height=24, format=SourceFormat.JPEG)
    data = png(2, 1, depth=8, colour=0, rows=[b"\0\0"], before=chunk(b"eXIf", exif))
    assert decode(data, LIMITS).pixels.shape == (1, 2, 3)
    assert read_header(data, complete=True) == Header(width=2, height=1, format=SourceFormat.PNG)


def test_transparency_is_kept_apart_for_every_way_to_write_it() -> None:
    colours = _noise(24, 31)
    picture = decode(saved(Image.fromarray(colours), "PNG"), LIMITS)
    assert np.array_equal(picture.pixels, colours[..., :3])
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, colours[..., 3])
    for mode in ("RGB", "L", "1", "P"):
        assert decode(saved(RGB.convert(mode), "PNG"), LIMITS).alpha is None


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
        (16, 2, b"\x12\x34\x12\x34\x12\x34\x12\x34\x12\x34\x12\x35", ">H4660,4660,4660", [0, 255]),
    ],
)
def test_the_one_transparent_colour_is_found_at_every_bit_depth(
    depth: int, colour: int, row: bytes, key: str, alpha: list[int]
) -> None:
    numbers = [int(number) for number in key.removeprefix(">H").split(",")]
    transparent = chunk(b"tRNS", struct.pack(f">{len(numbers)}H", *numbers))
    data = png(2, 1, depth=depth, colour=colour, rows=[row], before=transparent)
    found = decode(data, LIMITS).alpha
    assert found is not None
    assert found.tolist() == [alpha]


def test_palette_entries_may_be_half_transparent() -> None:
    palette = chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])) + chunk(b"tRNS", bytes([128, 64]))
    picture = decode(png(2, 1, depth=8, colour=3, rows=[b"\0\1"], before=palette), LIMITS)
    assert picture.pixels.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[128, 64]]


def test_a_palette_png_without_its_palette_is_corrupt() -> None:
    with pytest.raises(CorruptSource, match="palette"):
        decode(png(2, 1, depth=8, colour=3, rows=[b"\0\1"]), LIMITS)


def test_an_empty_profile_behind_the_pixels_is_corrupt() -> None:
    data = png(1, 1, depth=8, colour=0, rows=[b"\0"])
    with pytest.raises(CorruptSource):
        decode(data[:-12] + chunk(b"iCCP", b"") + data[-12:], LIMITS)


def test_more_opacities_than_palette_entries_are_corrupt() -> None:
    palette = chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", bytes([128] * 257))
    with pytest.raises(CorruptSource):
        decode(png(2, 1, depth=8, colour=3, rows=[b"\0\1"], before=palette), LIMITS)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    wide = np.array([[0, 127, 128, 129, 256, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    pixels = decode(saved(Image.fromarray(wide), "PNG"), LIMITS).pixels
    expected = np.round(wide / 65535 * 255)
    assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


def test_an_animated_png_is_refused_and_the_first_picture_of_an_mpo_is_taken() -> None:
    moving = saved(RGBA, "PNG", save_all=True, append_images=[RGBA.rotate(90)])
    with pytest.raises(UnsupportedFormat, match="animated"):
        read_header(moving, complete=True)
    with pytest.raises(UnsupportedFormat, match="animated"):
        decode(moving, LIMITS)
    first = decode(saved(RGB, "JPEG"), LIMITS).pixels
    assert np.array_equal(decode(FILES["jpeg-mpo"], LIMITS).pixels, first)


@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [(100, 100, True), (101, 100, False), (200, 50, True), (201, 1, False), (1, 201, False)],
)
def test_limits_hold_to_the_pixel(width: int, height: int, *, fits: bool) -> None:
    limits = SizeLimits(max_pixels=10_000, max_side=200)
    data = saved(Image.new("RGB", (width, height)), "PNG")
    if fits:
        assert decode(data, limits).pixels.shape == (height, width, 3)
        return
    with pytest.raises(TooLarge, match="TWOFOLD_MAX_PIXELS"):
        decode(data, limits)


def _bomb(side: int) -> bytes:
    return png(side, side, depth=8, colour=2, rows=[bytes(1000)])


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


def test_a_webp_is_judged_by_its_canvas_before_anybody_makes_room_for_it() -> None:
    assert read_header(webp_canvas(16_384, 9), complete=False) == Header(
        width=16_384, height=9, format=SourceFormat.WEBP
    )
    with pytest.raises(TooLarge):
        decode(webp_canvas(16_384, 16_384), LIMITS)
    with pytest.raises(UnsupportedFormat, match="animated"):
        read_header(webp_canvas(9, 9, flags=0x02), complete=False)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("webp")])
def test_the_header_of_a_webp_is_read_without_a_decoder(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder makes room for two canvases at once, a gigabyte for 86 bytes of a flat picture."""
    with Image.open(io.BytesIO(FILES[name])) as image:
        size = ImageOps.exif_transpose(image).size
    monkeypatch.setattr(Image, "open", None)
    header = read_header(FILES[name], complete=True)
    assert header is not None
    assert (header.width, header.height) == size


def test_only_what_the_flags_of_a_webp_announce_can_turn_it() -> None:
    """As libwebp has it; else the header would say another size than the picture has."""
    both = bytearray(saved(RGBA, "WEBP", exif=turned(6), xmp=b'<x tiff:Orientation="3"/>'))
    flags = both.index(b"VP8X") + 8
    for announced, size in ((0x0C, (24, 31)), (0x08, (24, 31)), (0x04, (31, 24)), (0, (31, 24))):
        both[flags] = both[flags] & ~0x0C | announced
        header = read_header(bytes(both), complete=True)
        assert header is not None
        assert (header.width, header.height) == decode(bytes(both), LIMITS).pixels.shape[1::-1]
        assert (header.width, header.height) == size


def test_a_canvas_that_is_not_its_pictures_is_corrupt() -> None:
    """Else the lane would be of one size and the pixels of another."""
    small = saved(RGB, "WEBP")
    grown = webp_canvas(64, 64) + small[12:]
    whole = grown[:4] + struct.pack("<I", len(grown) - 8) + grown[8:]
    with pytest.raises(CorruptSource):
        decode(whole, LIMITS)


@pytest.mark.parametrize("name", [b"exif", b"xmp", b"icc_profile", b"transparency"])
@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
def test_a_text_is_never_taken_for_what_pillow_keeps_under_its_name(
    name: bytes, colour: int
) -> None:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    for text in (chunk(b"tEXt", name + b"\0a cat"), chunk(b"iTXt", name + b"\0\0\0\0\0a cat")):
        for where in ({"before": palette + text}, {"before": palette, "behind": text}):
            data = png(2, 1, depth=8, colour=colour, rows=[bytes(2 * channels)], **where)
            picture = decode(data, LIMITS)
            assert picture.pixels.tolist() == [[[0, 0, 0], [0, 0, 0]]]
            assert (picture.alpha is None) == (colour in {0, 2, 3})
            assert read_header(data, complete=True) is not None


def test_text_that_unpacks_beyond_reason_is_refused() -> None:
    packed = b"Title\0\0" + zlib.compress(bytes(50_000_000))
    for position in ("before", "after"):
        data = png(1, 1, depth=8, colour=0, rows=[b"\0"])
        cut = -12 if position == "after" else 33
        with pytest.raises(CorruptSource):
            decode(data[:cut] + chunk(b"zTXt", packed) + data[cut:], LIMITS)


@every_file
def test_a_cut_file_is_corrupt(data: bytes) -> None:
    # A cut within the last chunk or marker takes nothing of the picture; MPO has more behind.
    picture = 700 if data is FILES["jpeg-mpo"] else len(data) - 12
    for size in range(0, picture, 7):
        with pytest.raises(CorruptSource):
            decode(data[:size], LIMITS)


def test_any_flipped_bit_of_a_png_is_corrupt() -> None:
    """Its checksums say so, also where the pixels would still decode. IEND holds nothing."""
    data = saved(RGBA, "PNG")
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
        whole += chunk(rest[4:8], rest[8 : 8 + length])
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
@given(start=st.sampled_from(STARTS), data=st.binary())
def test_any_bytes_end_in_a_picture_or_an_error_of_the_job(start: bytes, data: bytes) -> None:
    _survives(start + data)


def _survives(data: bytes) -> None:
    try:
        decoded = decode_any(data, LIMITS)
    except JobError:
        return
    header = read_header(data, complete=True)
    assert header is not None
    assert decoded.size == (header.width, header.height)
    if isinstance(decoded, Latents):
        assert np.isfinite(decoded.values).all()
