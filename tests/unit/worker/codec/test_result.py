"""From what the model made to files: twice the size, transparency back, each format true."""

import io
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tests.inputs.files import scene

from twofold_schema.formats import ResultFormat, SourceFormat
from twofold_schema.job import Output
from twofold_schema.lanes import SizeLimits, padded
from twofold_worker.codec import latents
from twofold_worker.codec.result import encode, finish, finish_latents, preview, without_padding
from twofold_worker.codec.source import Picture, decode

LIMITS = SizeLimits(max_pixels=4_000_000, max_side=4096)
LOSSLESS = [ResultFormat.PNG, ResultFormat.WEBP_LOSSLESS]
LOSSY = [ResultFormat.WEBP, ResultFormat.JPEG]


def _noise(height: int, width: int, channels: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _decoded(data: bytes) -> Picture:
    decoded = decode(data, LIMITS)
    assert isinstance(decoded, Picture)
    return decoded


def _psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


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
@pytest.mark.parametrize("form", LOSSLESS)
def test_a_lossless_picture_decodes_to_the_same_pixels(form: ResultFormat, channels: int) -> None:
    """Also the colours of what is wholly transparent, and a view that is not contiguous."""
    pixels = _noise(40, 50, channels)
    if channels == 4:
        pixels[:10, :, 3] = 0
    for view in (pixels, pixels[:20, :30]):
        picture = _decoded(encode(view, Output(format=form)))
        assert np.array_equal(picture.pixels, view[..., :3])
        if channels == 4:
            assert picture.alpha is not None
            assert np.array_equal(picture.alpha, view[..., 3])


@pytest.mark.parametrize("form", LOSSY)
def test_quality_is_heard(form: ResultFormat) -> None:
    pixels = np.asarray(scene(128, 96))
    files = [encode(pixels, Output(format=form, quality=quality)) for quality in (20, 60, 90, 100)]
    likeness = [_psnr(_decoded(file).pixels, pixels) for file in files]
    assert [len(file) for file in files] == sorted(len(file) for file in files)
    assert likeness == sorted(likeness)
    assert likeness[2] > 30


def test_a_lossy_webp_keeps_transparency() -> None:
    pixels = np.dstack([np.asarray(scene(64, 48)), _noise(48, 64, 1)])
    alpha = _decoded(encode(pixels, Output(format=ResultFormat.WEBP))).alpha
    assert alpha is not None
    assert np.array_equal(alpha, pixels[..., 3])


def test_what_is_transparent_becomes_white_in_a_jpeg() -> None:
    pixels = np.zeros((16, 48, 4), np.uint8)
    pixels[:, :16, 3], pixels[:, 16:32, 3] = 255, 128
    shown = _decoded(encode(pixels, Output(format=ResultFormat.JPEG, quality=100))).pixels
    assert [int(shown[8, x, 0]) for x in (8, 24, 40)] == pytest.approx([0, 127, 255], abs=2)


def test_the_file_is_what_its_format_says() -> None:
    for form in ResultFormat:
        if form is ResultFormat.LATENTS:
            with pytest.raises(ValueError, match="no picture"):
                encode(_noise(8, 8, 3), Output(format=form))
            continue
        with Image.open(io.BytesIO(encode(_noise(8, 8, 3), Output(format=form)))) as image:
            assert image.get_format_mimetype() == form.media_type


@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_finished_latents_cover_the_picture_and_no_whole_latent_more(
    height: int, width: int
) -> None:
    upscaled = np.zeros((4, padded(height) // 4, padded(width) // 4), np.float32)
    _, rows, columns = finish_latents(upscaled, width=width, height=height).shape
    assert 0 <= 8 * rows - 2 * height < 8
    assert 0 <= 8 * columns - 2 * width < 8


def test_latents_are_taken_back_as_they_were_given() -> None:
    """So that one job's result can be another one's source."""
    values = np.random.default_rng(1).standard_normal((4, 9, 17), dtype=np.float32)
    data = latents.encode(values[:, :, :16], width=130, height=65)
    assert np.array_equal(latents.decode(data, SourceFormat.SAFETENSORS, LIMITS), values[..., :16])


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1024, 768, (256, 192)), (100, 60, (100, 60)), (4000, 2, (256, 1)), (2, 4000, (1, 256))],
)
def test_a_preview_keeps_the_ratio_and_is_never_larger(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    data = preview(_noise(height, width), width=width, height=height, side=256)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == ("WEBP", expected, "RGBA")


def test_the_view_of_padded_latents_loses_the_paddings_share() -> None:
    view = _noise(32, 32, 3)
    assert without_padding(view, width=64, height=64).shape == (32, 32, 3)
    assert without_padding(view, width=32, height=1).shape == (1, 16, 3)


def _pause(work: Callable[[], object]) -> float:
    """The longest of the usual pauses of a thread that needs the GIL while another one works.

    Seconds; all but the slowest tenth, because any thread is put aside now and then.
    """
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    pauses = []
    for _ in range(3000):
        began = time.perf_counter()
        time.sleep(0)  # gives the GIL away and takes it back
        pauses.append(time.perf_counter() - began)
    stop.set()
    thread.join()
    return float(np.quantile(pauses, 0.9))


def test_no_encoder_holds_the_gil_as_pillows_jpeg_does() -> None:
    """The thread that feeds the device needs it a thousand times a step. A ratio, taken in one run.

    Pillow's JPEG encoder, which is not used, shows that the yardstick works.
    """
    pixels = np.asarray(scene(1024, 1024))
    image = Image.fromarray(pixels)
    held = _pause(lambda: image.save(io.BytesIO(), "JPEG", quality=90))
    for form in ResultFormat:
        if form is not ResultFormat.LATENTS:
            assert _pause(partial(encode, pixels, Output(format=form))) < held / 4, form
    assert _pause(lambda: preview(pixels, width=1024, height=1024, side=256)) < held / 4
