"""What only a CUDA device can show of the memory that a call takes."""

from pathlib import Path

import pytest
import torch

from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.meter import CudaMeter
from twofold_worker.vram import PLAIN, Mode

pytestmark = pytest.mark.gpu

MIB = 2**20


def _fill(mib: int) -> torch.Tensor:
    return torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")


def test_what_a_call_takes_is_seen_apart_from_what_was_before_it() -> None:
    meter = CudaMeter(torch.device("cuda"))
    _fill(256)
    held = _fill(32)
    taken = meter.watch()
    _fill(64)
    assert 64 * MIB <= (taken() or 0) < 96 * MIB
    assert held.nbytes == 32 * MIB


def test_the_text_encoder_leaves_the_device_and_a_prompt_means_the_same(
    stand_in_model: Path,
) -> None:
    loaded = DiffusionUpscaler.load(str(stand_in_model), revision=None, device="cuda", dtype="auto")
    loaded.enter(PLAIN)
    before = loaded._prompts._encoded("a cat")
    held = torch.cuda.memory_allocated()
    loaded.enter(Mode(text_encoder_off=True))
    assert torch.cuda.memory_allocated() < held
    after = loaded._prompts._encoded("a cat")
    assert torch.equal(before.words, after.words)
    assert torch.equal(before.pooled, after.pooled)
