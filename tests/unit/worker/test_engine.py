"""What the engine does next, turn by turn, over a device that notes it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import claimed_job
from tests.upscalers import NearestUpscaler, Noting, Small

from twofold_schema import lanes
from twofold_schema.errors import ModelOutputInvalid
from twofold_schema.job import Parameters
from twofold_schema.states import JobClass
from twofold_worker.batching import LADDER, Ceiling
from twofold_worker.capacity import Capacity
from twofold_worker.codec.source import Picture
from twofold_worker.engine import Answer, Engine
from twofold_worker.holdings import Holdings
from twofold_worker.outcome import Failed, Released
from twofold_worker.progress import Progress
from twofold_worker.upscaler.port import BatchTooLarge, DeviceLost, Made, Request, Sample, Upscaler
from twofold_worker.vram import Stage
from twofold_worker.work import Prepared, Upscaled

PINNED = 4


def job(
    seed: int,
    *,
    steps: int = 2,
    side: int = 64,
    guidance_scale: float = 0.0,
    reproducible: bool = False,
    job_class: JobClass = JobClass.STANDARD,
) -> Prepared:
    """A job whose seed is its name."""
    parameters = Parameters(
        seed=seed, steps=steps, guidance_scale=guidance_scale, reproducible=reproducible
    )
    pixels = np.full((side, side, 3), seed % 256, np.uint8)
    return Prepared(
        claimed_job(
            parameters=parameters,
            job_class=job_class,
            lane=lanes.measure(parameters, side, side).lane,
        ),
        Picture(pixels=pixels, alpha=None),
        Request(source=pixels, seed=seed, steps=steps, guidance_scale=guidance_scale),
    )


class Bench:
    """An engine, and what came of the jobs that it was given, by their seeds."""

    def __init__(
        self, upscaler: Upscaler, *, most: int = 4, capacity: Capacity | None = None
    ) -> None:
        self.now = 0.0
        self.holdings = Holdings()
        self.engine = Engine(
            upscaler,
            capacity or Capacity(max_batch=most),
            pinned_rung=PINNED,
            holdings=self.holdings,
            progress=Progress(1.0),
            clock=lambda: self.now,
        )
        self.ended: list[tuple[int, str]] = []
        self.rungs: dict[int, tuple[int, ...]] = {}
        self.gpu_seconds: dict[int, float] = {}
        self._seeds: dict[object, int] = {}

    def add(self, *jobs: Prepared) -> None:
        for prepared in jobs:
            self.holdings.take([prepared.job.claim])
            self._seeds[prepared.job.claim] = prepared.request.seed
            self.engine.add(prepared)

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            for answer in self.engine.turn():
                self._note(answer)

    def run(self) -> None:
        while not self.engine.is_idle:
            self.turn()

    def _note(self, answer: Answer) -> None:
        match answer:
            case Upscaled(prepared, made, rungs, gpu_seconds):
                assert made.pixels[0, 0, 0] == prepared.request.seed % 256
                self.rungs[prepared.request.seed] = rungs
                self.gpu_seconds[prepared.request.seed] = gpu_seconds
                self.ended.append((prepared.request.seed, "made"))
            case Failed(claim, error):
                self.ended.append((self._seeds[claim], error.code))
            case Released(claim):
                self.ended.append((self._seeds[claim], "released"))


def test_jobs_of_several_lengths_share_steps_and_each_leaves_when_it_is_done() -> None:
    device = Noting()
    bench = Bench(device, most=2)
    bench.add(job(1, steps=1), job(2, steps=3), job(3, steps=2))
    bench.run()
    assert device.steps == [(1, 2), (2, 3), (2, 3)]
    assert bench.ended == [(1, "made"), (2, "made"), (3, "made")]


class Slow(NearestUpscaler):
    """A device whose calls take their time on the bench's clock."""

    bench: Bench

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        self.bench.now += 1
        return super().begin(request, careful=careful)

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        self.bench.now += 4 * rung
        super().step(samples, rung=rung)

    def finish(self, sample: Sample) -> Made:
        self.bench.now += 2
        return super().finish(sample)


def _on_a_slow_device(*jobs: Prepared) -> Bench:
    device = Slow()
    device.bench = Bench(device)
    device.bench.add(*jobs)
    device.bench.run()
    return device.bench


