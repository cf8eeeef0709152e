"""The sampling loop is the stock pipeline's: on a CPU in single precision to the bit."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionLatentUpscalePipeline
from PIL import Image
from tests.sampling import advance, decibels, load, make, of_latents, of_picture

from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import Pixels, Request


class Stock:
    """What diffusers makes of the same requests with the same weights."""

    def __init__(self, model: Path) -> None:
        # diffusers hides its pipelines' methods and parts from type checkers.
        self._pipeline: Any = StableDiffusionLatentUpscalePipeline.from_pretrained(
            model, use_safetensors=True, local_files_only=True
        )
        self._pipeline.set_progress_bar_config(disable=True)

    def make(self, requests: Sequence[Request]) -> tuple[torch.Tensor, list[Pixels]]:
        """Their last latents, and the pictures of these."""
        latents: list[torch.Tensor] = []
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        alone = len(requests) == 1
        pictures = self._pipeline(
            prompt=[request.prompt for request in requests],
            negative_prompt=[request.negative_prompt for request in requests],
            image=self._images(requests, generators),
            num_inference_steps=requests[0].steps,
            guidance_scale=requests[0].guidance_scale,
            generator=generators,
            output_type="pil" if alone else "latent",
            callback=lambda _step, _time, now: latents.append(now),
        ).images
        # The autoencoder's last bits depend on the size of its batch, and ours has one picture.
        shown = pictures if alone else [self._shown(row) for row in latents[-1].split(1)]
        return latents[-1], [np.asarray(picture) for picture in shown]

    def _images(self, requests: Sequence[Request], generators: list[torch.Generator]) -> Any:
        if requests[0].source.dtype == np.float32:
            return torch.from_numpy(np.stack([request.source for request in requests]))
        pictures = [Image.fromarray(request.source) for request in requests]
        if len(pictures) == 1:
            return pictures
        # As latents, encoded one by one for the reason above; each generator goes on to the noise.
        return torch.cat([self._encoded(*pair) for pair in zip(pictures, generators, strict=True)])

    @torch.no_grad()
    def _encoded(self, picture: Image.Image, generator: torch.Generator) -> torch.Tensor:
        pipeline = self._pipeline
        told = pipeline.vae.encode(pipeline.image_processor.preprocess(picture))
        latents = told.latent_dist.sample(generator) * pipeline.vae.config.scaling_factor
        return cast("torch.Tensor", latents)

    @torch.no_grad()
    def _shown(self, latents: torch.Tensor) -> Any:
        pipeline = self._pipeline
        raw = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)
        return pipeline.image_processor.postprocess(raw[0], output_type="pil")[0]


# The engine sets torch's threads, on which last bits depend: it is loaded first.
@pytest.fixture(scope="module")
def stock(upscaler: DiffusionUpscaler, stand_in_model: Path) -> Stock:
    return Stock(stand_in_model)


def _assert_equal(upscaler: DiffusionUpscaler, stock: Stock, requests: Sequence[Request]) -> None:
    samples = [upscaler.begin(request) for request in requests]
    advance(upscaler, samples, rung=len(samples) * requests[0].slots)
    latents, pictures = stock.make(requests)
    assert torch.equal(torch.cat([sample.latents for sample in samples]), latents)
    for sample, picture in zip(samples, pictures, strict=True):
        assert np.array_equal(upscaler.finish(sample).pixels, picture)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("guidance_scale", [0.0, 0.5, 1.0, 7.5])
@pytest.mark.parametrize("source", [of_picture, of_latents])
def test_latents_and_pictures_are_those_of_the_stock_pipeline_to_the_bit(
    upscaler: DiffusionUpscaler,
    stock: Stock,
    source: Any,
    guidance_scale: float,
    steps: int,
    count: int,
) -> None:
    requests = [
        source(number, width=128, steps=steps, guidance_scale=guidance_scale)
        for number in range(count)
    ]
    _assert_equal(upscaler, stock, requests)


@pytest.mark.parametrize("prompt", ["", "é 🐈", "x" * 100 + " zebra"])
def test_every_prompt_is_read_as_the_stock_pipeline_reads_it(
    upscaler: DiffusionUpscaler, stock: Stock, prompt: str
) -> None:
    for one, other in ((prompt, "dogs"), ("dogs", prompt)):
        request = of_latents(1, guidance_scale=7.3, prompt=one, negative_prompt=other)
        _assert_equal(upscaler, stock, [request])


def test_latents_that_are_wanted_are_the_last_ones(
    upscaler: DiffusionUpscaler, stock: Stock
) -> None:
    request = of_latents(1, width=128, wants_latents=True)
    (made,) = make(upscaler, [request], rung=1)
    latents, _ = stock.make([request])
    assert made.latents is not None
    assert made.latents.dtype == np.float32
    assert np.array_equal(made.latents, latents[0].numpy())


@pytest.fixture(scope="module")
def in_bfloat16(stand_in_model: Path) -> DiffusionUpscaler:
    return load(stand_in_model, dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_noise_is_the_same_in_every_precision(
    upscaler: DiffusionUpscaler, stand_in_model: Path, dtype: str
) -> None:
    for request in (of_picture(1), of_latents(1)):
        sample = load(stand_in_model, dtype=dtype).begin(request)
        assert sample.conditions.dtype == getattr(torch, dtype)
        assert torch.equal(sample.latents, upscaler.begin(request).latents)


@pytest.mark.parametrize("rung", [2, 3, 4, 8, 16])
def test_another_rung_changes_no_picture_that_anyone_could_see(
    in_bfloat16: DiffusionUpscaler, rung: int
) -> None:
    for number in range(3):
        request = of_picture(number, width=128, steps=5)
        (pinned,) = make(in_bfloat16, [request], rung=1)
        (other,) = make(in_bfloat16, [request], rung=rung)
        assert decibels(pinned.pixels, other.pixels) >= 45
