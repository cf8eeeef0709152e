"""What overflows in half precision goes well carefully, and the weights come back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.sampling import advance, decibels, load, make, of_latents, of_picture

from twofold_schema.errors import ModelOutputInvalid
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import Made, Request


@pytest.fixture(params=["bfloat16", "float16"])
def halved(request: pytest.FixtureRequest, stand_in_model: Path) -> DiffusionUpscaler:
    return load(stand_in_model, dtype=request.param)


def _make(upscaler: DiffusionUpscaler, request: Request, *, careful: bool) -> Made:
    sample = upscaler.begin(request, careful=careful)
    advance(upscaler, [sample], rung=1)
    return upscaler.finish(sample)


def _weights(upscaler: DiffusionUpscaler) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in upscaler._vae.state_dict().items()}


def _assert_same(weights: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> None:
    for name, weight in before.items():
        assert weights[name].dtype == weight.dtype
        assert torch.equal(weights[name], weight)


def test_the_autoencoder_works_in_single_precision_and_its_weights_come_back(
    halved: DiffusionUpscaler,
) -> None:
    seen: list[torch.dtype] = []

    def look(_module: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.extend((inputs[0].dtype, output.dtype))

    for part in (halved._vae.encoder, halved._vae.decoder):
        part.register_forward_hook(look)
    before = _weights(halved)
    plain = _make(halved, of_picture(1), careful=False)
    assert seen == [halved.dtype] * 4
    careful = _make(halved, of_picture(1), careful=True)
    assert seen[4:] == [torch.float32] * 4
    _assert_same(_weights(halved), before)
    assert decibels(plain.pixels, careful.pixels) > 30
    again = _make(halved, of_picture(1), careful=False)
    assert np.array_equal(again.pixels, plain.pixels)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("none left"), RuntimeError("unforeseen")])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_weights_come_back_when_it_fails(
    halved: DiffusionUpscaler, part: str, error: Exception
) -> None:
    before = _weights(halved)

    def fail(*_: object) -> None:
        raise error

    hook = getattr(halved._vae, part).register_forward_hook(fail)
    with pytest.raises(Exception, match=str(error)):
        _make(halved, of_picture(1), careful=True)
    hook.remove()
    _assert_same(_weights(halved), before)


def test_a_careful_try_is_not_logged_as_if_something_were_wrong(
    halved: DiffusionUpscaler, diffusers_log: pytest.LogCaptureFixture
) -> None:
    _make(halved, of_picture(1), careful=True)
    assert diffusers_log.text == ""


@pytest.fixture
def overflowing(stand_in_model: Path, request: pytest.FixtureRequest) -> list[DiffusionUpscaler]:
    """Engines whose autoencoder's values are too large for float16, in it and in float32."""
    engines = [load(stand_in_model, dtype=dtype) for dtype in ("float16", "float32")]
    for engine in engines:
        first = getattr(engine._vae, request.param).conv_in
        # A norm follows: what survives this is as small as ever.
        first.weight.data *= 2.0**18
        first.bias.data *= 2.0**18
    return engines


def _is_refused(upscaler: DiffusionUpscaler, request: Request) -> None:
    with pytest.raises(ModelOutputInvalid):
        _make(upscaler, request, careful=False)


@pytest.mark.parametrize("overflowing", ["encoder", "decoder"], indirect=True)
def test_a_picture_that_overflows_fails_plainly_and_goes_well_carefully(
    overflowing: list[DiffusionUpscaler],
) -> None:
    half, single = overflowing
    _is_refused(half, of_picture(1))
    made = _make(half, of_picture(1), careful=True)
    (sound,) = make(single, [of_picture(1)], rung=1)
    assert decibels(made.pixels, sound.pixels) > 40
    _is_refused(half, of_picture(1))


@pytest.mark.parametrize("overflowing", ["decoder"], indirect=True)
def test_latents_whose_view_overflows_go_well_carefully(
    overflowing: list[DiffusionUpscaler],
) -> None:
    half, _ = overflowing
    _is_refused(half, of_latents(1, wants_latents=True))
    assert _make(half, of_latents(1, wants_latents=True), careful=True).latents is not None


def test_in_single_precision_careful_changes_nothing(upscaler: DiffusionUpscaler) -> None:
    plain, careful = (_make(upscaler, of_picture(1), careful=how) for how in (False, True))
    assert np.array_equal(plain.pixels, careful.pixels)
