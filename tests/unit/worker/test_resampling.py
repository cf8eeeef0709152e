"""Channel by channel, the UNet's resampling is diffusers' own, to the bit.

But for one: without AVX-512, of hundreds of channels, doubling adds the same products in another
order.
"""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import pytest
import torch
from diffusers.models.downsampling import KDownsample2D
from diffusers.models.upsampling import KUpsample2D
from torch import nn

from twofold_worker.upscaler import standin
from twofold_worker.upscaler.resampling import Double, Halve, depthwise

shapes = pytest.mark.parametrize(
    "shape", [(1, 1, 4, 4), (1, 32, 16, 16), (3, 64, 8, 20), (8, 96, 32, 12), (2, 384, 6, 10)]
)


def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _keeps_order(channels: int) -> bool:
    """Whether this processor adds a doubled pixel's products in one order either way."""
    return channels < 384 or torch.backends.cpu.get_cpu_capability() == "AVX512"


@shapes
def test_halving_is_diffusers_own_to_the_bit(shape: tuple[int, ...]) -> None:
    original = KDownsample2D()
    halved = Halve(original)(_noise(shape))
    assert halved.shape == (*shape[:2], shape[2] // 2, shape[3] // 2)
    assert torch.equal(halved, original(_noise(shape)))


@shapes
def test_doubling_is_diffusers_own_to_the_bit(shape: tuple[int, ...]) -> None:
    original = KUpsample2D()
    doubled = Double(original)(_noise(shape))
    theirs = original(_noise(shape))
    assert doubled.shape == (*shape[:2], shape[2] * 2, shape[3] * 2)
    if _keeps_order(shape[1]):
        assert torch.equal(doubled, theirs)
    else:
        # Two sums of four products, each off by up to four unit roundoffs of their magnitudes
        # (Higham, Accuracy and Stability of Numerical Algorithms, 4.2); the filter is positive.
        rounding = 4 * torch.finfo(theirs.dtype).eps * original(_noise(shape).abs())
        assert ((doubled - theirs).abs() <= rounding).all()


@pytest.mark.parametrize("original", [KDownsample2D("constant"), KUpsample2D("constant")])
def test_the_edge_is_padded_as_the_original_does(original: nn.Module) -> None:
    ours = Halve(original) if isinstance(original, KDownsample2D) else Double(original)  # type: ignore[arg-type]
    inputs = _noise((1, 32, 8, 8))
    assert torch.equal(ours(inputs), original(inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("original", [KDownsample2D(), KUpsample2D()])
def test_half_precision_stays_what_it_is(original: nn.Module, dtype: torch.dtype) -> None:
    ours = Halve(original) if isinstance(original, KDownsample2D) else Double(original)  # type: ignore[arg-type]
    inputs = _noise((2, 32, 8, 8)).to(dtype)
    filtered = ours(inputs)
    assert filtered.dtype == dtype
    torch.testing.assert_close(filtered, original(inputs))


def _kinds(unet: nn.Module) -> list[str]:
    resampling = (KDownsample2D, KUpsample2D, Halve, Double)
    return [type(part).__name__ for part in unet.modules() if isinstance(part, resampling)]


def test_all_of_a_unets_resampling_is_replaced_and_nothing_else() -> None:
    # diffusers hides its models' methods from type checkers.
    unet: Any = standin.unet()
    weights = unet.state_dict().keys()
    before = _kinds(unet)
    assert set(before) == {"KDownsample2D", "KUpsample2D"}
    others = [part for part in unet.modules() if type(part).__name__ not in before]
    depthwise(unet)
    replaced = {"KDownsample2D": "Halve", "KUpsample2D": "Double"}
    assert _kinds(unet) == [replaced[kind] for kind in before]
    assert others == [part for part in unet.modules() if type(part).__name__ not in _kinds(unet)]
    assert unet.state_dict().keys() == weights
