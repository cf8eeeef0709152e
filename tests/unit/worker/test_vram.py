"""A plan never promises more than the device has, and is made without running out of memory."""

from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from tests.simulated_device import Growth, SimulatedDevice

from twofold_worker import calibration
from twofold_worker.batching import LADDER
from twofold_worker.calibration import GPU_SIDES, measure_modes
from twofold_worker.fit import Line, Table
from twofold_worker.upscaler.port import DeviceLost
from twofold_worker.vram import PLAIN, Limit, Mode, Plan, Stage

GIB = 2**30
SLICED = Mode(sliced_attention=True)
TEXT_OFF = Mode(text_encoder_off=True)


def growths(*, linear: tuple[float, float], quadratic: float = 0.0) -> st.SearchStrategy[Growth]:
    return st.builds(
        Growth,
        fixed=st.floats(0, 2**26),
        linear=st.floats(*linear),
        quadratic=st.floats(0, quadratic),
    )


def devices(*, quadratic: float = 0.01, neighbour: int = 0) -> st.SearchStrategy[SimulatedDevice]:
    """Anything from a slice of a small card to a large one; a model about as hungry as ours."""
    return st.builds(
        SimulatedDevice,
        total_bytes=st.integers(GIB, 140 * GIB),
        weights=st.integers(0, 2 * GIB),
        encode_growth=growths(linear=(10, 3000), quadratic=quadratic),
        unet_growth=growths(linear=(10, 2000), quadratic=quadratic),
        decode_growth=growths(linear=(10, 12000), quadratic=quadratic),
        neighbour_bytes=st.integers(0, neighbour),
        start_seconds=st.floats(0, 0.1),
        pixel_seconds=st.floats(0, 1e-5),
    )


budgets = st.one_of(st.none(), st.floats(0.01, 1), st.integers(2**20, 100 * GIB))
sides = st.integers(1, 64).map(lambda count: count * 64)


def measure(device: SimulatedDevice, budget: float | None = None, **more: Any) -> Plan:
    return calibration.measure(
        device,
        device,
        budget=budget,
        sides=GPU_SIDES,
        clock=device.clock,
        **more,
    )


def h100(**more: Any) -> SimulatedDevice:
    """The real model's numbers (design notes, 2.1) in half precision with fused attention."""
    return replace(
        SimulatedDevice(
            total_bytes=80 * GIB,
            weights=2 * GIB,
            encode_growth=Growth(linear=1270),
            unet_growth=Growth(linear=672),
            decode_growth=Growth(linear=6144),
        ),
        **more,
    )


@given(device=devices(), budget=budgets)
def test_no_run_goes_above_nine_tenths_of_the_budget_but_the_smallest(
    device: SimulatedDevice, budget: float | None
) -> None:
    plan = measure(device, budget)
    budgeted = plan.budget.allowed_bytes
    free = device.total_bytes - device.weights
    for _, slots, pixels, left in device.runs:
        if slots > 1 or pixels > GPU_SIDES[0] ** 2:
            assert free - left <= 0.9 * budgeted
    if all(
        growth.at(1, GPU_SIDES[0] ** 2) <= free
        for growth in (device.encode_growth, device.unet_growth, device.decode_growth)
    ):
        assert device.out_of_memory == 0


@given(device=devices(neighbour=2**28), budget=budgets)
def test_a_neighbour_that_grows_meanwhile_does_not_make_it_run_out(
    device: SimulatedDevice, budget: float | None
) -> None:
    measure(device, budget)
    for stage, slots, pixels, left in device.runs:
        assert left >= 0 or (slots == 1 and pixels == GPU_SIDES[0] ** 2), stage


@given(device=devices(), budget=budgets, height=sides, width=sides, free=st.integers(0, 80 * GIB))
def test_a_batch_is_a_rung_whose_every_stage_is_within_the_budget(
    device: SimulatedDevice, budget: float | None, height: int, width: int, free: int
) -> None:
    plan = measure(device, budget)
    for now in (None, free):
        most = plan.most(height, width, free_bytes=now)
        allowed = plan.budget.now(now)
        assert most in {0, *LADDER}
        if most:
            for stage in Stage:
                assert plan.predicted_bytes(stage, most, height, width) <= allowed
    if most == 0:
        assert any(plan.predicted_bytes(stage, 1, height, width) > allowed for stage in Stage)


@given(device=devices(), height=sides, width=sides, more=sides, free=st.integers(0, 80 * GIB))
def test_more_memory_or_a_smaller_picture_never_means_fewer_slots(
    device: SimulatedDevice, height: int, width: int, more: int, free: int
) -> None:
    plan = measure(device)
    assert plan.most(height, width, free_bytes=free) <= plan.most(
        height, width, free_bytes=2 * free
    )
    here, larger = (plan.most(side, width, free_bytes=free) for side in (height, height + more))
    assert larger <= here or here == 0 == larger


