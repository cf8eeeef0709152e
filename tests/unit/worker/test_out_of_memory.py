"""Whenever memory runs out, the samples are where they were, and the next try is sound."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.limited_memory import LimitedMemory
from tests.sampling import advance, load, of_latents, of_picture

from twofold_worker.upscaler.diffusion import DiffusionSample, DiffusionUpscaler
from twofold_worker.upscaler.port import BatchTooLarge, Request

carefully = pytest.mark.parametrize("careful", [False, True], ids=["plainly", "carefully"])


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def upscaler(request: pytest.FixtureRequest, stand_in_model: Path) -> DiffusionUpscaler:
    return load(stand_in_model, dtype=request.param)


@pytest.fixture(autouse=True)
def _little_garbage() -> Iterator[None]:
    """Each failure collects garbage: of these tests, not of all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _failures(run: Callable[[], Any]) -> Iterator[LimitedMemory]:
    """Devices whose memory runs out at one point of a call each, from its first to its last.

    It goes well once before: what is remembered from then on is no leak.
    """
    run()
    counted = LimitedMemory()
    with counted:
        run()
    count = counted.allocations
    points = np.linspace(0, count - 1, min(count, 20)).round().astype(int)
    return (LimitedMemory(most_allocations=int(most)) for most in points)


def _run_out(limited: LimitedMemory, run: Callable[[], Any]) -> None:
    with limited, pytest.raises(BatchTooLarge) as failure:
        run()
    assert limited.live == 0, "tensors of the failed call live on"
    del failure  # who tries again may still hold it: till here


def _tensors(sample: DiffusionSample) -> list[torch.Tensor]:
    parts = [sample.conditions, sample.words, sample.times, sample.scale, *sample.schedule]
    return [sample.latents, *parts]


def _weights(upscaler: DiffusionUpscaler) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in upscaler._vae.state_dict().values()]


def _same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


@carefully
@pytest.mark.parametrize(
    "asked", [of_picture(1, guidance_scale=3.0), of_latents(1)], ids=["picture", "latents"]
)
def test_a_beginning_is_made_wholly_or_not_at_all(
    upscaler: DiffusionUpscaler, asked: Request, *, careful: bool
) -> None:
    def begin() -> DiffusionSample:
        return upscaler.begin(asked, careful=careful)

    weights, sound = _weights(upscaler), _tensors(begin())
    for limited in _failures(begin):
        _run_out(limited, begin)
        assert _same(_weights(upscaler), weights)
        assert _same(_tensors(begin()), sound)


def test_a_step_is_made_by_all_or_by_none(upscaler: DiffusionUpscaler) -> None:
    def begun() -> list[DiffusionSample]:
        first = upscaler.begin(of_picture(1, steps=90))
        upscaler.step([first], rung=4)
        return [first, upscaler.begin(of_latents(2, steps=80, guidance_scale=3.0))]

    undisturbed, samples = begun(), begun()
    spare = begun()
    for done, limited in enumerate(_failures(lambda: upscaler.step(spare, rung=4))):
        before = [_tensors(sample) for sample in samples]
        _run_out(limited, lambda: upscaler.step(samples, rung=4))
        assert [sample.step for sample in samples] == [1 + done, done]
        for sample, tensors in zip(samples, before, strict=True):
            assert _same(_tensors(sample), tensors)
        for several in (samples, undisturbed):
            upscaler.step(several, rung=4)
        for sample, other in zip(samples, undisturbed, strict=True):
            assert torch.equal(sample.latents, other.latents)


@carefully
@pytest.mark.parametrize("wants_latents", [False, True], ids=["picture", "latents"])
def test_a_sample_can_be_finished_again(
    upscaler: DiffusionUpscaler, *, wants_latents: bool, careful: bool
) -> None:
    asked = of_picture(1, steps=2, wants_latents=wants_latents)
    sample = upscaler.begin(asked, careful=careful)
    advance(upscaler, [sample], rung=1)
    weights, before, sound = _weights(upscaler), _tensors(sample), upscaler.finish(sample)
    for limited in _failures(lambda: upscaler.finish(sample)):
        _run_out(limited, lambda: upscaler.finish(sample))
        assert _same(_weights(upscaler), weights)
        assert _same(_tensors(sample), before)
        again = upscaler.finish(sample)
        assert np.array_equal(again.pixels, sound.pixels)
        assert np.array_equal(again.latents, sound.latents)  # type: ignore[arg-type]


def test_what_does_not_fit_a_limit_fits_a_smaller_batch(upscaler: DiffusionUpscaler) -> None:
    samples = [upscaler.begin(of_latents(number)) for number in range(4)]
    alone = LimitedMemory()
    with alone:
        upscaler.step(samples[:1], rung=1)
    limited = LimitedMemory(2 * alone.peak)
    with limited, pytest.raises(BatchTooLarge):
        upscaler.step(samples, rung=4)
    with limited:
        for sample in samples:
            upscaler.step([sample], rung=1)
    assert [sample.step for sample in samples] == [2, 1, 1, 1]
