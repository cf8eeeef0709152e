"""The diffusers engine: one job's picture is its own, whatever else is in the batch."""

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from twofold_schema.errors import ConfigError, JobError, NotFinite
from twofold_worker.upscaler import standin
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import (
    BatchTooLarge,
    DeviceLost,
    Latents,
    Made,
    Pixels,
    Slot,
    Upscaler,
)

# torch's tensors do not know numpy 2's `copy`; the scheduler's tables run into it.

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    standin.build(folder)
    return folder


def _load(model: Path | str, revision: str | None = None) -> DiffusionUpscaler:
    return DiffusionUpscaler.load(str(model), revision=revision, device="cpu", dtype="auto")


@pytest.fixture(scope="module")
def upscaler(model: Path) -> DiffusionUpscaler:
    return _load(model)


def _slot(number: int, *, height: int = 64, width: int = 64) -> Slot:
    random = np.random.default_rng(number)
    return Slot(
        source=random.integers(0, 256, (height, width, 3), dtype=np.uint8),
        seed=2**62 + number,
        prompt=f"a photograph of {number} cats",
        negative_prompt="blurred" if number % 2 else "",
    )


def _upscale(
    upscaler: Upscaler,
    slots: list[Slot],
    *,
    rung: int,
    steps: int = 3,
    guidance_scale: float = 0.0,
    on_step: Callable[[], None] = lambda: None,
) -> list[Made | JobError]:
    return upscaler.upscale(
        slots, rung=rung, steps=steps, guidance_scale=guidance_scale, on_step=on_step
    )


def _pixels(result: Made | JobError) -> Pixels:
    assert isinstance(result, Made), result
    return result.pixels


def _latents(result: Made | JobError) -> Latents:
    assert isinstance(result, Made), result
    assert result.latents is not None
    return result.latents


def _latent_slot(number: int, *, wants_latents: bool = False) -> Slot:
    values = np.random.default_rng(number).standard_normal((4, 8, 16), dtype=np.float32)
    return Slot(
        source=values,
        seed=2**62 + number,
        wants_latents=wants_latents,
        prompt="cats",
        negative_prompt="dogs",
    )


guidance = pytest.mark.parametrize("guidance_scale", [0.0, 3.0])


@guidance
@pytest.mark.parametrize("rung", [1, 3])
def test_pictures_are_those_of_the_stock_pipeline_to_the_bit(
    upscaler: DiffusionUpscaler, guidance_scale: float, rung: int
) -> None:
    slots = [_slot(number, width=128) for number in range(rung)]
    results = _upscale(upscaler, slots, rung=rung, guidance_scale=guidance_scale)
    stock = upscaler._pipeline(
        prompt=[slot.prompt for slot in slots],
        negative_prompt=[slot.negative_prompt for slot in slots],
        image=[Image.fromarray(slot.source) for slot in slots],
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(slot.seed) for slot in slots],
    ).images
    for result, picture in zip(results, stock, strict=True):
        assert _pixels(result).shape == (128, 256, 3)
        assert np.array_equal(_pixels(result), np.asarray(picture))


@guidance
def test_a_picture_at_a_rung_is_the_same_alone_and_in_any_company(
    upscaler: DiffusionUpscaler, guidance_scale: float
) -> None:
    slots = [_slot(number) for number in range(4)]
    (alone,) = _upscale(upscaler, slots[:1], rung=4, guidance_scale=guidance_scale)
    for order in ([0, 1, 2, 3], [3, 2, 0], [1, 0]):
        company = [slots[number] for number in order]
        results = _upscale(upscaler, company, rung=4, guidance_scale=guidance_scale)
        assert len(results) == len(order)
        assert np.array_equal(_pixels(results[order.index(0)]), _pixels(alone))


def test_seed_prompt_and_negative_prompt_are_each_slots_own(upscaler: DiffusionUpscaler) -> None:
    slot = _slot(1)
    others = [
        Slot(source=slot.source, seed=5, prompt=slot.prompt, negative_prompt="blurred"),
        Slot(source=slot.source, seed=slot.seed, prompt="dogs", negative_prompt="blurred"),
        Slot(source=slot.source, seed=slot.seed, prompt=slot.prompt, negative_prompt="cats"),
    ]
    results = _upscale(upscaler, [slot, *others], rung=4, guidance_scale=9.0)
    for other in results[1:]:
        assert not np.array_equal(_pixels(other), _pixels(results[0]))


@contextlib.contextmanager
def _spoiled(module: torch.nn.Module, number: float) -> Iterator[None]:
    """Let a module answer with a bad number for the batch's second picture."""

    def spoil(_module: object, _inputs: object, output: Any) -> None:
        tensor = output if isinstance(output, torch.Tensor) else output[0]
        tensor[1, 0, 0, 0] = number

    hook = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["unet", "decoder"])