@given(device=devices(quadratic=0.0), height=sides, width=sides)
def test_of_a_device_without_surprises_it_promises_what_is_true(
    device: SimulatedDevice, height: int, width: int
) -> None:
    plan = measure(device)
    most = plan.most(height, width)
    for growth, slots in (
        (device.encode_growth, 1),
        (device.decode_growth, 1),
        (device.unet_growth, most),
    ):
        if most:
            assert growth.at(slots, height * width) <= plan.budget.allowed_bytes * (1 + 1e-6) + 64


@given(device=devices(), budget=budgets)
def test_the_largest_source_fits_and_one_step_larger_does_not(
    device: SimulatedDevice, budget: float | None
) -> None:
    plan = measure(device, budget)
    steps = plan.largest_pixels // 64**2
    if 0 < steps < 2**40:
        assert plan.most(64, 64 * steps) >= 1
    if steps < 2**40:
        assert plan.most(64, 64 * (steps + 1)) == 0


@given(device=devices(), budget=budgets, slots=st.sampled_from(LADDER))
def test_the_largest_source_of_a_step_fits_it_and_a_larger_one_does_not(
    device: SimulatedDevice, budget: float | None, slots: int
) -> None:
    plan = measure(device, budget)
    steps = plan.largest(slots) // 64**2

    def fits(count: int) -> bool:
        taken = (plan.predicted_bytes(stage, slots, 64, 64 * count) for stage in Stage)
        return max(taken) <= plan.budget.allowed_bytes

    if steps < 2**40:
        assert steps == 0 or fits(steps)
        assert not fits(steps + 1)


def test_a_large_card_is_bound_by_the_knee_and_a_small_one_by_its_memory() -> None:
    large = measure(h100())
    assert large.limit(512, 512) is Limit.KNEE
    assert large.most(512, 512) == large.knee(512, 512) < LADDER[-1]
    small = measure(h100(total_bytes=5 * GIB, weights=GIB, pixel_seconds=1e-9))
    assert small.limit(512, 512) is Limit.VRAM
    assert 1 <= small.most(512, 512) < small.knee(512, 512)


def test_the_knee_is_the_smallest_rung_with_nearly_the_best_pace() -> None:
    device = h100(start_seconds=0.006, pixel_seconds=1e-7)
    plan = measure(device)
    for side in (64, 512, 1024):
        pace = {rung: rung / (0.006 + 1e-7 * rung * side**2) for rung in LADDER}
        wanted = next(rung for rung in LADDER if pace[rung] >= 0.95 * max(pace.values()))
        assert plan.knee(side, side) == wanted
    assert plan.knee(64, 64) > plan.knee(512, 512) > 1


def test_unfused_attention_is_seen_and_large_sizes_are_not_promised_from_small_ones() -> None:
    """Half a GiB of scores at 512 pixels are 8 at 1024 and 128 at 2048."""
    plan = measure(h100(decode_growth=Growth(linear=6144, quadratic=GIB / 2 / 512**4)))
    assert isinstance(plan.decode, Table)
    assert plan.most(1024, 1024) >= 1
    assert plan.most(2048, 2048) == 0


