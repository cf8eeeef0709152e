"""An upscaler without a model: every pixel four times. It passes the suite of the real one."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twofold_schema.errors import JobError
from twofold_worker.upscaler.port import BatchTooLarge, Latents, Made, Pixels, Slot


class NearestUpscaler:
    """`Upscaler` by repetition of pixels."""

    name = "nearest"
    revision = "1"

    def warm_up(self) -> None:
        pass

    def upscale(
        self,
        slots: Sequence[Slot],
        *,
        rung: int,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[], None],
    ) -> list[Made | JobError]:
        if not 1 <= len(slots) <= rung:
            raise ValueError(f"{len(slots)} slots do not fit a rung of {rung}")
        for _ in range(steps):
            on_step()
        return [_made(slot) for slot in slots]


def _made(slot: Slot) -> Made:
    if slot.source.dtype == np.uint8:
        pixels = slot.source.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        latents = slot.source[::8, ::8, [0, 1, 2, 0]].transpose(2, 0, 1).astype(np.float32)
    else:
        latents = slot.source.astype(np.float32)
        pixels = _shown(latents).repeat(16, axis=0).repeat(16, axis=1)
    if not slot.wants_latents:
        return Made(pixels=pixels)
    return Made(pixels=pixels[::8, ::8], latents=latents.repeat(2, axis=1).repeat(2, axis=2))


def _shown(latents: Latents) -> Pixels:
    """The first three channels, as if they were colours: uint8 [h, w, 3]."""
    return np.clip(latents[:3].transpose(1, 2, 0) * 32 + 128, 0, 255).astype(np.uint8)


class Hanging(NearestUpscaler):
    """Hangs at its first batch, once per marker file: its successor works."""

    def __init__(self, marker: Path, *, holding_gil: bool) -> None:
        self._marker = marker
        self._holding_gil = holding_gil

    def upscale(
        self,
        slots: Sequence[Slot],
        *,
        rung: int,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[], None],
    ) -> list[Made | JobError]:
        if not self._marker.exists():
            self._marker.touch()
            if self._holding_gil:
                # PyDLL, unlike CDLL, keeps the GIL during the call.
                ctypes.PyDLL(None).sleep(3600)
            threading.Event().wait()
        return super().upscale(
            slots, rung=rung, steps=steps, guidance_scale=guidance_scale, on_step=on_step
        )


class Small(NearestUpscaler):
    """A device that holds only so many slots."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rungs: list[int] = []

    def upscale(
        self,
        slots: Sequence[Slot],
        *,
        rung: int,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[], None],
    ) -> list[Made | JobError]:
        self.rungs.append(rung)
        if rung > self._most:
            raise BatchTooLarge
        return super().upscale(
            slots, rung=rung, steps=steps, guidance_scale=guidance_scale, on_step=on_step
        )
