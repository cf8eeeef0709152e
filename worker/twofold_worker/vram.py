"""How many slots of a size fit the device, and how many are worth it."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, NonNegativeInt

from twofold_schema.lanes import LATTICE
from twofold_worker.batching import LADDER
from twofold_worker.fit import UNBOUNDED, Line, Table

#: Left free of what the device has: for the driver, fragments, and a neighbour that grows.
_LEAST_RESERVE: Final = 2**29
_RESERVED_SHARE: Final = 0.08

#: A batch is large enough when larger ones give no more than this share less of pictures.
_KNEE: Final = 0.95
#: How far above the prediction is more than noise.
_TOLERANCE: Final = 1.05
#: And what of it the reserve has room for. A new prompt's words are much of a small picture's
#: memory, and nothing of a large one's, which must not be thought to grow with them.
_SLACK_BYTES: Final = 2**26
#: Sides, in pixels, for which the log says what is planned.
_SHOWN_SIDES: Final = (512, 1024)


class Stage(StrEnum):
    """What a picture goes through on the device."""

    ENCODE = "encode"
    UNET = "unet"
    DECODE = "decode"


class Limit(StrEnum):
    """What keeps a batch from being larger."""

    VRAM = "vram"
    KNEE = "knee"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """Ways to need less memory, each of them slower.

    Attributes:
        sliced_attention: Attention is computed one part after the other.
        text_encoder_off: The text encoder is on the device only while it encodes.
    """

    sliced_attention: bool = False
    text_encoder_off: bool = False

    def __str__(self) -> str:
        named = {"sliced_attention": self.sliced_attention, "text_off": self.text_encoder_off}
        return "+".join(name for name, on in named.items() if on) or "plain"

    def __or__(self, other: "Mode") -> "Mode":
        """Both modes' savings."""
        return Mode(
            sliced_attention=self.sliced_attention or other.sliced_attention,
            text_encoder_off=self.text_encoder_off or other.text_encoder_off,
        )


