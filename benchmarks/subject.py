"""What is measured: a model on a device, and how much of it."""

from dataclasses import dataclass
from typing import Any, Final

import torch

from benchmarks.clock import Clock
from benchmarks.device_model import DeviceModel
from benchmarks.timed import STEP_OPERATIONS, TimedUpscaler
from twofold_worker.upscaler.port import Upscaler

TIMED: Final = "timed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        side: Of a uniform picture, in pixels.
        steps: Of a uniform request.
        range_of_steps: Of the mixed load.
        most: Slots of a step.
        rungs: Batch sizes that are tried.
        images: For one rate.
        per_task: Pictures with the weights loaded for each.
        mixed: Requests of a mixed load.
        streamed: Jobs of a run from end to end, for each format.
        capped: Jobs under the memory cap.
        sides: Of the memory planner's grid.
        size_factor: Of the sides in the natural mix.
        seconds: Of one short measurement.
        images_per_second: Of the timed device.
        operations: Of a timed step.
    """

    side: int
    steps: int
    range_of_steps: tuple[int, int]
    most: int
    rungs: tuple[int, ...]
    images: int
    per_task: int
    mixed: int
    streamed: int
    capped: int
    sides: tuple[int, ...]
    size_factor: float = 1.0
    seconds: float = 1.0
    images_per_second: float = 10.0
    operations: int = STEP_OPERATIONS


_TINY: Final = Scale(
    side=64, steps=2, range_of_steps=(1, 5), most=2, rungs=(1, 2), images=2, per_task=1, mixed=12,
    streamed=24, capped=40, sides=(64, 128), size_factor=0.125, seconds=0.05,
    images_per_second=150.0, operations=20,
)  # fmt: skip
_SMALL: Final = Scale(
    side=128, steps=4, range_of_steps=(2, 10), most=4, rungs=(1, 2, 4), images=8, per_task=3,
    mixed=24, streamed=40, capped=200, sides=(64, 128, 192, 256), size_factor=0.25,
)  # fmt: skip
_FULL: Final = Scale(
    side=512, steps=20, range_of_steps=(10, 50), most=8, rungs=(1, 2, 4, 8, 16), images=48,
    per_task=5, mixed=200, streamed=400, capped=2000, sides=(256, 384, 512, 768, 1024),
)  # fmt: skip
_TIMED: Final = Scale(
    side=512, steps=20, range_of_steps=(10, 50), most=8, rungs=(1, 2, 4, 8, 16), images=24,
    per_task=0, mixed=200, streamed=300, capped=2000, sides=(256, 384, 512, 768, 1024),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model on a device.

    Attributes:
        device: "timed", "cpu" or "cuda".
        size: "tiny", "small" or "full".
    """

    device: str
    size: str

    @property
    def is_timed(self) -> bool:
        """Whether the device is a model of one."""
        return self.device == TIMED

    @property
    def name(self) -> str:
        """What the files of results are called by: "timed", "cpu" or the GPU's name."""
        if self.device != "cuda":
            return self.device
        words = torch.cuda.get_device_name().lower().replace("nvidia", "").split()
        return "-".join(words)

    @property
    def scale(self) -> Scale:
        """How much is measured."""
        if self.size == "tiny":
            return _TINY
        if self.is_timed:
            return _TIMED
        return _FULL if self.size == "full" else _SMALL

    @property
    def torch_device(self) -> torch.device:
        """Where torch works."""
        return torch.device("cpu" if self.is_timed else self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def pipeline(self) -> Any:  # noqa: ANN401 - see `model.Pipeline`
        """The pipeline of diffusers, new, with random weights."""
        from benchmarks import model

        return model.build(self.size, self.torch_device, self.dtype)

    def device_model(self, *, memory_bytes: int | None = None) -> DeviceModel:
        """The timed device."""
        scale = self.scale
        return DeviceModel.calibrated(
            scale.images_per_second,
            rung=scale.most,
            side=scale.side,
            steps=scale.steps,
            fixed_seconds=0.001 if self.size != "tiny" else 0.0001,
            least_seconds=0.006 if self.size != "tiny" else 0.0002,
            memory_bytes=memory_bytes,
        )

    def timed(
        self,
        *,
        clock: Clock | None = None,
        ahead: int = 0,
        memory_bytes: int | None = None,
        makes_pictures: bool = True,
    ) -> TimedUpscaler:
        """The timed upscaler; with a clock of its own it issues no operations."""
        return TimedUpscaler(
            self.device_model(memory_bytes=memory_bytes),
            clock=clock,
            operations=self.scale.operations if clock is None else 0,
            ahead=ahead,
            makes_pictures=makes_pictures,
        )

    def upscaler(self) -> Upscaler:
        """What is measured, warmed up."""
        if self.is_timed:
            return self.timed()
        from benchmarks import model

        upscaler = model.upscaler(self.pipeline())
        upscaler.warm_up()
        return upscaler
