"""What the engine and the ledger are told of the device's room."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import structlog

from twofold_schema import lanes
from twofold_schema.job import Parameters
from twofold_worker.capacity import Capacity
from twofold_worker.fit import Line
from twofold_worker.vram import Budget, Plan, Stage

GIB = 2**30
USUAL = 1000 * 512 * 512
#: A thousand bytes for each pixel, whatever the stage; time grows with the pixels alone.
PLAN = Plan(
    budget=Budget(allowed_bytes=GIB, reserve_bytes=GIB),
    encode=Line(fixed=0, per_pixel=1000),
    unet=Line(fixed=0, per_pixel=1000),
    decode=Line(fixed=0, per_pixel=1000),
    step_seconds=Line(fixed=1, per_pixel=0),
)


@pytest.mark.parametrize(("max_batch", "rung"), [(1, 1), (5, 4), (32, 32)])
def test_without_a_plan_the_operators_bound_is_all(max_batch: int, rung: int) -> None:
    capacity = Capacity(max_batch=max_batch)
    assert capacity.slots(512, 512) == rung
    assert (capacity.largest_pixels, capacity.batch_pixels) == (None, None)
    assert capacity.holds(lanes.measure(Parameters(), 10**5, 10**5))


def test_slots_shrink_with_what_is_free_now_and_come_back() -> None:
    free = 2 * GIB
    capacity = Capacity(max_batch=32, plan=PLAN, free_bytes=lambda: free)
    assert capacity.slots(512, 512) == 4  # 262,144,000 bytes each
    free = GIB + GIB // 2
    assert capacity.slots(512, 512) == 2
    free = GIB
    assert capacity.slots(512, 512) == 0
    free = 2 * GIB
    assert capacity.slots(512, 512) == 4


def test_a_claim_is_for_as_many_pixels_as_a_step_of_usual_pictures() -> None:
    assert Capacity(max_batch=32, plan=PLAN).batch_pixels == 4 * 512 * 512
    assert Capacity(max_batch=2, plan=PLAN).batch_pixels == 2 * 512 * 512


@pytest.mark.parametrize("rung", [2, 16])
def test_what_fits_takes_a_whole_pinned_step(rung: int) -> None:
    capacity = Capacity(max_batch=32, plan=PLAN, pinned_rung=rung)
    assert capacity.largest_pixels == GIB // 1000 // rung // 4096 * 4096


def test_a_pinned_step_that_takes_less_than_decoding_one_picture_changes_nothing() -> None:
    plan = replace(PLAN, unet=Line(fixed=0, per_pixel=100))
    assert Capacity(max_batch=32, plan=plan, pinned_rung=8).largest_pixels == PLAN.largest_pixels


def test_what_fits_is_decided_by_the_padded_size() -> None:
    capacity = Capacity(max_batch=32, plan=PLAN)
    assert capacity.largest_pixels == GIB // 1000 // 4096 * 4096
    assert capacity.holds(lanes.measure(Parameters(), 1024, 1000))
    assert not capacity.holds(lanes.measure(Parameters(), 1025, 1024))


class Device:
    """Says of each run what it took beside what was held before."""

    def __init__(self) -> None:
        self.held = 0
        self.peak = 0

    def watch(self) -> Callable[[], int]:
        held = self.peak = self.held
        return lambda: self.peak - held

    def run(self, taken: int) -> None:
        self.peak = max(self.peak, self.held + taken)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def capacity(device: Device) -> Capacity:
    return Capacity(max_batch=32, plan=PLAN, watch=device.watch)


def test_what_was_measured_above_the_plan_is_believed_from_then_on(
    device: Device, capacity: Capacity
) -> None:
    for taken, slots in ((USUAL, 4), (2 * USUAL, 2), (USUAL, 2)):
        with structlog.testing.capture_logs() as logs, capacity.observing(Stage.UNET, 1, 512, 512):
            device.run(taken)
        assert capacity.slots(512, 512) == slots
        assert (logs[0]["event"], logs[0]["measured_bytes"]) == ("memory_taken", taken)
        warned = [line["event"] for line in logs[1:]]
        assert warned == (["memory_underestimated"] if taken > USUAL else [])


def test_nothing_is_learned_of_a_call_that_failed(device: Device, capacity: Capacity) -> None:
    """Memory was full when it ran out; the next call, however small, took none of that."""
    largest = capacity.largest_pixels

    def run_out() -> None:
        device.run(32 * USUAL)
        raise MemoryError

    with pytest.raises(MemoryError), capacity.observing(Stage.UNET, 32, 512, 512):
        run_out()
    with capacity.observing(Stage.ENCODE, 1, 64, 64):
        device.run(1000 * 64 * 64)
    assert (capacity.slots(512, 512), capacity.largest_pixels) == (4, largest)


def test_what_others_hold_on_the_device_is_not_of_the_call(
    device: Device, capacity: Capacity
) -> None:
    device.held = GIB // 2
    with capacity.observing(Stage.DECODE, 1, 64, 64):
        device.run(1000 * 64 * 64)
    assert capacity.slots(512, 512) == 4


def test_a_small_picture_that_took_a_little_more_takes_nothing_from_large_ones(
    device: Device, capacity: Capacity
) -> None:
    largest = capacity.largest_pixels
    with capacity.observing(Stage.ENCODE, 1, 64, 64):
        device.run(10 * 1000 * 64 * 64)
    assert capacity.largest_pixels == largest
