"""What only a CUDA device can show of its memory."""

from collections.abc import Iterator

import pytest
import torch
from tests.tiny_model import TinyModel

from twofold_worker import calibration
from twofold_worker.upscaler.meter import CudaMeter
from twofold_worker.vram import Stage

pytestmark = pytest.mark.gpu

MIB = 2**20


@pytest.fixture
def meter() -> Iterator[CudaMeter]:
    torch.ones(1, device="cuda").add(1).item()
    torch.cuda.empty_cache()
    yield CudaMeter(torch.device("cuda"))
    torch.cuda.set_per_process_memory_fraction(1.0)


def _fill(mib: int) -> torch.Tensor:
    return torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")


def test_the_peak_is_what_lived_at_once(meter: CudaMeter) -> None:
    def run() -> None:
        first, second = _fill(64), _fill(64)
        del first, second
        _fill(32)

    assert 128 * MIB <= meter.peak_bytes(run) <= 140 * MIB


def test_what_torch_keeps_unused_is_free(meter: CudaMeter) -> None:
    before = meter.free_bytes()
    held = _fill(256)
    assert meter.free_bytes() <= before - 255 * MIB
    assert meter.held_bytes() >= 256 * MIB
    del held
    assert meter.free_bytes() >= before - MIB


def test_torch_keeps_to_an_operators_budget(meter: CudaMeter) -> None:
    meter.set_fraction(meter.held_bytes() + 512 * MIB)
    assert meter.free_bytes() <= 512 * MIB
    with pytest.raises(torch.OutOfMemoryError):
        _fill(600)
    _fill(256)


class CudaModel(TinyModel):
    """The tiny model on the GPU: each run ends when the device is done."""

    def unet(self, slots: int, height: int, width: int) -> None:
        super().unet(slots, height, width)
        torch.cuda.synchronize()

    def encode(self, height: int, width: int) -> None:
        super().encode(height, width)
        torch.cuda.synchronize()

    def decode(self, height: int, width: int) -> None:
        super().decode(height, width)
        torch.cuda.synchronize()


@pytest.mark.parametrize("stage", Stage)
def test_a_size_that_was_not_measured_takes_at_most_what_is_foretold(
    meter: CudaMeter, stage: Stage
) -> None:
    model = CudaModel("cuda")
    plan = calibration.measure(model, meter, sides=calibration.GPU_SIDES, max_pixels=1024**2)
    runs = {
        Stage.ENCODE: lambda: model.encode(640, 640),
        Stage.UNET: lambda: model.unet(4, 640, 640),
        Stage.DECODE: lambda: model.decode(640, 640),
    }
    taken = meter.peak_bytes(runs[stage])
    # Small networks: the allocator's 20 MiB segments are a good part of what they take.
    assert taken <= plan.predicted_bytes(stage, 4, 640, 640) * 1.1 + 20 * MIB
