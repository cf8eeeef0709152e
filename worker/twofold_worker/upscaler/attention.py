"""Attention that keeps few scores at a time, where torch has no fused kernel for it."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: Scores that are computed at once: in single precision 256 MiB.
MOST_SCORES: Final = 2**26


def slice_attention(network: Any, *, on: bool) -> None:  # noqa: ANN401 -- a part of diffusers'
    """Have a network compute its attention one part of the queries after the other, or whole.

    A fused kernel keeps no scores, and then this saves nothing. Without one their number is the
    square of the pixels, also in the autoencoder, whose only head is all that diffusers' own
    slicing knows to divide by; and that one gives up the fused kernels.
    """
    network.set_attn_processor(SlicedAttention() if on else AttnProcessor2_0())


class SlicedAttention(AttnProcessor2_0):
    """What diffusers computes by default, in slices of `MOST_SCORES`."""

    # Diffusers reads from the signature what a processor may be given.
    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,  # noqa: ANN401 -- as above
        **kwargs: Any,  # noqa: ANN401 -- as above
    ) -> Tensor:
        """Attend."""
        with _Slices():
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs
            )


class _Slices(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 -- as the function
        named = dict(kwargs or {})
        if (
            func is not functional.scaled_dot_product_attention
            or named.get("attn_mask") is not None
        ):
            return func(*args, **named)
        return _sliced(*args, **named)


def _sliced(query: Tensor, key: Tensor, value: Tensor, **named: Any) -> Tensor:  # noqa: ANN401
    """Attention of some queries at a time over all keys; [batch, heads, queries, width]."""
    batch, heads, queries, _ = query.shape
    at_once = max(1, MOST_SCORES // (batch * heads * key.shape[2]))
    if at_once >= queries:
        return functional.scaled_dot_product_attention(query, key, value, **named)
    # Into one piece of memory: to join the slices would need their sum twice.
    attended = torch.empty_like(query)
    for start in range(0, queries, at_once):
        part = slice(start, start + at_once)
        attended[:, :, part] = functional.scaled_dot_product_attention(
            query[:, :, part], key, value, **named
        )
    return attended
