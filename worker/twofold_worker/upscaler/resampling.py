"""The K-blocks' resampling as what it is: one small filter for each channel.

diffusers builds a dense weight of C x C x 4 x 4 for it with each call, all zeros but for its
diagonal: a twentieth of the UNet's work. By groups of one channel the result is the same to the
bit on a CPU with AVX-512. On others hundreds of channels are doubled with the same four products
for each pixel in another order.
"""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call"

import torch
from diffusers.models.downsampling import KDownsample2D
from diffusers.models.upsampling import KUpsample2D
from torch import Tensor, nn
from torch.nn import functional


class Halve(nn.Module):
    """`KDownsample2D`, channel by channel: [B, C, h, w] to [B, C, h / 2, w / 2]."""

    def __init__(self, original: KDownsample2D) -> None:
        super().__init__()
        self._edge = (original.pad,) * 4
        self._mode = original.pad_mode
        self.register_buffer("kernel", original.get_buffer("kernel"), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Filter and halve."""
        inputs = functional.pad(inputs, self._edge, self._mode)
        channels = inputs.shape[1]
        weight = _each(self.get_buffer("kernel"), inputs)
        return functional.conv2d(inputs, weight, stride=2, groups=channels)


class Double(nn.Module):
    """`KUpsample2D`, channel by channel: [B, C, h, w] to [B, C, 2h, 2w]."""

    def __init__(self, original: KUpsample2D) -> None:
        super().__init__()
        self._edge = ((original.pad + 1) // 2,) * 4
        self._mode = original.pad_mode
        self._cut = original.pad * 2 + 1
        self.register_buffer("kernel", original.get_buffer("kernel"), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Double and filter."""
        inputs = functional.pad(inputs, self._edge, self._mode)
        channels = inputs.shape[1]
        weight = _each(self.get_buffer("kernel"), inputs)
        return functional.conv_transpose2d(
            inputs, weight, stride=2, padding=self._cut, groups=channels
        )


def depthwise(unet: nn.Module) -> None:
    """Replace a UNet's resampling, in place."""
    for block in unet.modules():
        for name, part in block.named_children():
            if isinstance(part, KDownsample2D):
                setattr(block, name, Halve(part))
            elif isinstance(part, KUpsample2D):
                setattr(block, name, Double(part))


def _each(kernel: Tensor, inputs: Tensor) -> Tensor:
    """The filter once for each channel, [C, 1, 4, 4]."""
    return torch.broadcast_to(kernel.to(inputs), (inputs.shape[1], 1, *kernel.shape))
