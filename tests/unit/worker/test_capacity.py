"""What the engine and the ledger are told of the device's room."""

import pytest

from twofold_schema import lanes
from twofold_schema.job import Parameters
from twofold_worker.capacity import Capacity
from twofold_worker.fit import Line
from twofold_worker.vram import Budget, Plan, Stage

GIB = 2**30
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


def test_what_fits_is_decided_by_the_padded_size() -> None:
    capacity = Capacity(max_batch=32, plan=PLAN)
    assert capacity.largest_pixels == GIB // 1000 // 4096 * 4096
    assert capacity.holds(lanes.measure(Parameters(), 1024, 1000))
    assert not capacity.holds(lanes.measure(Parameters(), 1025, 1024))


def test_what_was_measured_above_the_plan_is_believed_from_then_on() -> None:
    peak = 1000 * 512 * 512
    capacity = Capacity(max_batch=32, plan=PLAN, peak_bytes=lambda: peak)
    capacity.observe(Stage.UNET, 1, 512, 512)
    assert capacity.slots(512, 512) == 4
    peak *= 2
    capacity.observe(Stage.UNET, 1, 512, 512)
    assert capacity.slots(512, 512) == 2
    peak //= 2
    capacity.observe(Stage.UNET, 1, 512, 512)
    assert capacity.slots(512, 512) == 2
