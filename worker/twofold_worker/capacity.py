"""How many slots a step may have now."""

from twofold_schema.lanes import Measure
from twofold_worker import batching


class Capacity:
    """Room on the device.

    Args:
        max_batch: At most so many slots, whatever fits.
    """

    def __init__(self, *, max_batch: int) -> None:
        self._max_batch = max_batch

    largest_pixels: int | None = None
    batch_pixels: int | None = None

    def slots(self, height: int, width: int) -> int:
        return batching.rung_for(self._max_batch, most=self._max_batch)

    def holds(self, measure: Measure) -> bool:
        """Whether a picture fits the device at all."""
        return self.largest_pixels is None or measure.lattice_pixels <= self.largest_pixels
