"""How each device computes fastest: numbers of 16 or 32 bits, channels last or first."""

import torch
from torch import nn


def shortened(device: torch.device) -> torch.autocast:
    """Convolutions in bfloat16, on a device that has it.

    A processor without it takes ten times as long as in float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device))


def placed(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device, its weights in the order that the device reads best.

    Inputs need none: a convolution's result has the order of its weights.
    """
    order = torch.channels_last if _has_bfloat16(device) else torch.contiguous_format
    model.to(device, memory_format=order)  # type: ignore[call-overload]  # torch forgot it


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