PLAIN: Final = Mode()
#: What can be tried where memory is short, the cheapest first.
SAVINGS: Final = (Mode(sliced_attention=True), Mode(text_encoder_off=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What runs may take of the device, beside the weights that are loaded.

    Attributes:
        allowed_bytes: At most, whatever is free.
        reserve_bytes: Left free.
    """

    allowed_bytes: int
    reserve_bytes: int

    @classmethod
    def of(cls, *, total: int, free: int, held: int, asked: float | None) -> "Budget":
        """What is free less the reserve, or what the operator allows if that is less.

        Args:
            total: The device's bytes.
            free: What this process could still get.
            held: What it has: the weights.
            asked: What the operator allows the process in all: up to 1 a share of the device,
                above 1 bytes; None is no limit.
        """
        reserve = max(_LEAST_RESERVE, math.ceil(total * _RESERVED_SHARE))
        allowed = free - reserve
        if asked is not None:
            allowed = min(allowed, math.floor(asked * total if asked <= 1 else asked) - held)
        return cls(allowed_bytes=max(0, allowed), reserve_bytes=reserve)

    def now(self, free_bytes: int | None) -> int:
        """What runs may take when so much is free; None is not known."""
        if free_bytes is None:
            return self.allowed_bytes
        return max(0, min(self.allowed_bytes, free_bytes - self.reserve_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Smallest:
    """What decoding the smallest measured size took: by it a kept plan is compared with today.

    Attributes:
        side: Of the square source, in pixels.
        peak_bytes: Taken.
    """

    side: Annotated[int, Field(gt=0, multiple_of=LATTICE)]
    peak_bytes: NonNegativeInt


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was learned of the device and the model; sides are the padded source's, in pixels.

    Attributes:
        budget: What runs may take.
        encode: Bytes to encode one picture.
        unet: Bytes of one forward of the UNet.
        decode: Bytes to decode one picture.
        step_seconds: Of one forward of the UNet; None if none was timed.
        mode: How the model has to run for this to hold.
        smallest: None if not even the smallest size could be decoded.
    """

    budget: Budget
    encode: Line | Table
    unet: Line | Table
    decode: Line | Table
    step_seconds: Line | None
    mode: Mode = PLAIN
    smallest: Smallest | None = None

    def most(self, height: int, width: int, *, free_bytes: int | None = None) -> int:
        """Slots of a batch: a rung that fits and is worth it; 0 if not even one fits.

        Args:
            height: Of the padded source.
            width: Of the padded source.
            free_bytes: What this process could get now, where that was asked.
        """
        fitting = self._fitting(height, width, self.budget.now(free_bytes))
        return min(fitting, self.knee(height, width))

    def limit(self, height: int, width: int) -> Limit:
        """What keeps a batch of this size from being larger."""
        fitting = self._fitting(height, width, self.budget.allowed_bytes)
        return Limit.VRAM if fitting < self.knee(height, width) else Limit.KNEE

    def knee(self, height: int, width: int) -> int:
        """The smallest rung that gives nearly as many pictures a second as any."""
        if self.step_seconds is None:
            return LADDER[0]
        pace = {rung: rung / self._seconds(rung, height * width) for rung in LADDER}
        enough = _KNEE * max(pace.values())
        return next(rung for rung in LADDER if pace[rung] >= enough)

    def predicted_bytes(self, stage: Stage, slots: int, height: int, width: int) -> int:
        """What a stage takes, beside the weights; encode and decode take one picture at a time."""
        pictures = slots if stage is Stage.UNET else 1
        taken = self._of(stage).at(pictures, height * width)
        return UNBOUNDED if taken >= UNBOUNDED else math.ceil(taken)

    @property
    def largest_pixels(self) -> int:
        """The largest padded source that fits with one slot, in pixels; 0 if none does."""
        return self.largest(1)

    def largest(self, slots: int) -> int:
        """The largest padded source that fits a step of so many slots, in pixels."""
        budget = self.budget.allowed_bytes
        largest = min(
            self._of(stage).largest(budget, slots if stage is Stage.UNET else 1) for stage in Stage
        )
        return largest // LATTICE**2 * LATTICE**2

    def corrected(self, stage: Stage, measured: int, predicted: int) -> "Plan":
        """The plan after a run that took more than was predicted; the same plan if it did not."""
        if measured <= _TOLERANCE * predicted + _SLACK_BYTES:
            return self
        raised = self._of(stage).raised(measured / max(1, predicted))
        match stage:
            case Stage.ENCODE:
                return replace(self, encode=raised)
            case Stage.UNET:
                return replace(self, unet=raised)
            case Stage.DECODE:
                return replace(self, decode=raised)

    def describe(self) -> dict[str, str | int | float]:
        """The plan for one line of the log."""
        told: dict[str, str | int | float] = {
            "mode": str(self.mode),
            "budget_bytes": self.budget.allowed_bytes,
            "largest_pixels": self.largest_pixels,
        }
        for stage in Stage:
            told[f"{stage}_fit"] = "line" if isinstance(self._of(stage), Line) else "table"
        for side in _SHOWN_SIDES:
            told[f"slots_{side}"] = self.most(side, side)
            told[f"knee_{side}"] = self.knee(side, side)
            told[f"limit_{side}"] = str(self.limit(side, side))
            for stage in Stage:
                told[f"{stage}_bytes_{side}"] = self.predicted_bytes(stage, 1, side, side)
        return told

    def _of(self, stage: Stage) -> Line | Table:
        return {Stage.ENCODE: self.encode, Stage.UNET: self.unet, Stage.DECODE: self.decode}[stage]

    def _fitting(self, height: int, width: int, budget: int) -> int:
        for stage in (Stage.ENCODE, Stage.DECODE):
            if self.predicted_bytes(stage, 1, height, width) > budget:
                return 0
        rungs = (
            rung
            for rung in reversed(LADDER)
            if self.predicted_bytes(Stage.UNET, rung, height, width) <= budget
        )
        return next(rungs, 0)

    def _seconds(self, slots: int, pixels: int) -> float:
        # A clock too coarse for so small a run says nothing; then more slots cost nothing.
        return max(1e-9, self.step_seconds.at(slots, pixels)) if self.step_seconds else 1.0
