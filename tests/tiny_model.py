"""The stand-in's networks, run stage by stage as the planner asks."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call, attr-defined"

import torch

from twofold_worker.upscaler import standin
from twofold_worker.upscaler.port import BatchTooLarge


class TinyModel:
    """Real networks with random weights on the CPU."""

    def __init__(self) -> None:
        self._unet = standin.unet().eval()
        self._vae = standin._vae().eval()

    @torch.no_grad()
    def unet(self, slots: int, height: int, width: int) -> None:
        try:
            self._unet(
                torch.zeros(slots, 8, height // 4, width // 4),
                torch.tensor(1.0),
                encoder_hidden_states=torch.zeros(slots, 77, standin.TEXT_WIDTH),
                timestep_cond=torch.zeros(slots, 128 + standin.TEXT_WIDTH),
            )
        except torch.OutOfMemoryError:
            raise BatchTooLarge from None

    @torch.no_grad()
    def encode(self, height: int, width: int) -> None:
        try:
            self._vae.encode(torch.zeros(1, 3, height, width))
        except torch.OutOfMemoryError:
            raise BatchTooLarge from None

    @torch.no_grad()
    def decode(self, height: int, width: int) -> None:
        try:
            self._vae.decode(torch.zeros(1, 4, height // 4, width // 4))
        except torch.OutOfMemoryError:
            raise BatchTooLarge from None