@pytest.mark.parametrize("total", [2**20, GIB // 2])
def test_a_device_on_which_nothing_fits_is_no_crash(total: int) -> None:
    device = h100(total_bytes=total, weights=0)
    plan = measure_modes(
        lambda mode: measure(device, mode=mode), device.enter, wanted_pixels=2048**2
    )
    assert (plan.most(64, 64), plan.largest_pixels) == (0, 0)
    assert not device.runs


def test_a_first_run_that_does_not_fit_is_an_answer() -> None:
    plan = measure(h100(decode_growth=Growth(fixed=90 * GIB)))
    assert (plan.largest_pixels, plan.smallest) == (0, None)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (0.5, 40 * GIB - 2 * GIB),
        (10 * GIB, 8 * GIB),
        (GIB, 0),
        (1, None),
        (79 * GIB, None),
    ],
)
def test_an_operators_budget_holds_the_weights_too_and_never_takes_the_reserve(
    asked: float, allowed: int | None
) -> None:
    plan = measure(h100(), asked)
    reserve = -int(-0.08 * 80 * GIB // 1)
    assert plan.budget.reserve_bytes == reserve
    assert plan.budget.allowed_bytes == (78 * GIB - reserve if allowed is None else allowed)


def test_a_small_device_keeps_half_a_gib_free() -> None:
    assert measure(h100(total_bytes=4 * GIB)).budget.reserve_bytes == GIB // 2


def test_when_the_time_is_up_three_sizes_are_all_that_is_measured() -> None:
    device = h100()
    plan = measure(device, allowance_s=0)
    assert {pixels for stage, _, pixels, _ in device.runs if stage == "decode"} == {
        side**2 for side in GPU_SIDES[:3]
    }
    assert isinstance(plan.decode, Line)
    assert plan.step_seconds is not None


@given(device=devices(), allowance_s=st.floats(1, 100))
def test_it_takes_hardly_longer_than_allowed(device: SimulatedDevice, allowance_s: float) -> None:
    measure(device, allowance_s=allowance_s)
    first_three = sum(
        4 * (device.start_seconds + device.pixel_seconds * side**2) for side in GPU_SIDES[:3]
    )
    # A forward is timed after it was measured, and a batch starts as slowly as a single one.
    assert device.seconds <= 2 * allowance_s + 3 * first_three


def test_sizes_that_never_come_are_not_measured() -> None:
    device = h100()
    measure(device, max_pixels=768**2)
    assert max(pixels for _, _, pixels, _ in device.runs) == 768**2


@given(device=devices(), stage=st.sampled_from(Stage), excess=st.floats(1.06, 10))
def test_a_stage_that_took_more_than_foretold_is_foretold_higher(
    device: SimulatedDevice, stage: Stage, excess: float
) -> None:
    plan = measure(device)
    predicted = plan.predicted_bytes(stage, 1, 512, 512)
    if predicted > 2**50:  # it was never measured
        return
    measured = int(predicted * excess) + 2**26
    raised = plan.corrected(stage, measured, predicted)
    assert raised.predicted_bytes(stage, 1, 512, 512) >= measured * (1 - 1e-6)
    assert raised.largest_pixels <= plan.largest_pixels
    for other in set(Stage) - {stage}:
        assert raised.predicted_bytes(other, 1, 512, 512) == plan.predicted_bytes(
            other, 1, 512, 512
        )


@pytest.mark.parametrize("share", [0.5, 1.0, 1.05])
def test_a_stage_that_took_about_what_was_foretold_changes_nothing(share: float) -> None:
    plan = measure(h100())
    predicted = plan.predicted_bytes(Stage.DECODE, 1, 512, 512)
    assert plan.corrected(Stage.DECODE, int(share * predicted), predicted) is plan


@pytest.mark.parametrize("side", [GPU_SIDES[0], 512])
def test_a_size_that_does_not_run_is_left_out(side: int) -> None:
    device = h100(failing={side**2: RuntimeError("no kernel for that")})
    with structlog.testing.capture_logs() as logs:
        plan = measure(device)
    assert {entry["side"] for entry in logs if entry["event"] == "probe_failed"} == {side}
    assert max((pixels for _, _, pixels, _ in device.runs), default=0) < side**2
    assert (plan.largest_pixels > 0) is (side > GPU_SIDES[0])


def test_a_device_that_is_lost_is_no_size_that_does_not_run() -> None:
    with pytest.raises(DeviceLost):
        measure(h100(failing={512**2: DeviceLost()}))


class TestModes:
    @staticmethod
    def _planned(device: SimulatedDevice, *, wanted: int = 2048**2) -> Plan:
        return measure_modes(
            lambda mode: measure(device, mode=mode), device.enter, wanted_pixels=wanted
        )

    def test_enough_memory_means_no_other_mode_is_tried(self) -> None:
        device = h100()
        assert self._planned(device).mode == PLAIN
        assert device.entered == []

    def test_one_that_helps_enough_is_kept_and_no_further_one_is_tried(self) -> None:
        device = h100(decode_growth=Growth(linear=6144, quadratic=GIB / 2 / 512**4))
        plan = self._planned(device)
        assert plan.mode == device.mode == SLICED
        assert device.entered == [SLICED]
        assert plan.largest_pixels >= 2048**2

    def test_one_that_does_not_help_is_left_again(self) -> None:
        device = h100(total_bytes=6 * GIB)
        plan = self._planned(device)
        assert plan.mode == device.mode == PLAIN
        assert device.entered == [SLICED, PLAIN, TEXT_OFF, PLAIN]

    def test_one_that_helps_is_kept_without_the_one_that_did_not(self) -> None:
        device = h100(total_bytes=6 * GIB, text_weights=GIB)
        plan = self._planned(device)
        assert plan.mode == device.mode == TEXT_OFF
        assert plan.largest_pixels > measure(replace(device, mode=PLAIN)).largest_pixels

    def test_both_may_be_needed(self) -> None:
        device = h100(
            total_bytes=8 * GIB,
            text_weights=GIB,
            decode_growth=Growth(linear=6144, quadratic=GIB / 2 / 512**4),
        )
        plan = self._planned(device)
        assert plan.mode == device.mode == SLICED | TEXT_OFF
        assert str(plan.mode) == "sliced_attention+text_off"


def test_the_log_says_what_is_planned() -> None:
    plan = measure(h100())
    told = plan.describe()
    assert told["mode"] == "plain"
    assert told["largest_pixels"] == plan.largest_pixels
    assert told["slots_512"] == plan.most(512, 512)
    assert told["decode_bytes_512"] == pytest.approx(6144 * 512**2, rel=0.01)
    assert (told["limit_512"], told["decode_fit"]) == ("knee", "line")