def test_each_pays_for_its_part_of_the_devices_time() -> None:
    bench = _on_a_slow_device(job(1, steps=1), job(2, steps=2), job(3, steps=2, guidance_scale=2.0))
    # Each begins alone. A step of four slots takes 16 s, one of three 12; the first that a turn
    # finishes is finished by all who stepped.
    assert bench.gpu_seconds[1] == pytest.approx(1 + 16 / 4 + 2 / 4)
    assert bench.gpu_seconds[2] == pytest.approx(1 + 16 / 4 + 2 / 4 + 12 / 3 + 2 / 3)
    assert bench.gpu_seconds[3] == pytest.approx(1 + 32 / 4 + 4 / 4 + 24 / 3 + 4 / 3 + 2)


@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([64, 128]), st.sampled_from([0.0, 2.0])),
        min_size=1,
        max_size=8,
    )
)
def test_together_they_pay_for_all_of_it(jobs: list[tuple[int, int, float]]) -> None:
    bench = _on_a_slow_device(
        *(
            job(seed, steps=steps, side=side, guidance_scale=guidance)
            for seed, (steps, side, guidance) in enumerate(jobs)
        )
    )
    assert sum(bench.gpu_seconds.values()) == pytest.approx(bench.now)


def test_who_comes_enters_before_the_next_step() -> None:
    device = Noting()
    bench = Bench(device)
    bench.add(job(1, steps=3))
    bench.turn()
    bench.add(job(2, steps=3))
    bench.run()
    assert device.steps == [(1,), (1, 2), (1, 2), (2,)]
    assert bench.rungs == {1: (1, 2), 2: (2, 1)}


@pytest.mark.parametrize("side", [64, 128], ids=["in the lane", "in another"])
def test_who_is_urgent_waits_for_one_step(side: int) -> None:
    device = Noting()
    bench = Bench(device, most=2)
    bench.add(job(1, steps=4), job(2, steps=4), job(3, steps=4, side=192))
    bench.turn()
    bench.add(job(9, steps=1, side=side, job_class=JobClass.INTERACTIVE))
    bench.turn()
    assert bench.ended == [(9, "made")]
    bench.run()
    assert sorted(bench.ended[1:]) == [(1, "made"), (2, "made"), (3, "made")]


def test_urgent_ones_take_no_more_seats_than_a_step_has() -> None:
    """Beyond that they wait, and no more of their class is claimed while they do."""
    bench = Bench(Noting(), most=2)
    bench.add(job(1, steps=4), job(2, steps=4), job(3))
    bench.turn()
    waiting = [bench.engine.next_class]
    bench.add(*(job(seed, job_class=JobClass.INTERACTIVE) for seed in (5, 6, 7)))
    bench.turn()
    waiting.append(bench.engine.next_class)
    assert waiting == [JobClass.STANDARD, JobClass.INTERACTIVE]
    bench.run()
    assert [seed for seed, _ in bench.ended[:3]] == [5, 6, 7]


def test_who_is_called_off_frees_its_slot() -> None:
    device = Noting()
    bench = Bench(device, most=1)
    first, second, third = job(1, steps=9), job(2), job(3)
    bench.add(first, second, third)
    bench.turn()
    bench.holdings.reconcile(
        {first.job.claim: True, second.job.claim: True, third.job.claim: False}
    )
    bench.run()
    assert device.steps == [(1,), (3,), (3,)]
    assert sorted(bench.ended[:2]) == [(1, "released"), (2, "released")]


def test_a_lane_is_not_refilled_past_who_came_before() -> None:
    """Two lanes are open and a third one's job is next: whoever comes later waits behind it."""
    device = Noting()
    bench = Bench(device, most=2)
    bench.add(job(1), job(2, side=128))
    bench.turn()
    bench.add(job(3, side=192), job(4))
    bench.run()
    assert device.steps.index((3,)) < device.steps.index((4,))


def test_no_step_mixes_sizes_or_pinned_with_free() -> None:
    device = Noting()
    bench = Bench(device, most=8)
    bench.add(job(1), job(2, side=128), job(3, reproducible=True), job(4), job(5, side=128))
    bench.run()
    assert {frozenset(step) for step in device.steps} == {
        frozenset({1, 4}),
        frozenset({2, 5}),
        frozenset({3}),
    }
    assert bench.rungs[3] == (PINNED,)


def test_guidance_takes_two_slots() -> None:
    device = Noting()
    bench = Bench(device, most=4)
    bench.add(job(1, guidance_scale=3.0), job(2), job(3, guidance_scale=3.0), job(4))
    bench.turn()
    assert device.steps == [(1, 2, 4)]
    bench.run()
    assert device.steps == [(1, 2, 4), (1, 2, 4), (3,), (3,)]
    assert device.rungs == [4, 4, 2, 2]


