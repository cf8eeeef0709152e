"""A stage that stands still is seen, however busy its neighbours are, and a slow one is let be."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold_worker.progress import PATIENCE, Progress

LEAST = 8.0

#: Whole numbers of quarters: sums of them are exact.
durations = st.integers(0, 4000).map(lambda quarters: quarters / 4)


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def __iadd__(self, seconds: float) -> Self:
        self.now += seconds
        return self


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(LEAST, clock)


@pytest.fixture
def open_steps() -> Iterator[ExitStack]:
    with ExitStack() as steps:
        yield steps


def test_an_idle_process_never_stalls(progress: Progress, clock: Clock) -> None:
    with progress.step("fetch"):
        pass
    clock += 1_000_000
    assert progress.stalled() == []


def test_a_first_step_may_take_the_least_bound_and_no_longer(
    progress: Progress, clock: Clock
) -> None:
    with progress.step("fetch"):
        clock += LEAST
        assert progress.stalled() == []
        clock += 0.25
        assert progress.stalled() == ["fetch"]
    assert progress.stalled() == []


@given(seen=st.lists(durations, min_size=1), taken=durations)
def test_a_step_may_take_the_least_bound_or_ten_times_the_slowest_one(
    seen: list[float], taken: float
) -> None:
    clock = Clock()
    progress = Progress(LEAST, clock)
    for seconds in seen:
        with progress.step("upscale"):
            clock += seconds
    with progress.step("upscale"):
        clock += taken
        assert bool(progress.stalled()) == (taken > max(LEAST, PATIENCE * max(seen)))


def test_a_slow_stage_earns_patience_for_itself_only(progress: Progress, clock: Clock) -> None:
    with progress.step("upscale"):
        clock += 100
    with progress.step("upscale"), progress.step("fetch"):
        clock += 200
        assert progress.stalled() == ["fetch"]


@given(parts=st.lists(st.floats(0, LEAST), max_size=20))
def test_a_step_that_advances_within_its_bound_may_last_for_ever(parts: list[float]) -> None:
    clock = Clock()
    progress = Progress(LEAST, clock)
    with progress.step("upscale") as advance:
        for seconds in parts:
            clock += seconds
            assert progress.stalled() == []
            advance()


def test_the_bound_is_of_the_parts_between_two_advances(progress: Progress, clock: Clock) -> None:
    """A batch of a thousand short sampling steps must not excuse one of an hour."""
    with progress.step("upscale") as advance:
        for _ in range(1000):
            clock += 1
            advance()
    with progress.step("upscale"):
        clock += PATIENCE * 1 + 1
        assert progress.stalled() == ["upscale"]


def test_a_step_that_fails_is_over(progress: Progress, clock: Clock) -> None:
    with pytest.raises(OSError, match="gone"), progress.step("fetch"):
        raise OSError("gone")
    clock += 1_000_000
    assert progress.stalled() == []


def test_a_stuck_step_is_seen_among_busy_ones_of_its_stage(
    progress: Progress, clock: Clock, open_steps: ExitStack
) -> None:
    open_steps.enter_context(progress.step("store"))
    for _ in range(100):
        with progress.step("store") as advance:
            clock += 0.25
            advance()
    assert progress.stalled() == ["store"]


def test_stages_are_named_once_and_in_order(
    progress: Progress, clock: Clock, open_steps: ExitStack
) -> None:
    for stage in ("store", "fetch", "store"):
        open_steps.enter_context(progress.step(stage))
    clock += LEAST + 1
    assert progress.stalled() == ["fetch", "store"]


def test_a_step_that_waits_for_a_silent_store_may_do_so_on_top(
    progress: Progress, clock: Clock
) -> None:
    """And its neighbours of the same stage no longer than before."""
    with progress.step("fetch", silence=300.0):
        clock += LEAST + 300.0
        assert progress.stalled() == []
        with progress.step("decode"):
            clock += LEAST + 0.25
            assert progress.stalled() == ["decode", "fetch"]


def test_a_silence_that_ended_makes_no_later_step_longer(progress: Progress, clock: Clock) -> None:
    with progress.step("fetch", silence=300.0):
        clock += 290.0
    with progress.step("fetch"):
        clock += LEAST + 0.25
        assert progress.stalled() == ["fetch"]


def test_a_database_that_is_silent_to_all_may_be_so_for_ever(
    progress: Progress, clock: Clock
) -> None:
    with progress.asking("ledger"), progress.asking("heartbeat"):
        clock += 1_000_000
        assert progress.stalled() == []


def test_who_waits_in_vain_while_the_database_answers_others_is_seen(
    progress: Progress, clock: Clock, open_steps: ExitStack
) -> None:
    open_steps.enter_context(progress.asking("ledger"))
    seconds = LEAST / PATIENCE
    for _ in range(PATIENCE):
        assert progress.stalled() == []
        clock += seconds
        with progress.asking("claim"):
            pass
    clock += seconds
    with progress.asking("claim"):
        pass
    assert progress.stalled() == ["ledger"]


def test_the_first_answer_after_an_outage_makes_nobody_late(
    progress: Progress, clock: Clock
) -> None:
    with progress.asking("ledger"):
        with progress.asking("claim"):
            clock += 1_000_000
        assert progress.stalled() == []


def test_an_outage_makes_no_later_wait_longer(
    progress: Progress, clock: Clock, open_steps: ExitStack
) -> None:
    with progress.asking("ledger"):
        clock += 1_000_000
    open_steps.enter_context(progress.asking("ledger"))
    for _ in range(PATIENCE + 1):
        clock += LEAST / PATIENCE
        with progress.asking("claim"):
            pass
    assert progress.stalled() == ["ledger"]


def test_a_question_that_fails_is_no_answer(
    progress: Progress, clock: Clock, open_steps: ExitStack
) -> None:
    open_steps.enter_context(progress.asking("ledger"))
    for _ in range(10 * PATIENCE):
        clock += LEAST
        with pytest.raises(OSError, match="refused"), progress.asking("claim"):
            raise OSError("refused")
    assert progress.stalled() == []