def test_numbers_that_are_none_fail_their_slot_alone(
    upscaler: DiffusionUpscaler, part: str, number: float
) -> None:
    slots = [_slot(number) for number in range(3)]
    sound = _upscale(upscaler, slots, rung=3)
    pipeline = upscaler._pipeline
    with _spoiled(pipeline.unet if part == "unet" else pipeline.vae.decoder, number):
        first, second, third = _upscale(upscaler, slots, rung=3)
    assert isinstance(second, NotFinite)
    assert np.array_equal(_pixels(first), _pixels(sound[0]))
    assert np.array_equal(_pixels(third), _pixels(sound[2]))


@guidance
@pytest.mark.parametrize("rung", [1, 3])
def test_latents_in_and_out_are_those_of_the_stock_pipeline_to_the_bit(
    upscaler: DiffusionUpscaler, guidance_scale: float, rung: int
) -> None:
    slots = [_latent_slot(number) for number in range(rung)]
    wanting = [_latent_slot(number, wants_latents=True) for number in range(rung)]

    def stock(output_type: str) -> Any:
        return upscaler._pipeline(
            prompt=["cats"] * rung,
            negative_prompt=["dogs"] * rung,
            image=torch.from_numpy(np.stack([slot.source for slot in slots])),
            num_inference_steps=3,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(slot.seed) for slot in slots],
            output_type=output_type,
        ).images

    pictures = _upscale(upscaler, slots, rung=rung, guidance_scale=guidance_scale)
    for result, picture in zip(pictures, stock("pil"), strict=True):
        assert _pixels(result).shape == (128, 256, 3)
        assert np.array_equal(_pixels(result), np.asarray(picture))
    latents = _upscale(upscaler, wanting, rung=rung, guidance_scale=guidance_scale)
    for result, values in zip(latents, stock("latent").numpy(), strict=True):
        assert _latents(result).dtype == np.float32
        assert np.array_equal(_latents(result), values)


def test_a_slot_that_wants_latents_changes_no_picture_beside_it(
    upscaler: DiffusionUpscaler,
) -> None:
    plain, other = _slot(1), _slot(2)
    wanting = dataclasses.replace(other, wants_latents=True)
    beside_plain = _upscale(upscaler, [plain, other], rung=4)
    beside_wanting = _upscale(upscaler, [plain, wanting], rung=4)
    assert np.array_equal(_pixels(beside_plain[0]), _pixels(beside_wanting[0]))
    assert _latents(beside_wanting[1]).shape == (4, 16, 16)


def test_the_view_of_latents_shows_what_they_decode_to(upscaler: DiffusionUpscaler) -> None:
    """Small enough latents are not averaged, so that their view is their picture."""
    picture, view = (
        _upscale(upscaler, [_latent_slot(1, wants_latents=wants)], rung=2)[0]
        for wants in (False, True)
    )
    assert np.array_equal(_pixels(picture), _pixels(view))

    large = np.zeros((4, 8, 96), np.float32)
    slot = Slot(source=large, seed=1, wants_latents=True)
    (made,) = _upscale(upscaler, [slot], rung=1, steps=1)
    assert _pixels(made).shape == (8 * 3, 8 * 32, 3)


def test_no_full_decode_is_made_when_nobody_wants_a_picture(upscaler: DiffusionUpscaler) -> None:
    sizes = []
    hook = upscaler._pipeline.vae.decoder.register_forward_hook(
        lambda _module, inputs, _output: sizes.append(inputs[0].shape[-1])
    )
    try:
        slot = Slot(source=np.zeros((4, 8, 96), np.float32), seed=1, wants_latents=True)
        _upscale(upscaler, [slot], rung=1, steps=1)
    finally:
        hook.remove()
    assert sizes == [32]


@guidance
def test_each_step_is_reported_once(upscaler: DiffusionUpscaler, guidance_scale: float) -> None:
    steps: list[None] = []
    _upscale(
        upscaler,
        [_slot(1)],
        rung=2,
        steps=5,
        guidance_scale=guidance_scale,
        on_step=lambda: steps.append(None),
    )
    assert len(steps) == 5


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("no memory left"), BatchTooLarge),
        (torch.AcceleratorError("unspecified launch failure"), DeviceLost),
    ],
)
def test_what_the_device_raises_gets_the_ports_name_and_the_next_batch_is_sound(
    upscaler: DiffusionUpscaler, error: Exception, kind: type[Exception]
) -> None:
    (before,) = _upscale(upscaler, [_slot(1)], rung=2)

    def exhaust(*_: object) -> None:
        raise error

    hook = upscaler._pipeline.unet.register_forward_hook(exhaust)
    try:
        with pytest.raises(kind):
            _upscale(upscaler, [_slot(1)], rung=2)
    finally:
        hook.remove()
    (after,) = _upscale(upscaler, [_slot(1)], rung=2)
    assert np.array_equal(_pixels(after), _pixels(before))


@pytest.fixture
def diffusers_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What diffusers logs; it does not pass records up to the root."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_a_prompt_too_long_for_the_model_is_not_quoted_in_logs(
    upscaler: DiffusionUpscaler,
    diffusers_log: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    slot = Slot(source=_slot(1).source, seed=1, prompt="x" * 100 + " zebra")
    _upscale(upscaler, [slot], rung=1, guidance_scale=3.0)
    written = capfd.readouterr()
    logged = diffusers_log.text + written.out + written.err
    assert "zebra" not in logged.replace(" ", "")
    assert "%|" not in written.err, "the progress bar is on"


