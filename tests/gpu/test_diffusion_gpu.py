"""The promises of the diffusers engine that only a CUDA device can break."""

from pathlib import Path

import numpy as np
import pytest
import torch

from twofold_worker.upscaler import standin
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.port import BatchTooLarge, Made, Pixels, Slot

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("models") / "model"
    standin.build(folder)
    return str(folder)


def _slots(count: int, *, side: int = 128) -> list[Slot]:
    random = np.random.default_rng(1)
    pictures = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return [Slot(source=pixels, seed=seed) for seed, pixels in enumerate(pictures)]


def _upscale(upscaler: DiffusionUpscaler, slots: list[Slot], *, rung: int) -> list[Pixels]:
    results = upscaler.upscale(slots, rung=rung, steps=5, guidance_scale=0, on_step=lambda: None)
    return [result.pixels for result in results if isinstance(result, Made)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_picture_at_a_rung_is_the_same_alone_and_in_any_company(model: str, dtype: str) -> None:
    upscaler = DiffusionUpscaler.load(model, revision=None, device="cuda", dtype=dtype)
    slots = _slots(8)
    (alone,) = _upscale(upscaler, slots[:1], rung=8)
    together = _upscale(upscaler, slots, rung=8)
    turned = _upscale(upscaler, slots[::-1], rung=8)
    assert np.array_equal(together[0], alone)
    assert np.array_equal(turned[-1], alone)


@pytest.mark.parametrize(("dtype", "decibels"), [("float32", 45), ("bfloat16", 30)])
def test_the_gpu_paints_the_cpus_picture(model: str, dtype: str, decibels: int) -> None:
    """The noise is the CPU's, so that only rounding differs."""
    slots = _slots(2)
    pictures = [
        _upscale(
            DiffusionUpscaler.load(model, revision=None, device=device, dtype=number),
            slots,
            rung=2,
        )
        for device, number in (("cpu", "float32"), ("cuda", dtype))
    ]
    cpu, gpu = (np.asarray(several, dtype=np.float64) for several in pictures)
    error = float(np.mean((cpu - gpu) ** 2))
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= decibels


def test_auto_is_bfloat16_on_the_gpu_where_it_is_native(model: str) -> None:
    upscaler = DiffusionUpscaler.load(model, revision=None, device="auto", dtype="auto")
    assert upscaler._pipeline.device.type == "cuda"
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert upscaler._pipeline.dtype == (torch.bfloat16 if native else torch.float16)


def test_a_batch_that_does_not_fit_raises_and_the_next_one_runs(model: str) -> None:
    upscaler = DiffusionUpscaler.load(model, revision=None, device="cuda", dtype="float32")
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (reserved + min(free, 2**28)) / total))
    try:
        with pytest.raises(BatchTooLarge):
            _upscale(upscaler, _slots(8, side=1024), rung=8)
        assert len(_upscale(upscaler, _slots(1, side=64), rung=1)) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
