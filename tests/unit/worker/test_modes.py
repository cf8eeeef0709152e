"""A mode needs less memory where it says so, costs nothing else, and leaves no trace."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, SlicedAttnProcessor
from torch.nn.attention import SDPBackend, sdpa_kernel

from twofold_worker.upscaler import attention
from twofold_worker.upscaler.attention import SlicedAttention
from twofold_worker.upscaler.diffusion import DiffusionUpscaler
from twofold_worker.upscaler.live_bytes import LiveBytes
from twofold_worker.upscaler.port import Pixels, Request
from twofold_worker.vram import PLAIN, Mode

SLICED = Mode(sliced_attention=True)
TEXT_OFF = Mode(text_encoder_off=True)
MODES = [PLAIN, SLICED, TEXT_OFF, SLICED | TEXT_OFF]

TOKENS = 32 * 32


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the small pictures of a test need many."""
    monkeypatch.setattr(attention, "MOST_SCORES", TOKENS * 128)


@pytest.fixture(scope="module")
def upscaler(stand_in_model: Path) -> DiffusionUpscaler:
    return DiffusionUpscaler.load(str(stand_in_model), revision=None, device="cpu", dtype="auto")


@pytest.fixture
def unfused() -> Iterator[None]:
    """A device without a fused kernel."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def picture(upscaler: DiffusionUpscaler, text: str = "a cat", *, side: int = 128) -> Pixels:
    source = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    request = Request(source=source, seed=1, steps=2, guidance_scale=3.0, prompt=text)
    sample = upscaler.begin(request)
    while not sample.is_done:
        upscaler.step([sample], rung=2)
    return upscaler.finish(sample).pixels


@pytest.fixture(scope="module")
def plain(upscaler: DiffusionUpscaler) -> Pixels:
    upscaler.enter(PLAIN)
    return picture(upscaler)


def decibels(one: Pixels, other: Pixels) -> float:
    missed = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return 10 * float(np.log10(255**2 / missed)) if missed else float("inf")


class OneHead:
    """The autoencoder's attention: a single head over every pixel."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.module = Attention(
                query_dim=64,
                heads=1,
                dim_head=64,
                bias=True,
                residual_connection=True,
                norm_num_groups=32,
            ).eval()
            self.pixels = torch.randn(1, 64, 32, 32)

    def attended(self, processor: Any) -> tuple[torch.Tensor, int]:
        """What it makes, and the bytes that it takes, in inference mode as the upscaler runs."""
        self.module.set_processor(processor)
        with torch.inference_mode(), LiveBytes() as counted:
            made = self.module(self.pixels)
        return made, counted.peak


@pytest.mark.usefixtures("unfused", "small_slices")
class TestWithoutAFusedKernel:
    def test_slices_of_the_queries_need_a_fraction_of_the_memory(self) -> None:
        whole, most = OneHead().attended(AttnProcessor2_0())
        sliced, least = OneHead().attended(SlicedAttention())

        assert most > 2 * TOKENS * TOKENS * 4, "the scores are not seen"
        assert least < most / 2
        assert torch.allclose(whole, sliced, atol=1e-5)

    def test_slices_of_the_heads_would_not_help_one_head(self) -> None:
        _, by_queries = OneHead().attended(SlicedAttention())
        _, by_heads = OneHead().attended(SlicedAttnProcessor(1))

        assert by_heads > 2 * by_queries

    def test_a_whole_picture_needs_less(self, upscaler: DiffusionUpscaler) -> None:
        taken = {}
        for mode in (PLAIN, SLICED):
            upscaler.enter(mode)
            with LiveBytes() as counted:
                picture(upscaler, side=192)
            taken[mode] = counted.peak
        assert taken[SLICED] < 0.8 * taken[PLAIN]


@pytest.mark.usefixtures("small_slices")
def test_with_a_fused_kernel_nothing_is_lost_and_nothing_gained() -> None:
    whole, most = OneHead().attended(AttnProcessor2_0())
    sliced, least = OneHead().attended(SlicedAttention())

    assert least <= 1.2 * most
    assert torch.allclose(whole, sliced, atol=1e-5)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_pictures_in_every_mode_are_the_plain_ones(
    upscaler: DiffusionUpscaler, plain: Pixels, mode: Mode, *, fused: bool
) -> None:
    upscaler.enter(mode)
    with contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH):
        assert decibels(picture(upscaler), plain) >= 60


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_mode_that_is_left_leaves_no_trace(
    upscaler: DiffusionUpscaler, plain: Pixels, mode: Mode
) -> None:
    for entered in (mode, mode, PLAIN, PLAIN):
        upscaler.enter(entered)
    assert np.array_equal(picture(upscaler), plain)


def test_a_sample_goes_on_in_a_mode_that_is_entered_meanwhile(
    upscaler: DiffusionUpscaler, plain: Pixels
) -> None:
    source = np.random.default_rng(1).integers(0, 256, (128, 128, 3), np.uint8)
    upscaler.enter(PLAIN)
    sample = upscaler.begin(
        Request(source=source, seed=1, steps=2, guidance_scale=3.0, prompt="a cat")
    )
    upscaler.step([sample], rung=2)
    upscaler.enter(SLICED | TEXT_OFF)
    upscaler.step([sample], rung=2)
    assert decibels(upscaler.finish(sample).pixels, plain) >= 60


class Whereabouts:
    """Notes where the text encoder is sent; a machine without a GPU has no second place."""

    def __init__(self, encoder: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[str] = []
        self._encoder = encoder
        monkeypatch.setattr(encoder, "to", self._to)
        self._hook = encoder.register_forward_hook(lambda *_: self.sent.append("encodes"))

    def _to(self, place: torch.device) -> torch.nn.Module:
        self.sent.append(str(place))
        return self._encoder


def test_the_text_encoder_is_on_the_device_only_while_it_encodes(
    upscaler: DiffusionUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = upscaler._prompts
    seen = Whereabouts(prompts._text_encoder, monkeypatch)
    monkeypatch.setattr(prompts, "_resting", prompts._device)

    prompts.rest(torch.device("meta"))
    prompts.meaning("a new text")
    prompts.meaning("a new text")
    prompts.rest(prompts._device)
    prompts.meaning("a newer text")

    assert seen.sent == ["meta", "cpu", "encodes", "meta", "cpu", "cpu", "encodes", "cpu"]


def test_the_text_encoder_leaves_the_device_also_when_it_fails(
    upscaler: DiffusionUpscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = upscaler._prompts
    seen = Whereabouts(prompts._text_encoder, monkeypatch)
    monkeypatch.setattr(prompts, "_resting", prompts._device)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    hook = prompts._text_encoder.register_forward_hook(fail)
    prompts.rest(torch.device("meta"))
    with pytest.raises(torch.OutOfMemoryError):
        prompts.meaning("a third text")
    hook.remove()
    assert seen.sent[-1] == "meta"
