"""What every upscaler promises: the real one over the stand-in model, and the tests' own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.sampling import advance, load, make, of_latents, of_picture
from tests.upscalers import NearestUpscaler

from twofold_worker.upscaler.port import Latents, Pixels, Request, Sample, Upscaler

guidance = pytest.mark.parametrize("guidance_scale", [0.0, 3.0])


@pytest.fixture(scope="module", params=["nearest", "diffusion"])
def upscaler(request: pytest.FixtureRequest) -> Upscaler:
    if request.param == "nearest":
        return NearestUpscaler()
    model: Path = request.getfixturevalue("stand_in_model")
    return load(model)


def test_it_says_what_it_is(upscaler: Upscaler) -> None:
    assert upscaler.name
    assert upscaler.revision


def test_it_warms_up_before_the_first_job(upscaler: Upscaler) -> None:
    upscaler.warm_up()


@guidance
@pytest.mark.parametrize("careful", [False, True])
def test_pictures_are_twice_the_size(
    upscaler: Upscaler, guidance_scale: float, *, careful: bool
) -> None:
    request = of_picture(1, height=64, width=128, guidance_scale=guidance_scale)
    sample = upscaler.begin(request, careful=careful)
    advance(upscaler, [sample], rung=2)
    made = upscaler.finish(sample)
    assert made.pixels.shape == (128, 256, 3)
    assert made.pixels.dtype == np.uint8
    assert made.latents is None


@pytest.mark.parametrize("of", [of_picture, of_latents])
def test_latents_are_given_to_whom_wants_them_and_the_picture_to_others(
    upscaler: Upscaler, of: Callable[..., Request]
) -> None:
    picture, latents = make(
        upscaler, [of(1, width=128, wants_latents=wants) for wants in (False, True)], rung=2
    )
    assert picture.latents is None
    assert picture.pixels.shape == (128, 256, 3)
    assert latents.latents is not None
    assert latents.latents.shape == (4, 16, 32)
    assert latents.latents.dtype == np.float32
    rows, columns, _ = latents.pixels.shape
    assert latents.pixels.dtype == np.uint8
    assert columns == 2 * rows


@guidance
def test_a_sample_is_done_after_its_steps_and_not_before(
    upscaler: Upscaler, guidance_scale: float
) -> None:
    sample = upscaler.begin(of_picture(1, steps=3, guidance_scale=guidance_scale))
    for done in range(3):
        assert sample.step == done
        assert not sample.is_done
        with pytest.raises(ValueError, match="only a sample that is done"):
            upscaler.finish(sample)
        upscaler.step([sample], rung=2)
    assert sample.is_done
    assert upscaler.finish(sample).pixels.shape == (128, 128, 3)


def test_a_step_is_a_step_for_each_wherever_it_stands(upscaler: Upscaler) -> None:
    early = upscaler.begin(of_picture(1, steps=5))
    upscaler.step([early], rung=4)
    late = upscaler.begin(of_picture(2, steps=2))
    upscaler.step([late, early], rung=4)
    assert (early.step, late.step) == (2, 1)


def test_every_sample_is_its_own_requests(upscaler: Upscaler) -> None:
    requests = [of_picture(number) for number in range(4)]
    forwards = make(upscaler, requests, rung=4)
    backwards = make(upscaler, requests[::-1], rung=4)
    assert len({made.pixels.tobytes() for made in forwards}) == 4
    for made, same in zip(forwards, backwards[::-1], strict=True):
        np.testing.assert_array_equal(made.pixels, same.pixels)


@guidance
def test_at_the_pinned_rung_a_picture_is_the_same_alone_or_in_company(
    upscaler: Upscaler, guidance_scale: float
) -> None:
    request = of_picture(1, guidance_scale=guidance_scale)
    (alone,) = make(upscaler, [request], rung=4)
    *_, company = make(upscaler, [of_latents(2), of_picture(3, steps=5), request], rung=4)
    np.testing.assert_array_equal(alone.pixels, company.pixels)


def test_a_sample_that_nobody_goes_on_with_disturbs_nobody(upscaler: Upscaler) -> None:
    (alone,) = make(upscaler, [of_picture(1)], rung=4)
    kept, dropped = upscaler.begin(of_picture(1)), upscaler.begin(of_picture(2))
    upscaler.step([dropped, kept], rung=4)
    del dropped
    advance(upscaler, [kept], rung=4)
    np.testing.assert_array_equal(upscaler.finish(kept).pixels, alone.pixels)


def test_a_finished_sample_can_be_finished_again(upscaler: Upscaler) -> None:
    sample = upscaler.begin(of_picture(1))
    advance(upscaler, [sample], rung=1)
    first, again = upscaler.finish(sample), upscaler.finish(sample)
    np.testing.assert_array_equal(first.pixels, again.pixels)


@pytest.mark.parametrize("of", [of_picture, of_latents])
def test_sources_are_left_as_they_are(upscaler: Upscaler, of: Callable[..., Request]) -> None:
    request = of(1)
    before = request.source.copy()
    make(upscaler, [request], rung=1)
    np.testing.assert_array_equal(request.source, before)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((72, 64, 3), np.uint8),
        np.zeros((64, 96, 3), np.uint8),
        np.zeros((64, 64, 2), np.uint8),
        np.zeros((4, 8, 12), np.float32),
        np.zeros((5, 8, 8), np.float32),
    ],
    ids=lambda source: str(source.shape),
)
def test_sources_off_the_lattice_are_refused(upscaler: Upscaler, source: Pixels | Latents) -> None:
    with pytest.raises(ValueError, match="lattice"):
        upscaler.begin(Request(source=source, seed=1, steps=1))


def _refused(upscaler: Upscaler, samples: list[Sample], *, rung: int, match: str) -> None:
    before = [sample.step for sample in samples]
    with pytest.raises(ValueError, match=match):
        upscaler.step(samples, rung=rung)
    assert [sample.step for sample in samples] == before


@guidance
def test_samples_that_do_not_fit_the_rung_are_refused(
    upscaler: Upscaler, guidance_scale: float
) -> None:
    samples = [
        upscaler.begin(of_latents(number, guidance_scale=guidance_scale)) for number in range(3)
    ]
    slots = samples[0].request.slots
    _refused(upscaler, [], rung=1, match="do not fit a rung")
    _refused(upscaler, samples, rung=3 * slots - 1, match="do not fit a rung")
    upscaler.step(samples, rung=3 * slots)


def test_samples_that_a_step_would_spoil_are_refused(upscaler: Upscaler) -> None:
    small, wide = upscaler.begin(of_latents(1)), upscaler.begin(of_latents(2, width=128))
    done = upscaler.begin(of_latents(3, steps=1))
    upscaler.step([done], rung=1)
    _refused(upscaler, [small, wide], rung=2, match="of one size")
    _refused(upscaler, [done], rung=2, match="done, or there twice")
    _refused(upscaler, [small, done], rung=2, match="done, or there twice")
    _refused(upscaler, [small, small], rung=2, match="done, or there twice")
