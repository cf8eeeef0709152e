"""Measures the model on its device, at the start and without running out of memory."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from twofold_worker.fit import UNBOUNDED, Point, bound, fitted, line
from twofold_worker.upscaler.port import BatchTooLarge
from twofold_worker.vram import PLAIN, SAVINGS, Budget, Mode, Plan, Smallest

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

#: Sides of the square sources that are measured, in pixels. A CPU is too slow for more.
CPU_SIDES: Final = (64, 128, 192)
GPU_SIDES: Final = (128, 256, 384, 512, 768, 1024, 1536, 2048)

#: A run is started only if it is sure to take less than this share of the budget.
_SURE: Final = 0.9
#: More slots are tried while they give this much more pictures a second.
_WORTH: Final = 1.05
#: Batches that are measured beside single slots: rungs, each twice the one before.
_BATCHES: Final = (2, 4, 8, 16, 32)
#: These many slots are tried in any case, where they fit.
_ALWAYS: Final = 4
#: Two sizes for a line and one to hold it against.
_LEAST_SIZES: Final = 3


class Probes(Protocol):
    """Runs one stage once with made-up input, and returns when the device is done.

    Sides are the padded source's, in pixels, multiples of 64. Each raises BatchTooLarge.
    """

    def unet(self, slots: int, height: int, width: int) -> None:
        """One forward of the UNet."""

    def encode(self, height: int, width: int) -> None:
        """Encode one picture."""

    def decode(self, height: int, width: int) -> None:
        """Decode one picture."""


class Meter(Protocol):
    """A device's memory.

    Attributes:
        total_bytes: All that the device has.
    """

    total_bytes: int

    def free_bytes(self) -> int:
        """What this process could still get."""

    def held_bytes(self) -> int:
        """What it has."""

    def peak_bytes(self, run: Callable[[], None]) -> int:
        """The most that a run takes beside what was held before it."""


def measure(
    probes: Probes,
    meter: Meter,
    *,
    budget: float | None = None,
    sides: Sequence[int] = CPU_SIDES,
    max_pixels: int = UNBOUNDED,
    allowance_s: float = 20.0,
    mode: Mode = PLAIN,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Run each stage at growing sizes, and the UNet with growing batches.

    Args:
        probes: Runs the stages.
        meter: Measures the device.
        budget: What the operator allows, as `Budget.of` takes it.
        sides: Of square sources, in pixels, from the smallest.
        max_pixels: Larger sources never come; those sides are left out, but for the first three.
        allowance_s: Seconds for all of it. The first three sizes of a stage are measured even if
            they take longer.
        mode: In which the model runs now.
        clock: Seconds, from anywhere.

    Returns:
        The plan. Where not even the smallest size fits, its `largest_pixels` is 0.
    """
    calibration = _Calibration(
        probes=probes,
        meter=meter,
        budget=budget_of(meter, budget),
        sides=[side for side in sides if side**2 <= max_pixels or side in sides[:_LEAST_SIZES]],
        clock=clock,
    )
    ends_at = clock() + allowance_s
    # What must fit in any case comes first; a stage's unused time is for those after it.
    calibration.share_of(ends_at, stages=3)
    decode = calibration.one_at_a_time(probes.decode)
    calibration.share_of(ends_at, stages=2)
    encode = calibration.one_at_a_time(probes.encode)
    calibration.share_of(ends_at, stages=1)
    unet, seconds = calibration.unet()
    return Plan(
        budget=calibration.budget,
        encode=fitted(encode),
        unet=fitted(unet),
        decode=fitted(decode),
        step_seconds=line(seconds, relative=True) if seconds else None,
        mode=mode,
        smallest=Smallest(side=sides[0], peak_bytes=int(decode[0].value)) if decode else None,
    )