def test_guidance_is_tried_where_only_one_slot_is_allowed() -> None:
    device = Noting()
    bench = Bench(device, most=1)
    bench.add(job(1, guidance_scale=3.0))
    bench.run()
    assert (bench.ended, device.rungs) == ([(1, "made")], [2, 2])


class Scripted(NearestUpscaler):
    """Raises what it is told to, at the calls that it is told by name and number."""

    def __init__(self, troubles: dict[tuple[str, int], Exception]) -> None:
        self._troubles = troubles
        self.calls = {"begin": 0, "step": 0, "finish": 0}
        self.tried: list[int] = []

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        self._meet("begin")
        return super().begin(request, careful=careful)

    def step(self, samples: Sequence[Sample], *, rung: int) -> None:
        self.tried.append(rung)
        self._meet("step")
        super().step(samples, rung=rung)

    def finish(self, sample: Sample) -> Made:
        self._meet("finish")
        return super().finish(sample)

    def _meet(self, call: str) -> None:
        number = self.calls[call]
        self.calls[call] += 1
        if (call, number) in self._troubles:
            raise self._troubles[call, number]


CALLS = [("begin", 0), ("begin", 3), ("step", 0), ("step", 2), ("finish", 0), ("finish", 3)]


@pytest.mark.parametrize("point", CALLS, ids=str)
def test_lack_of_memory_at_any_call_costs_at_most_the_job_that_was_alone(
    point: tuple[str, int],
) -> None:
    bench = Bench(Scripted({point: BatchTooLarge()}))
    bench.add(*(job(seed, steps=2 + seed) for seed in range(4)))
    bench.run()
    ends = sorted(how for _, how in bench.ended)
    alone = point[0] != "step"
    assert ends == ["made"] * (4 - alone) + ["out_of_memory"] * alone


@pytest.mark.parametrize("holds", [0, 1, 2, 3, 5, 8, 13, 32])
def test_a_batch_that_does_not_fit_is_split_log2_times_and_no_attempt_is_used(holds: int) -> None:
    device = Small(holds)
    bench = Bench(device, most=32)
    bench.add(*(job(seed) for seed in range(32)))
    bench.run()
    failed = sum(rung > holds for rung in device.rungs)
    if holds:
        assert {how for _, how in bench.ended} == {"made"}
        assert failed <= math.log2(32) + 1
    else:
        assert {how for _, how in bench.ended} == {"out_of_memory"}
        assert device.rungs[: math.floor(math.log2(32)) + 1] == [32, 16, 8, 4, 2, 1]
    assert len(bench.ended) == 32


def test_after_a_split_the_rung_is_won_back_one_at_a_time() -> None:
    ceiling = Ceiling()
    ceiling.lower(16)
    assert ceiling.most == 8
    seen = [ceiling.most]
    for _ in range(5000):
        ceiling.held(ceiling.most)
        if ceiling.most != seen[-1]:
            seen.append(ceiling.most)
    assert seen == list(LADDER[LADDER.index(8) :])


