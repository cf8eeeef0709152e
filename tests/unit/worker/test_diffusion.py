"""The diffusers engine: what it takes, what it makes of it, and how it fails."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.sampling import advance, make, of_latents, of_picture

from twofold_schema.errors import ModelOutputInvalid
from twofold_worker.upscaler.diffusion import DiffusionSample, DiffusionUpscaler
from twofold_worker.upscaler.port import BatchTooLarge, DeviceLost, Request, Sample

guidance = pytest.mark.parametrize("guidance_scale", [0.0, 3.0])


def _of(shape: tuple[int, ...], dtype: type = np.uint8) -> Request:
    return Request(source=np.zeros(shape, dtype), seed=1, steps=1)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"prompt": "dogs"},
        {"negative_prompt": "cats"},
        {"guidance_scale": 8.0},
        {"steps": 4},
        {"source": of_picture(2).source},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_is_asked_is_each_samples_own(
    upscaler: DiffusionUpscaler, change: dict[str, Any]
) -> None:
    asked = of_picture(1, guidance_scale=9.0)
    other = dataclasses.replace(asked, **change)
    ends = make(upscaler, [asked, other, asked], rung=8)
    assert np.array_equal(ends[0].pixels, ends[2].pixels)
    assert not np.array_equal(ends[0].pixels, ends[1].pixels)


@contextlib.contextmanager
def _spoiled(module: torch.nn.Module, number: float, *, row: int) -> Iterator[None]:
    """Let a module answer with a bad number in one row of its batch."""

    def spoil(_module: object, _inputs: object, output: Any) -> None:
        tensor = output if isinstance(output, torch.Tensor) else output[0]
        tensor[row, 0, 0, 0] = number

    hook = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


bad_numbers = pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])


@bad_numbers
@pytest.mark.parametrize(("guidance_scale", "row"), [(0.0, 1), (3.0, 2), (3.0, 3)])
def test_numbers_of_the_unet_that_are_none_fail_their_sample_alone(
    upscaler: DiffusionUpscaler, guidance_scale: float, row: int, number: float
) -> None:
    asked = [of_picture(number, guidance_scale=guidance_scale) for number in range(3)]
    sound = make(upscaler, asked, rung=8)
    samples = [upscaler.begin(request) for request in asked]
    with _spoiled(upscaler._unet, number, row=row):
        upscaler.step(samples, rung=8)
    advance(upscaler, samples, rung=8)
    with pytest.raises(ModelOutputInvalid):
        upscaler.finish(samples[1])
    for one in (0, 2):
        assert np.array_equal(upscaler.finish(samples[one]).pixels, sound[one].pixels)


@bad_numbers
@pytest.mark.parametrize("wants_latents", [False, True])
def test_numbers_of_the_decoder_that_are_none_fail_what_it_decodes(
    upscaler: DiffusionUpscaler, number: float, *, wants_latents: bool
) -> None:
    asked = of_picture(1, wants_latents=wants_latents)
    (sound,) = make(upscaler, [asked], rung=1)
    sample = upscaler.begin(asked)
    advance(upscaler, [sample], rung=1)
    with (
        _spoiled(upscaler._vae.decoder, number, row=0),
        pytest.raises(ModelOutputInvalid),
    ):
        upscaler.finish(sample)
    assert np.array_equal(upscaler.finish(sample).pixels, sound.pixels)


def test_the_view_of_latents_shows_what_they_decode_to(upscaler: DiffusionUpscaler) -> None:
    """Small enough latents are not averaged, so that their view is their picture."""
    picture, view = make(
        upscaler, [of_latents(1, wants_latents=wants) for wants in (False, True)], rung=2
    )
    assert np.array_equal(picture.pixels, view.pixels)


def test_no_full_decode_is_made_when_nobody_wants_a_picture(upscaler: DiffusionUpscaler) -> None:
    sizes = []
    hook = upscaler._vae.decoder.register_forward_hook(
        lambda _module, inputs, _output: sizes.append(inputs[0].shape[-1])
    )
    asked = of_latents(1, width=768, steps=1, wants_latents=True)
    (made,) = make(upscaler, [asked], rung=1)
    hook.remove()
    assert made.pixels.shape == (8 * 3, 8 * 32, 3)
    assert sizes == [32]


@pytest.fixture
def texts(upscaler: DiffusionUpscaler) -> Iterator[list[int]]:
    """How many texts the text encoder read with each of its calls."""
    read: list[int] = []
    hook = upscaler._prompts._text_encoder.register_forward_hook(
        lambda _module, inputs, _output: read.append(len(inputs[0]))
    )
    yield read
    hook.remove()


def test_a_prompt_is_encoded_once_and_not_at_all_when_nothing_heeds_it(
    upscaler: DiffusionUpscaler, texts: list[int]
) -> None:
    upscaler.begin(of_latents(1, guidance_scale=0.0))
    texts.clear()
    upscaler.begin(of_latents(1, guidance_scale=0.0, prompt="never", negative_prompt="heard"))
    assert texts == []
    for _ in range(2):
        upscaler.begin(of_latents(1, guidance_scale=1.0, prompt="once", negative_prompt="heard"))
        assert texts == [1]
    upscaler.begin(of_latents(1, guidance_scale=3.0, prompt="once", negative_prompt="heard"))
    assert texts == [1, 1]


def test_prompts_without_end_are_not_remembered_for_ever(
    upscaler: DiffusionUpscaler, texts: list[int]
) -> None:
    def mean(text: object) -> None:
        upscaler.begin(of_latents(1, guidance_scale=1.0, prompt=str(text)))

    mean("first")
    for number in range(300):
        mean(number)
    texts.clear()
    mean(299)
    assert texts == []
    mean("first")
    assert texts == [1]
    assert len(upscaler._prompts._known) < 300


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("no memory left"), BatchTooLarge),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), BatchTooLarge),
        (
            RuntimeError("GET was unable to find an engine to execute this computation"),
            BatchTooLarge,
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
            BatchTooLarge,
        ),
        (RuntimeError("CUDA driver error: out of memory"), BatchTooLarge),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), BatchTooLarge),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), BatchTooLarge),
        (torch.AcceleratorError("unspecified launch failure"), DeviceLost),
        (RuntimeError("a mistake of ours"), RuntimeError),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("part", ["encoder", "unet", "decoder"])
def test_what_the_device_raises_gets_the_ports_name_and_the_next_try_is_sound(
    upscaler: DiffusionUpscaler, part: str, error: Exception, kind: type[Exception]
) -> None:
    (before,) = make(upscaler, [of_picture(1)], rung=2)

    def exhaust(*_: object) -> None:
        raise error

    module = upscaler._unet if part == "unet" else getattr(upscaler._vae, part)
    hook = module.register_forward_hook(exhaust)
    try:
        with pytest.raises(kind, match=str(error)) as raised:
            make(upscaler, [of_picture(1)], rung=2)
    finally:
        hook.remove()
    assert raised.type is kind
    (after,) = make(upscaler, [of_picture(1)], rung=2)
    assert np.array_equal(after.pixels, before.pixels)


def test_a_prompt_too_long_for_the_model_is_not_quoted_in_logs(
    upscaler: DiffusionUpscaler,
    diffusers_log: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make(upscaler, [of_picture(1, guidance_scale=3.0, prompt="x" * 100 + " zebra")], rung=2)
    written = capfd.readouterr()
    logged = diffusers_log.text + written.out + written.err
    assert "zebra" not in logged.replace(" ", "")
    assert "%|" not in written.err, "a progress bar is on"


@pytest.mark.parametrize(
    "asked",
    [
        _of((72, 64, 3)),
        _of((64, 96, 3)),
        _of((0, 64, 3)),
        _of((64, 64, 4)),
        _of((64, 64)),
        _of((3,)),
        _of((64, 64, 64, 3)),
        _of((64, 64, 3), np.float32),
        _of((4, 8, 12), np.float32),
        _of((4, 0, 8), np.float32),
        _of((3, 8, 8), np.float32),
        _of((1, 4, 8, 8), np.float32),
        _of((4,), np.float32),
        _of((4, 8, 8), np.float64),
    ],
    ids=lambda asked: f"{asked.source.dtype} {asked.source.shape}",
)
def test_a_source_that_the_pipeline_would_resize_or_stumble_over_is_refused(
    upscaler: DiffusionUpscaler, asked: Request
) -> None:
    with pytest.raises(ValueError, match="lattice"):
        upscaler.begin(asked)


def _refused(
    upscaler: DiffusionUpscaler, samples: Sequence[Sample], *, rung: int, match: str
) -> None:
    before = [(sample.step, getattr(sample, "latents", None)) for sample in samples]
    with pytest.raises(ValueError, match=match):
        upscaler.step(samples, rung=rung)
    assert [(sample.step, getattr(sample, "latents", None)) for sample in samples] == before


def test_samples_that_cannot_be_one_batch_are_refused_and_stay_where_they_are(
    upscaler: DiffusionUpscaler,
) -> None:
    plain, other = (upscaler.begin(of_latents(number)) for number in range(2))
    guided = upscaler.begin(of_latents(2, guidance_scale=3.0))
    wide = upscaler.begin(of_latents(3, width=128))
    _refused(upscaler, [], rung=1, match="do not fit a rung")
    _refused(upscaler, [plain, other], rung=1, match="do not fit a rung")
    _refused(upscaler, [guided], rung=1, match="do not fit a rung")
    _refused(upscaler, [plain, guided], rung=2, match="do not fit a rung")
    _refused(upscaler, [plain, wide], rung=2, match="of one size")


def test_a_sample_that_is_done_twice_there_or_another_engines_is_refused(
    upscaler: DiffusionUpscaler,
) -> None:
    plain = upscaler.begin(of_latents(1))
    done = upscaler.begin(of_latents(2, steps=1))
    upscaler.step([done], rung=1)
    for samples in ([done], [plain, done], [plain, plain], [plain, Sample(request=plain.request)]):
        _refused(upscaler, samples, rung=2, match="another engine's, done, or there twice")


def test_a_sample_that_is_not_done_is_not_finished(upscaler: DiffusionUpscaler) -> None:
    sample: DiffusionSample = upscaler.begin(of_latents(1, steps=2))
    for _ in range(2):
        with pytest.raises(ValueError, match="only a sample that is done"):
            upscaler.finish(sample)
        upscaler.step([sample], rung=1)
    assert upscaler.finish(sample).pixels.shape == (128, 128, 3)


def test_warming_up_runs_every_network_once(upscaler: DiffusionUpscaler) -> None:
    ran: list[str] = []
    networks = {
        "encoder": upscaler._vae.encoder,
        "unet": upscaler._unet,
        "decoder": upscaler._vae.decoder,
    }
    hooks = [
        network.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, network in networks.items()
    ]
    upscaler.warm_up()
    for hook in hooks:
        hook.remove()
    assert ran == ["encoder", "unet", "decoder"]
