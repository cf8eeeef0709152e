"""Who killed the worker is found by halves, and nobody else pays."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from twofold_schema.ids import new_id
from twofold_schema.ledger.poison import Orphan, Verdict, judge


def _orphans(*, started: int, untouched: int = 0) -> list[Orphan]:
    isolation = new_id()
    return [
        *(Orphan(new_id(), started=True, isolation=isolation) for _ in range(started)),
        *(Orphan(new_id(), started=False, isolation=isolation) for _ in range(untouched)),
    ]


def _marks(verdicts: list[Verdict]) -> dict[UUID | None, int]:
    marks = [verdict.isolation for verdict in verdicts if verdict.suspect]
    return {mark: marks.count(mark) for mark in marks}


def test_a_job_that_crashed_alone_is_charged() -> None:
    (verdict,) = judge(_orphans(started=1), new_id)
    assert verdict.suspect
    assert verdict.charged


def test_a_suspect_beside_untouched_jobs_is_set_apart_before_it_is_charged() -> None:
    orphans = _orphans(started=1, untouched=2)
    suspect, *others = sorted(judge(orphans, new_id), key=lambda one: not one.suspect)
    assert not suspect.charged
    assert suspect.isolation not in {other.isolation for other in others}


@given(started=st.integers(0, 40), untouched=st.integers(0, 40))
def test_every_job_gets_one_verdict_and_suspects_go_back_in_two_halves(
    started: int, untouched: int
) -> None:
    orphans = _orphans(started=started, untouched=untouched)
    verdicts = judge(orphans, new_id)
    assert {one.job_id: one.suspect for one in verdicts} == {
        one.job_id: one.started for one in orphans
    }
    assert len(verdicts) == len(orphans)
    halves = sorted(_marks(verdicts).values())
    assert halves == [half for half in (started // 2, started - started // 2) if half]
    assert sum(one.charged for one in verdicts) == (1 if (started, untouched) == (1, 0) else 0)


@given(untouched=st.integers(1, 40))
def test_jobs_that_the_process_never_touched_keep_their_mark_and_are_not_suspects(
    untouched: int,
) -> None:
    orphans = _orphans(started=0, untouched=untouched)
    assert judge(orphans, new_id) == [
        Verdict(one.job_id, suspect=False, charged=False, isolation=one.isolation)
        for one in orphans
    ]


@given(size=st.integers(1, 64), guilty=st.integers(0, 63))
def test_the_guilty_job_is_alone_after_as_many_crashes_as_its_group_has_halvings(
    size: int, guilty: int
) -> None:
    group = _orphans(started=size)
    culprit = group[guilty % size].job_id
    crashes = 0
    while True:
        crashes += 1
        verdicts = {one.job_id: one for one in judge(group, new_id)}
        if verdicts[culprit].charged:
            break
        mark = verdicts[culprit].isolation
        group = [Orphan(one, True, mark) for one in verdicts if verdicts[one].isolation == mark]
    assert size.bit_length() <= crashes <= 1 + (size - 1).bit_length()
