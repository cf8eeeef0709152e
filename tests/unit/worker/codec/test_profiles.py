"""Colours mean what their profile says, and become sRGB."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.inputs import profiles
from tests.inputs.files import faded, saved, scene

from twofold_schema.lanes import SizeLimits
from twofold_worker.codec.source import Picture, decode

LIMITS = SizeLimits(max_pixels=1_000_000, max_side=4096)


def decoded(data: bytes) -> Picture:
    """The picture in a file."""
    picture = decode(data, LIMITS)
    assert isinstance(picture, Picture)
    return picture


def colour(mode: str, value: tuple[int, ...] | int, profile: bytes, kind: str) -> NDArray[np.uint8]:
    """What one colour becomes."""
    options = {"lossless": True} if kind == "WEBP" else {}
    file = saved(Image.new(mode, (8, 8), value), kind, icc_profile=profile, **options)
    pixel: NDArray[np.uint8] = decoded(file).pixels[4, 4]
    return pixel


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_wider_space_is_converted(kind: str) -> None:
    """By the matrices of CSS Color 4, from gamma 2.2: (200, 100, 50) is (216.3, 92.5, 23.6)."""
    found = colour("RGB", (200, 100, 50), profiles.display_p3(), kind)
    np.testing.assert_allclose(found, (216, 93, 24), atol=1)
    assert colour("RGB", (255, 255, 255), profiles.display_p3(), kind).tolist() == [255] * 3


def test_grey_with_a_profile_of_its_own_is_converted() -> None:
    """Half the light is 188 of 255 in sRGB (IEC 61966-2-1)."""
    found = colour("L", 128, profiles.linear_grey(), "PNG")
    np.testing.assert_allclose(found, (188, 188, 188), atol=1)


def test_wide_grey_is_converted_too() -> None:
    wide = np.full((8, 8), 128 * 257, np.uint16)
    file = saved(Image.fromarray(wide), "PNG", icc_profile=profiles.linear_grey())
    np.testing.assert_allclose(decoded(file).pixels[4, 4], (188, 188, 188), atol=1)


def test_ink_is_converted_by_the_profile_of_its_press() -> None:
    cyan = (255, 0, 0, 0)
    plain = decoded(saved(Image.new("CMYK", (8, 8), cyan), "JPEG", quality=100)).pixels[4, 4]
    pressed = colour("CMYK", cyan, profiles.inks(), "JPEG")
    np.testing.assert_allclose(plain, (0, 255, 255), atol=3)
    assert pressed[1] > pressed[2] + 60, "this press's cyan is green"


def test_transparency_is_no_colour_and_stays() -> None:
    image = faded(scene(32, 16))
    plain = decoded(saved(image, "PNG"))
    converted = decoded(saved(image, "PNG", icc_profile=profiles.display_p3()))
    assert plain.alpha is not None
    assert converted.alpha is not None
    assert np.array_equal(plain.alpha, converted.alpha)
    assert not np.array_equal(plain.pixels, converted.pixels)


def test_grey_with_transparency_is_converted_as_grey() -> None:
    image = Image.new("LA", (8, 8), (128, 100))
    picture = decoded(saved(image, "PNG", icc_profile=profiles.linear_grey()))
    np.testing.assert_allclose(picture.pixels[4, 4], (188, 188, 188), atol=1)


@pytest.mark.parametrize(
    "profile",
    [b"x" * 300, b"\0", profiles.display_p3()[:200], profiles.linear_grey(), profiles.inks()],
    ids=["noise", "byte", "cut", "of grey", "of ink"],
)
def test_a_profile_that_is_damaged_or_of_other_pixels_changes_nothing(profile: bytes) -> None:
    assert colour("RGB", (200, 100, 50), profile, "PNG").tolist() == [200, 100, 50]
