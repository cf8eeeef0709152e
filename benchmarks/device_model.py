"""How long a GPU takes, as a function of what it is given.

The shares of the parts are their FLOPs, counted on the published configuration for a 512x512
source. A step of a batch never takes less than its launches: about a thousand at 6 us each.
"""

from dataclasses import dataclass
from typing import Final, Self

UNET_TFLOP: Final = 1.281
DECODE_TFLOP: Final = 10.47
ENCODE_TFLOP: Final = 1.12
COUNTED_PIXELS: Final = 512 * 512

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """A device's times and memory.

    Attributes:
        seconds_per_tflop: Of work, once enough of it is there.
        fixed_seconds: What each step costs beside its work.
        least_seconds: The floor of a step: its launches.
        weights_bytes: What the weights take.
        memory_bytes: All that it has; None for no end of it.
    """

    seconds_per_tflop: float
    fixed_seconds: float = 0.001
    least_seconds: float = 0.006
    weights_bytes: int = 1160 * 10**6
    memory_bytes: int | None = None

    @classmethod
    def calibrated(
        cls,
        images_per_second: float = 10.0,
        *,
        rung: int = 8,
        side: int = 512,
        steps: int = 20,
        fixed_seconds: float = 0.001,
        least_seconds: float = 0.006,
        memory_bytes: int | None = None,
    ) -> Self:
        """The device that makes so many pictures a second at this rung, side and step count.

        Raises:
            ValueError: It cannot be that fast: the launches alone take longer.
        """
        tflop = (steps * UNET_TFLOP + DECODE_TFLOP + ENCODE_TFLOP) * side**2 / COUNTED_PIXELS
        rest = 1 / images_per_second - steps * fixed_seconds / rung
        model = cls(
            seconds_per_tflop=rest / tflop,
            fixed_seconds=fixed_seconds,
            least_seconds=least_seconds,
            memory_bytes=memory_bytes,
        )
        if rest <= 0 or model.step_seconds(rung, side**2) <= least_seconds:
            raise ValueError(f"{images_per_second} images/s leave no time for the launches")
        return model

    def step_seconds(self, rung: int, pixels: int) -> float:
        """One UNet forward of so many slots with sources of so many pixels each."""
        work = UNET_TFLOP * rung * pixels / COUNTED_PIXELS
        return max(self.least_seconds, self.fixed_seconds + work * self.seconds_per_tflop)

    def encode_seconds(self, pixels: int) -> float:
        """The autoencoder's first half on a source of so many pixels."""
        return ENCODE_TFLOP * pixels / COUNTED_PIXELS * self.seconds_per_tflop

    def decode_seconds(self, pixels: int) -> float:
        """Its other half on the result of such a source."""
        return DECODE_TFLOP * pixels / COUNTED_PIXELS * self.seconds_per_tflop

    def images_per_second(self, rung: int, *, side: int, steps: int) -> float:
        """What it makes when every step has a full rung and nothing else takes time."""
        pixels = side**2
        sampling = steps * self.step_seconds(rung, pixels) / rung
        return 1 / (sampling + self.encode_seconds(pixels) + self.decode_seconds(pixels))

    def step_bytes(self, rung: int, pixels: int) -> int:
        """The most memory that a step takes, with the weights."""
        return self.weights_bytes + int(168 * _MIB * rung * pixels / COUNTED_PIXELS)

    def decode_bytes(self, pixels: int) -> int:
        """The most memory that decoding one picture takes, with the weights."""
        return self.weights_bytes + int(1536 * _MIB * pixels / COUNTED_PIXELS)

    def fits(self, needed_bytes: int) -> bool:
        """Whether the device has that much."""
        return self.memory_bytes is None or needed_bytes <= self.memory_bytes