@given(rung=st.sampled_from(LADDER), others=st.lists(st.sampled_from(LADDER), max_size=50))
def test_a_ceiling_is_a_rung_at_most_half_of_what_failed(rung: int, others: list[int]) -> None:
    """Steps below it prove nothing."""
    ceiling = Ceiling()
    ceiling.lower(rung)
    lowered = ceiling.most
    assert lowered in LADDER
    assert lowered <= max(1, rung // 2)
    for other in others:
        if other < lowered:
            ceiling.held(other)
    assert ceiling.most == lowered


def test_a_pinned_job_that_does_not_fit_its_rung_fails_and_the_free_ones_go_on() -> None:
    bench = Bench(Small(PINNED - 1))
    bench.add(job(1, reproducible=True), job(2))
    bench.run()
    assert sorted(bench.ended) == [(1, "out_of_memory"), (2, "made")]


@pytest.mark.parametrize(("pause", "exhausted"), [(100.0, True), (1000.0, False)])
def test_memory_that_lacks_where_it_sufficed_three_times_soon_ends_the_process(
    *, pause: float, exhausted: bool
) -> None:
    device = Small(4)
    bench = Bench(device)
    for _ in range(3):
        device.most = 4
        bench.add(job(1, steps=1))
        bench.run()
        device.most = 0
        bench.add(job(2, steps=1))
        bench.run()
        bench.now += pause
    assert bench.engine.is_exhausted is exhausted


def test_a_size_that_never_fit_says_nothing_about_the_process() -> None:
    bench = Bench(Small(0))
    bench.add(*(job(seed) for seed in range(10)))
    bench.run()
    assert not bench.engine.is_exhausted


class Overflowing(Noting):
    """Decodes no numbers for one seed, unless it began carefully, if that helps at all."""

    def __init__(self, seed: int, *, helps: bool) -> None:
        super().__init__()
        self._seed = seed
        self._helps = helps
        self._careful: set[int] = set()

    def begin(self, request: Request, *, careful: bool = False) -> Sample:
        if careful:
            self._careful.add(request.seed)
        return super().begin(request, careful=careful)

    def finish(self, sample: Sample) -> Made:
        seed = sample.request.seed
        if seed == self._seed and not (self._helps and seed in self._careful):
            raise ModelOutputInvalid
        return super().finish(sample)


@pytest.mark.parametrize(("helps", "end"), [(True, "made"), (False, "model_output_invalid")])
def test_a_result_that_is_no_number_is_made_again_alone_and_carefully(
    *, helps: bool, end: str
) -> None:
    device = Overflowing(2, helps=helps)
    bench = Bench(device)
    bench.add(job(1), job(2), job(3, steps=9))
    bench.run()
    assert dict(bench.ended) == {1: "made", 2: end, 3: "made"}
    assert device.steps.count((2,)) == 2


class Observing(Capacity):
    """Notes which calls' memory is compared with the plan."""

    def __init__(self, most: int) -> None:
        super().__init__(max_batch=most)
        self.observed: list[tuple[Stage, int, int, int]] = []

    @contextmanager
    def observing(self, stage: Stage, slots: int, height: int, width: int) -> Iterator[None]:
        yield
        self.observed.append((stage, slots, height, width))


def test_each_calls_memory_is_compared_with_the_plan_but_not_in_single_precision() -> None:
    """There it takes twice as much, which says nothing of the next picture's."""
    capacity = Observing(4)
    bench = Bench(Overflowing(2, helps=True), capacity=capacity)
    bench.add(job(2, steps=1, guidance_scale=3.0))
    bench.run()
    assert bench.ended == [(2, "made")]
    assert capacity.observed == [
        (Stage.ENCODE, 1, 64, 64),
        (Stage.UNET, 2, 64, 64),
        (Stage.UNET, 2, 64, 64),
    ]


@pytest.mark.parametrize("call", ["begin", "finish"])
def test_a_surprise_is_the_failure_of_its_job(call: str) -> None:
    bench = Bench(Scripted({(call, 1): RuntimeError("no")}))
    bench.add(job(1), job(2), job(3))
    bench.run()
    assert sorted(bench.ended) == [(1, "made"), (2, "upscale_failed"), (3, "made")]


@pytest.mark.parametrize("call", ["begin", "step", "finish"])
def test_a_lost_device_is_no_jobs_fault(call: str) -> None:
    bench = Bench(Scripted({(call, 1): DeviceLost("gone")}))
    bench.add(job(1), job(2))
    with pytest.raises(DeviceLost):
        bench.run()
    assert bench.ended in ([], [(1, "made")])


def test_at_the_stop_what_has_begun_is_finished_and_the_rest_given_back() -> None:
    bench = Bench(Noting(), most=1)
    bench.add(job(1), job(2))
    bench.turn()
    (released,) = bench.engine.release_waiting()
    bench.run()
    assert bench.ended == [(1, "made")]
    assert released == Released(released.claim)


any_job = st.builds(
    job,
    st.integers(0, 255),
    steps=st.integers(1, 6),
    side=st.sampled_from([64, 128, 192]),
    guidance_scale=st.sampled_from([0.0, 1.0, 3.0]),
    reproducible=st.booleans(),
    job_class=st.sampled_from(JobClass),
)


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 3), any_job), max_size=20),
    most=st.sampled_from([1, 2, 3, 8]),
)
def test_every_job_ends_once_and_its_wait_is_bounded(
    arrivals: list[tuple[int, Any]], most: int
) -> None:
    """No turn is without a step, so all is done within the steps that there are."""
    device = Noting()
    bench = Bench(device, most=most)
    turns = 0
    for pause, prepared in arrivals:
        bench.turn(pause)
        turns += pause
        bench.add(prepared)
    while not bench.engine.is_idle:
        bench.turn()
        turns += 1
        assert turns <= sum(pause + one.request.steps for pause, one in arrivals)
    assert sorted(seed for seed, _ in bench.ended) == sorted(
        one.request.seed for _, one in arrivals
    )
    assert {how for _, how in bench.ended} <= {"made"}
    assert all(len(shapes) == 1 for shapes in device.shapes)