def test_slots_that_the_pipeline_would_silently_resize_are_refused(
    upscaler: DiffusionUpscaler,
) -> None:
    for slots, rung in (
        ([], 1),
        ([_slot(1), _slot(2)], 1),
        ([_slot(1), _slot(2, width=128)], 2),
        ([_slot(1, height=72)], 1),
        ([_slot(1), _latent_slot(1)], 2),
        ([Slot(source=np.zeros((4, 8, 12), np.float32), seed=1)], 1),
        ([Slot(source=np.zeros((64, 64, 4), np.uint8), seed=1)], 1),
    ):
        with pytest.raises(ValueError, match=r"rung|shape|lattice"):
            _upscale(upscaler, slots, rung=rung)


def test_warming_up_runs_a_batch(upscaler: DiffusionUpscaler) -> None:
    calls: list[None] = []
    hook = upscaler._pipeline.vae.decoder.register_forward_hook(lambda *_: calls.append(None))
    upscaler.warm_up()
    hook.remove()
    assert len(calls) == 1


def test_it_names_what_it_loaded_by_marker_and_content(model: Path, tmp_path: Path) -> None:
    first = _load(model)
    assert first.name == "stand-in"
    assert first.revision.startswith("sha256:")
    assert len(first.revision) == len("sha256:") + 16
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    assert _load(moved).revision == first.revision
    (moved / standin.MARKER).unlink()
    assert _load(moved).name == "moved"
    assert _load(moved).revision != first.revision


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _lack_a_tensor(path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    tensors.pop(min(tensors))
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _pickle(path: Path) -> None:
    name = "pytorch_model.bin" if path.parent.name == "text_encoder" else f"{path.stem}.bin"
    torch.save(safetensors.torch.load_file(path), path.with_name(name))
    path.unlink()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        *((spoil, name) for spoil in (_cut, _lack_a_tensor, _pickle) for name in (UNET, VAE, TEXT)),
        (Path.unlink, "model_index.json"),
        (_cut, "model_index.json"),
        (_cut, "unet/config.json"),
        (_cut, "scheduler/scheduler_config.json"),
        (Path.unlink, "tokenizer/tokenizer.json"),
        (Path.unlink, "tokenizer/tokenizer_config.json"),
    ],
)
def test_a_damaged_folder_stops_the_start_and_names_the_setting(
    model: Path, tmp_path: Path, spoil: Callable[[Path], None], name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    spoil(folder / name)
    with pytest.raises(ConfigError, match="TWOFOLD_MODEL"):
        _load(folder)


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub behind it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder", "not a name"])
def test_a_model_that_is_nowhere_stops_the_start_and_names_both_settings(
    offline_hub: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=r"TWOFOLD_MODEL.*TWOFOLD_MODEL_REVISION"):
        _load(name, COMMIT)


def test_a_model_in_the_hubs_cache_loads_without_asking_the_hub_and_is_named_by_its_commit(
    model: Path, offline_hub: Path, diffusers_log: pytest.LogCaptureFixture
) -> None:
    repository = offline_hub / "models--nobody--upscaler"
    shutil.copytree(model, repository / "snapshots" / COMMIT)
    (repository / "snapshots" / COMMIT / standin.MARKER).unlink()
    loaded = _load("nobody/upscaler", COMMIT)
    assert (loaded.name, loaded.revision) == ("nobody/upscaler", COMMIT)
    assert "connect" not in diffusers_log.text


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT[:12]])
def test_a_hub_model_that_is_not_pinned_to_a_commit_stops_the_start(
    offline_hub: Path, revision: str | None
) -> None:
    with pytest.raises(ConfigError, match="TWOFOLD_MODEL_REVISION must pin a commit"):
        _load("nobody/upscaler", revision)


@pytest.mark.parametrize(
    ("device", "dtype", "setting"),
    [
        ("tpu9", "auto", "TWOFOLD_DEVICE"),
        ("cuda:99", "auto", "TWOFOLD_DEVICE"),
        ("cpu", "int8", "TWOFOLD_DTYPE"),
    ],
)
def test_an_unknown_device_or_dtype_stops_the_start(
    model: Path, device: str, dtype: str, setting: str
) -> None:
    with pytest.raises(ConfigError, match=setting):
        DiffusionUpscaler.load(str(model), revision=None, device=device, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_noise_is_the_fp32_draw_rounded(dtype: torch.dtype) -> None:
    """What lets the stock pipeline draw in its own dtype on the CPU."""
    shape = (1, 4, 16, 16)
    drawn = [torch.Generator().manual_seed(7) for _ in range(2)]
    for _ in range(2):
        full = torch.randn(shape, generator=drawn[0])
        assert torch.equal(torch.randn(shape, generator=drawn[1], dtype=dtype), full.to(dtype))
