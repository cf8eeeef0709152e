"""What every upscaler promises: the real one over the stand-in model, and the tests' own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.upscalers import NearestUpscaler

from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import Made, Pixels, Slot, Upscaler


@pytest.fixture(scope="module", params=["nearest", "diffusion"])
def upscaler(request: pytest.FixtureRequest) -> Upscaler:
    if request.param == "nearest":
        return NearestUpscaler()
    model: Path = request.getfixturevalue("stand_in_model")
    return DiffusionUpscaler.load(str(model), revision=None, device="cpu", dtype="float32")


def slot(number: int, *, height: int = 64, width: int = 64) -> Slot:
    random = np.random.default_rng(number)
    return Slot(source=random.integers(0, 256, (height, width, 3), np.uint8), seed=number)


def pictures(
    upscaler: Upscaler,
    slots: list[Slot],
    *,
    rung: int | None = None,
    steps: int = 1,
    guidance_scale: float = 0.0,
    on_step: Callable[[], None] = lambda: None,
) -> list[Pixels]:
    answers = upscaler.upscale(
        slots,
        rung=len(slots) if rung is None else rung,
        steps=steps,
        guidance_scale=guidance_scale,
        on_step=on_step,
    )
    assert all(isinstance(answer, Made) for answer in answers), answers
    return [answer.pixels for answer in answers if isinstance(answer, Made)]


def test_it_says_what_it_is(upscaler: Upscaler) -> None:
    assert upscaler.name
    assert upscaler.revision


def test_it_warms_up_before_the_first_job(upscaler: Upscaler) -> None:
    upscaler.warm_up()


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
def test_pictures_are_twice_the_size(upscaler: Upscaler, guidance_scale: float) -> None:
    (picture,) = pictures(upscaler, [slot(1, height=64, width=128)], guidance_scale=guidance_scale)
    assert picture.shape == (128, 256, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("from_latents", [False, True])
def test_latents_are_given_to_whom_wants_them_and_the_picture_to_others(
    upscaler: Upscaler, *, from_latents: bool
) -> None:
    source = np.zeros((4, 8, 16), np.float32) if from_latents else np.zeros((64, 128, 3), np.uint8)
    answers = upscaler.upscale(
        [Slot(source=source, seed=1), Slot(source=source, seed=1, wants_latents=True)],
        rung=2,
        steps=1,
        guidance_scale=0.0,
        on_step=lambda: None,
    )
    picture, latents = (answer for answer in answers if isinstance(answer, Made))
    assert picture.latents is None
    assert picture.pixels.shape == (128, 256, 3)
    assert latents.latents is not None
    assert latents.latents.shape == (4, 16, 32)
    assert latents.latents.dtype == np.float32
    rows, columns, _ = latents.pixels.shape
    assert latents.pixels.dtype == np.uint8
    assert columns == 2 * rows


def test_every_slot_is_answered_in_order(upscaler: Upscaler) -> None:
    slots = [slot(number) for number in range(4)]
    forwards = pictures(upscaler, slots)
    backwards = pictures(upscaler, slots[::-1])
    assert len({picture.tobytes() for picture in forwards}) == 4
    for picture, same in zip(forwards, backwards[::-1], strict=True):
        np.testing.assert_array_equal(picture, same)


def test_empty_places_of_a_rung_are_not_answered(upscaler: Upscaler) -> None:
    assert len(pictures(upscaler, [slot(1)], rung=2)) == 1


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
def test_at_the_pinned_rung_a_picture_is_the_same_alone_or_in_company(
    upscaler: Upscaler, guidance_scale: float
) -> None:
    alone = pictures(upscaler, [slot(1)], rung=4, guidance_scale=guidance_scale)
    company = pictures(upscaler, [slot(2), slot(3), slot(1)], rung=4, guidance_scale=guidance_scale)
    np.testing.assert_array_equal(alone[0], company[2])


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_it_gives_a_sign_of_life_after_every_step(
    upscaler: Upscaler, steps: int, guidance_scale: float
) -> None:
    signs: list[None] = []
    pictures(
        upscaler,
        [slot(1), slot(2)],
        steps=steps,
        guidance_scale=guidance_scale,
        on_step=lambda: signs.append(None),
    )
    assert len(signs) == steps


def test_sources_are_left_as_they_are(upscaler: Upscaler) -> None:
    given = slot(1)
    before = given.source.copy()
    pictures(upscaler, [given])
    np.testing.assert_array_equal(given.source, before)


@pytest.mark.parametrize(("count", "rung"), [(2, 1), (4, 3), (0, 1)])
def test_slots_that_do_not_fit_the_rung_are_refused(
    upscaler: Upscaler, count: int, rung: int
) -> None:
    with pytest.raises(ValueError, match="do not fit a rung"):
        pictures(upscaler, [slot(number) for number in range(count)], rung=rung)