def measure_modes(
    measured: Callable[[Mode], Plan], enter: Callable[[Mode], None], *, wanted_pixels: int
) -> Plan:
    """Measure, and give up speed for memory as long as too little fits and that helps.

    Args:
        measured: Measures the model as it runs now, in this mode.
        enter: Has the model run in a mode from now on; it must not fail, and does nothing where
            the model runs so already.
        wanted_pixels: The largest source that should fit.

    Returns:
        The plan, in whose mode the model runs now.
    """
    plan = measured(PLAIN)
    for saving in SAVINGS:
        if plan.largest_pixels >= wanted_pixels:
            break
        tried = plan.mode | saving
        enter(tried)
        other = measured(tried)
        if other.largest_pixels > plan.largest_pixels:
            plan = other
        else:
            enter(plan.mode)
    return plan


def tried(run: Callable[[], Answer], *, slots: int, side: int) -> Answer | None:
    """What a run gives; None where it does not fit, or fails in a way that is only its own.

    Such a size is no reason for a worker never to start: it is left out.

    Raises:
        DeviceLost: As all else that says so of the device.
    """
    try:
        return run()
    except BatchTooLarge:
        return None
    except RuntimeError as error:
        log.warning("probe_failed", slots=slots, side=side, error=str(error))
        return None


def budget_of(meter: Meter, asked: float | None) -> Budget:
    """What runs may take now; see `Budget.of`."""
    return Budget.of(
        total=meter.total_bytes, free=meter.free_bytes(), held=meter.held_bytes(), asked=asked
    )


@dataclass(slots=True, kw_only=True)
class _Calibration:
    probes: Probes
    meter: Meter
    budget: Budget
    sides: Sequence[int]
    clock: Callable[[], float]
    ends_at: float = 0.0
    pixel_seconds: float = 0.0  # of the last run

    def share_of(self, ends_at: float, *, stages: int) -> None:
        """Leave each of the stages to come the same part of the time that is left."""
        now = self.clock()
        self.ends_at = now + (ends_at - now) / stages

    def one_at_a_time(self, probe: Callable[[int, int], None]) -> list[Point]:
        """Measure a stage that takes one picture, at growing sizes."""
        points: list[Point] = []
        for side in self.sides:
            if not self._measured(points, partial(probe, side, side), 1, side):
                break
        return points

    def unet(self) -> tuple[list[Point], list[Point]]:
        """Bytes and seconds of the UNet: at growing sizes, then with growing batches of one."""
        points: list[Point] = []
        seconds: list[Point] = []
        for side in self.sides:
            if not self._forward(points, seconds, 1, side):
                break
        # The smallest say little of what a batch gains; the largest is held against the line.
        side = self.sides[max(0, len(points) - 1) // 2]
        pace = 0.0
        for slots in _BATCHES:
            if not self._forward(points, seconds, slots, side):
                break
            before, pace = pace, slots / max(1e-9, seconds[-1].value)
            if slots > _ALWAYS and pace < before * _WORTH:
                break
        return points, seconds

    def _forward(self, points: list[Point], seconds: list[Point], slots: int, side: int) -> bool:
        run = partial(self.probes.unet, slots, side, side)
        if not self._measured(points, run, slots, side):
            return False

        def timed() -> float:
            # Timed apart: a meter may slow a run down, and the first of a size may tune kernels.
            started = self.clock()
            run()
            return self.clock() - started

        took = tried(timed, slots=slots, side=side)
        if took is None:
            return False
        seconds.append(Point(slots=slots, pixels=side * side, value=took))
        return True

    def _measured(
        self, points: list[Point], run: Callable[[], None], slots: int, side: int
    ) -> bool:
        """Measure a run, unless it might not fit or there is no time for it."""
        allowed = _SURE * self.budget.now(self.meter.free_bytes())
        if allowed <= 0 or bound(points, slots, side * side) > allowed:
            return False
        started = self.clock()
        expected = self.pixel_seconds * slots * side * side
        if len(points) >= _LEAST_SIZES and started + expected > self.ends_at:
            return False

        def measured() -> int:
            nonlocal started
            if not points:
                run()  # A stage's first run loads kernels, which stay and are not its own.
                started = self.clock()
            return self.meter.peak_bytes(run)

        peak = tried(measured, slots=slots, side=side)
        if peak is None:
            return False
        self.pixel_seconds = (self.clock() - started) / (slots * side * side)
        points.append(Point(slots=slots, pixels=side * side, value=peak))
        return True
