"""How many slots a step may have now."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        pinned_rung: Slots of a step of reproducible jobs, whatever fits.
        free_bytes: What this process could get now; None is not known.
        watch: Begins to watch the device; what it returns gives the most bytes that were taken
            since, beside what was held then; None is not known.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        plan: Plan | None = None,
        pinned_rung: int = 1,
        free_bytes: Callable[[], int | None] = lambda: None,
        watch: Callable[[], Callable[[], int | None]] = lambda: lambda: None,
    ) -> None:
        self._rung = batching.rung_for(max_batch, most=max_batch)
        self._plan = plan
        self._pinned_rung = pinned_rung
        self._free_bytes = free_bytes
        self._watch = watch

    @property
    def largest_pixels(self) -> int | None:
        """The largest padded source that fits, in pixels; None if that is not known.

        A reproducible job takes a whole pinned step, and who claims does not tell it from others.
        """
        return None if self._plan is None else self._plan.largest(self._pinned_rung)

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

    @contextmanager
    def observing(self, stage: Stage, slots: int, height: int, width: int) -> Iterator[None]:
        """Compare what is done meanwhile with what is foretold, and believe what was measured.

        Nothing is learned of what fails: up to there it took all that there was.

        Args:
            stage: What is done, and nothing else.
            slots: Of the step, empty ones included; 1 of other stages.
            height: Of the padded source, in pixels.
            width: Of the padded source, in pixels.
        """
        taken = self._watch()
        yield
        measured = taken()
        if self._plan is None or measured is None:
            return
        predicted = self._plan.predicted_bytes(stage, slots, height, width)
        told = {"stage": str(stage), "slots": slots, "height": height, "width": width}
        told |= {"predicted_bytes": predicted, "measured_bytes": measured}
        log.debug("memory_taken", **told)
        corrected = self._plan.corrected(stage, measured, predicted)
        if corrected is not self._plan:
            log.warning(
                "memory_underestimated", **told, largest_pixels=corrected.largest(self._pinned_rung)
            )
            self._plan = corrected
