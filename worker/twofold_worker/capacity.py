"""How many slots a step may have now."""

from collections.abc import Callable

import structlog

from twofold_schema.lanes import Measure
from twofold_worker import batching
from twofold_worker.vram import Plan, Stage

log = structlog.get_logger(__name__)

#: The side of the picture by whose batch the pixels of a claim are counted.
_USUAL_SIDE = 512


class Capacity:
    """Room on the device.

    Args:
        max_batch: At most so many slots, whatever fits.
        plan: What was learned of the device; without one everything fits.
        free_bytes: What this process could get now; None is not known.
        peak_bytes: The most that was taken since it was last asked, beside the weights; None is not
            known.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        plan: Plan | None = None,
        free_bytes: Callable[[], int | None] = lambda: None,
        peak_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._rung = batching.rung_for(max_batch, most=max_batch)
        self._plan = plan
        self._free_bytes = free_bytes
        self._peak_bytes = peak_bytes

    @property
    def largest_pixels(self) -> int | None:
        """The largest padded source that fits, in pixels; None if that is not known."""
        return None if self._plan is None else self._plan.largest_pixels

    @property
    def batch_pixels(self) -> int | None:
        """How many pixels of padded sources fill a step; None if that is not known."""
        if self._plan is None:
            return None
        slots = min(self._rung, self._plan.most(_USUAL_SIDE, _USUAL_SIDE))
        return slots * _USUAL_SIDE**2

    def holds(self, measure: Measure) -> bool:
        """Whether a picture fits the device at all."""
        return self.largest_pixels is None or measure.lattice_pixels <= self.largest_pixels

    def slots(self, height: int, width: int) -> int:
        """Slots of a step now: a rung; 0 if not even one fits.

        Args:
            height: Of the padded source, in pixels.
            width: Of the padded source, in pixels.
        """
        if self._plan is None:
            return self._rung
        return min(self._rung, self._plan.most(height, width, free_bytes=self._free_bytes()))

    def observe(self, stage: Stage, slots: int, height: int, width: int) -> None:
        """Compare what was just done with what was foretold, and believe what was measured."""
        measured = self._peak_bytes()
        if self._plan is None or measured is None:
            return
        predicted = self._plan.predicted_bytes(stage, slots, height, width)
        corrected = self._plan.corrected(stage, measured, predicted)
        if corrected is not self._plan:
            log.warning(
                "memory_underestimated",
                stage=str(stage),
                slots=slots,
                height=height,
                width=width,
                predicted_bytes=predicted,
                measured_bytes=measured,
            )
            self._plan = corrected
