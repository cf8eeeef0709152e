"""The promises of the diffusers engine that only a CUDA device can break."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.sampling import advance, decibels, load, make, of_latents, of_picture

from twofold_worker.upscaler.diffusion import DiffusionSample, DiffusionUpscaler
from twofold_worker.upscaler.port import BatchTooLarge, Pixels, Request

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def upscaler(request: pytest.FixtureRequest, stand_in_model: Path) -> DiffusionUpscaler:
    return load(stand_in_model, device="cuda", dtype=request.param)


def _ends(
    upscaler: DiffusionUpscaler, requests: list[Request], *, rung: int
) -> list[tuple[torch.Tensor, Pixels]]:
    samples = [upscaler.begin(request) for request in requests]
    advance(upscaler, samples, rung=rung)
    return [(sample.latents, upscaler.finish(sample).pixels) for sample in samples]


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0])
@pytest.mark.parametrize("rung", [4, 8])
def test_at_a_pinned_rung_a_sample_is_the_same_alone_and_in_any_company(
    upscaler: DiffusionUpscaler, rung: int, guidance_scale: float
) -> None:
    asked = of_picture(1, height=128, width=128, guidance_scale=guidance_scale)
    others = [
        of_latents(number, height=128, width=128, steps=1 + number)
        for number in range(rung - asked.slots)
    ]
    ((alone, picture),) = _ends(upscaler, [asked], rung=rung)
    for company in ([asked, *others], [*others, asked], [*others[1:], asked, others[0]]):
        latents, pixels = _ends(upscaler, company, rung=rung)[company.index(asked)]
        assert torch.equal(latents, alone)
        assert np.array_equal(pixels, picture)


def test_a_sample_that_comes_late_is_the_same_as_one_that_began_with_the_others(
    upscaler: DiffusionUpscaler,
) -> None:
    asked, other = of_picture(1), of_picture(2, steps=9, guidance_scale=3.0)
    ((alone, _),) = _ends(upscaler, [asked], rung=4)
    early = upscaler.begin(other)
    for _ in range(3):
        upscaler.step([early], rung=4)
    late = upscaler.begin(asked)
    upscaler.step([late, early], rung=4)
    upscaler.step([late], rung=4)
    upscaler.step([early, late], rung=4)
    assert torch.equal(late.latents, alone)


@pytest.mark.parametrize("rung", [2, 3, 8, 16])
def test_another_rung_changes_no_picture_that_anyone_could_see(
    stand_in_model: Path, rung: int
) -> None:
    upscaler = load(stand_in_model, device="cuda", dtype="bfloat16")
    for number in range(3):
        request = of_picture(number, width=128, steps=5)
        (pinned,) = make(upscaler, [request], rung=1)
        (other,) = make(upscaler, [request], rung=rung)
        assert decibels(pinned.pixels, other.pixels) >= 45


@pytest.mark.parametrize(("dtype", "least"), [("float32", 45), ("bfloat16", 30)])
def test_the_gpu_paints_the_cpus_picture(stand_in_model: Path, dtype: str, least: int) -> None:
    """The noise is the CPU's, so that only rounding differs."""
    requests = [of_picture(number, height=128, width=128, steps=5) for number in range(2)]
    pictures = [
        np.stack([made.pixels for made in make(upscaler, requests, rung=2)])
        for upscaler in (
            load(stand_in_model),
            load(stand_in_model, device="cuda", dtype=dtype),
        )
    ]
    assert decibels(*pictures) >= least


def test_auto_is_bfloat16_on_the_gpu_where_it_is_native(stand_in_model: Path) -> None:
    upscaler = load(stand_in_model, device="auto", dtype="auto")
    assert upscaler.device.type == "cuda"
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert upscaler.dtype == (torch.bfloat16 if native else torch.float16)


@pytest.fixture
def little_memory(upscaler: DiffusionUpscaler) -> Iterator[None]:
    """As much as torch has now and 256 MiB more."""
    upscaler.warm_up()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    most = torch.cuda.memory_reserved() + 2**28
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total))
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def _held(sample: DiffusionSample) -> tuple[int, torch.Tensor]:
    return sample.step, sample.latents.clone()


@pytest.mark.usefixtures("little_memory")
def test_a_step_that_does_not_fit_leaves_its_samples_and_a_smaller_one_goes_well(
    upscaler: DiffusionUpscaler,
) -> None:
    samples = [upscaler.begin(of_latents(number, height=512, width=512)) for number in range(8)]
    before = [_held(sample) for sample in samples]
    held = torch.cuda.memory_allocated()
    with pytest.raises(BatchTooLarge):
        upscaler.step(samples, rung=64)
    assert torch.cuda.memory_allocated() == held
    for sample, (step, latents) in zip(samples, before, strict=True):
        assert sample.step == step
        assert torch.equal(sample.latents, latents)
    upscaler.step(samples[:1], rung=1)
    assert samples[0].step == 1
    assert samples[0].latents.isfinite().all()


@pytest.mark.usefixtures("little_memory")
def test_a_beginning_and_an_end_that_do_not_fit_are_named_and_the_next_goes_well(
    upscaler: DiffusionUpscaler,
) -> None:
    (sound,) = make(upscaler, [of_picture(1)], rung=1)
    with pytest.raises(BatchTooLarge):
        upscaler.begin(of_picture(2, height=4096, width=4096))
    large = upscaler.begin(of_latents(3, height=2048, width=2048, steps=1))
    large.step = 1
    with pytest.raises(BatchTooLarge):
        upscaler.finish(large)
    (again,) = make(upscaler, [of_picture(1)], rung=1)
    assert np.array_equal(again.pixels, sound.pixels)


def test_the_host_runs_ahead_of_the_device_by_one_step_at_most(
    upscaler: DiffusionUpscaler,
) -> None:
    sample = upscaler.begin(of_latents(1, height=512, width=512, steps=9))
    for _ in range(9):
        upscaler.step([sample], rung=8)
        assert len(upscaler._steps_ahead) <= 1
