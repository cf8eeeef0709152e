"""Batch sizes come from the ladder, and a batch that did not fit can be split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold_worker.batching import LADDER, halves, rung_for

counts = st.integers(1, 100)


@given(count=counts, most=counts)
def test_a_rung_is_the_smallest_that_holds_the_jobs_and_never_above_the_most(
    count: int, most: int
) -> None:
    allowed = [rung for rung in LADDER if rung <= most]
    holding = [rung for rung in allowed if rung >= count]
    assert rung_for(count, most=most) == (holding[0] if holding else allowed[-1])


@given(count=counts, most=counts)
def test_one_more_job_never_means_a_lower_rung(count: int, most: int) -> None:
    assert rung_for(count, most=most) <= rung_for(count + 1, most=most)


@pytest.mark.parametrize(("count", "most"), [(0, 1), (1, 0), (-1, 8)])
def test_a_batch_without_slots_is_refused(count: int, most: int) -> None:
    with pytest.raises(ValueError, match="1 slot or more"):
        rung_for(count, most=most)


@given(batch=st.lists(st.integers(), min_size=2))
def test_halves_keep_every_job_in_order_and_differ_by_at_most_one(batch: list[int]) -> None:
    first, second = halves(batch)
    assert [*first, *second] == batch
    assert 0 <= len(first) - len(second) <= 1


@pytest.mark.parametrize("batch", [[], ["alone"]])
def test_a_job_alone_cannot_be_split(batch: list[str]) -> None:
    with pytest.raises(ValueError, match="no halves"):
        halves(batch)
