"""The stand-in's networks, run stage by stage as the planner asks."""

# diffusers calls itself typed and mostly is not.
# mypy: disable-error-code="no-untyped-call, attr-defined"

import torch

from twofold_worker.upscaler import standin
from twofold_worker.upscaler.port import BatchTooLarge


class TinyModel:
    """Real networks with random weights."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._unet = standin.unet().eval().to(self._device)
        self._vae = standin.vae().eval().to(self._device)

    def _zeros(self, *sides: int) -> torch.Tensor:
        return torch.zeros(*sides, device=self._device)

    @torch.no_grad()
    def unet(self, slots: int, height: int, width: int) -> None:
        try:
            self._unet(
                self._zeros(slots, 8, height // 4, width // 4),
                torch.tensor(1.0, device=self._device),
                encoder_hidden_states=self._zeros(slots, 77, standin.TEXT_WIDTH),
                timestep_cond=self._zeros(slots, 128 + standin.TEXT_WIDTH),
            )
        except torch.OutOfMemoryError:
            raise BatchTooLarge from None

    @torch.no_grad()
    def encode(self, height: int, width: int) -> None:
        try:
            self._vae.encode(self._zeros(1, 3, height, width))
        except torch.OutOfMemoryError:
            raise BatchTooLarge from None

    @torch.no_grad()
    def decode(self, height: int, width: int) -> None:
        try:
            self._vae.decode(self._zeros(1, 4, height // 4, width // 4))
        except torch.OutOfMemoryError:
            raise BatchTooLarge from None
