"""An upscaler without a model: every pixel four times. It passes the suite of the real one."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from twofold_schema.errors import JobError
from twofold_worker.upscaler.port import BatchTooLarge, Pixels, Slot


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
    ) -> list[Pixels | JobError]:
        if not 1 <= len(slots) <= rung:
            raise ValueError(f"{len(slots)} slots do not fit a rung of {rung}")
        for _ in range(steps):
            on_step()
        return [slot.pixels.repeat(2, axis=0).repeat(2, axis=1) for slot in slots]


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
    ) -> list[Pixels | JobError]:
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
    ) -> list[Pixels | JobError]:
        self.rungs.append(rung)
        if rung > self._most:
            raise BatchTooLarge
        return super().upscale(
            slots, rung=rung, steps=steps, guidance_scale=guidance_scale, on_step=on_step
        )
