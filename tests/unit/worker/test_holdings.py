"""What is in hand, and how it comes to agree with what the ledger believes."""

import threading
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold_schema.job import Claim
from twofold_worker.holdings import Holdings

RUN = UUID(int=99)
AT_ONCE = 0.0
AMPLE = 20.0


def claim(number: int, fence: int = 1) -> Claim:
    return Claim(job_id=UUID(int=number), fence=fence, run_id=RUN)


def believed(*claims: Claim) -> dict[Claim, bool]:
    """That these claims are running and nobody wants them cancelled."""
    return dict.fromkeys(claims, False)


@pytest.fixture
def holdings() -> Holdings:
    return Holdings()


def test_what_was_taken_is_in_hand_until_it_is_dropped(holdings: Holdings) -> None:
    holdings.take([claim(1), claim(2)])
    holdings.drop([claim(1)])
    assert (holdings.goes_on(claim(1)), holdings.goes_on(claim(2)), len(holdings)) == (
        False,
        True,
        1,
    )


def test_dropping_an_old_claim_leaves_a_later_one_of_the_same_job(holdings: Holdings) -> None:
    holdings.take([claim(1, fence=1)])
    holdings.take([claim(1, fence=2)])
    assert not holdings.goes_on(claim(1, fence=1))
    holdings.drop([claim(1, fence=1)])
    assert holdings.goes_on(claim(1, fence=2))


def test_a_claim_whose_reply_was_lost_is_named_at_the_second_beat(holdings: Holdings) -> None:
    assert holdings.reconcile(believed(claim(1))) == []
    assert holdings.reconcile(believed(claim(1))) == [claim(1)]


def test_a_claim_whose_reply_came_late_is_kept(holdings: Holdings) -> None:
    holdings.reconcile(believed(claim(1)))
    holdings.take([claim(1)])
    assert holdings.reconcile(believed(claim(1))) == []
    assert holdings.goes_on(claim(1))


def test_a_lost_reply_is_named_until_the_ledger_has_heard(holdings: Holdings) -> None:
    """The release itself may be lost too."""
    for _ in range(2):
        holdings.reconcile(believed(claim(1)))
    assert holdings.reconcile(believed(claim(1))) == [claim(1)]
    assert holdings.reconcile(believed()) == []


def test_a_claim_that_the_ledger_gave_away_is_let_go_at_the_second_beat(
    holdings: Holdings,
) -> None:
    holdings.take([claim(1)])
    holdings.reconcile(believed())
    assert holdings.goes_on(claim(1))
    holdings.reconcile(believed())
    assert not holdings.goes_on(claim(1))


def test_a_claim_taken_while_the_beat_was_under_way_is_kept(holdings: Holdings) -> None:
    holdings.take([claim(1)])
    holdings.reconcile(believed())
    holdings.reconcile(believed(claim(1)))
    holdings.reconcile(believed())
    assert holdings.goes_on(claim(1))


ledgers = st.lists(
    st.tuples(st.sets(st.integers(1, 4)), st.sets(st.integers(1, 4))), min_size=1, max_size=8
)


@given(beats=ledgers)
def test_no_single_beat_decides(beats: list[tuple[set[int], set[int]]]) -> None:
    """A claim is released, or let go, if and only if the last two beats both said so."""
    holdings = Holdings()
    missing: set[int] = set()
    strangers: set[int] = set()
    for taken, ledger in beats:
        holdings.take(map(claim, taken))
        held = {number for number in range(1, 5) if holdings.goes_on(claim(number))}
        lost = holdings.reconcile(believed(*map(claim, ledger)))
        assert lost == [claim(number) for number in sorted((ledger - held) & strangers)]
        gone = {number for number in held if not holdings.goes_on(claim(number))}
        assert gone == (held - ledger) & missing
        missing, strangers = held - ledger, ledger - held


def test_a_job_is_called_off_for_as_long_as_the_ledger_says_so(holdings: Holdings) -> None:
    holdings.take([claim(1), claim(2)])
    holdings.reconcile({claim(1): True, claim(2): False})
    assert not holdings.goes_on(claim(1))
    assert holdings.goes_on(claim(2))
    holdings.reconcile({claim(2): False})
    assert holdings.goes_on(claim(1))


def test_an_old_cancel_says_nothing_about_a_later_claim_of_the_job(holdings: Holdings) -> None:
    holdings.take([claim(1, fence=2)])
    holdings.reconcile({claim(1, fence=1): True})
    assert holdings.goes_on(claim(1, fence=2))


@pytest.mark.parametrize("leaves", ["dropped", "given away"])
def test_who_waits_for_empty_hands_is_woken_when_the_last_job_leaves(
    holdings: Holdings, leaves: str
) -> None:
    holdings.take([claim(2)])
    holdings.reconcile({})
    answers: list[bool] = []
    waiter = threading.Thread(target=lambda: answers.append(holdings.wait_empty(10 * AMPLE)))
    waiter.start()
    if leaves == "dropped":
        holdings.drop([claim(2)])
    else:
        holdings.reconcile({})
    waiter.join(AMPLE)
    assert answers == [True]


def test_empty_hands_are_waited_for(holdings: Holdings) -> None:
    holdings.take([claim(1)])
    assert not holdings.wait_empty(AT_ONCE)
    holdings.drop([claim(1)])
    assert holdings.wait_empty(AT_ONCE)


def test_how_long_a_claim_has_been_in_hand_begins_anew_with_each_fence() -> None:
    now = 100.0
    holdings = Holdings(clock=lambda: now)
    holdings.take([claim(1)])
    now = 107.0
    holdings.take([claim(2)])

    assert [holdings.seconds(claim(number)) for number in (1, 2, 3)] == [7.0, 0.0, 0.0]
    holdings.take([claim(1, fence=2)])
    assert [holdings.seconds(claim(1, fence=fence)) for fence in (1, 2)] == [0.0, 0.0]
    now = 110.0
    assert holdings.seconds(claim(1, fence=2)) == 3.0
    holdings.drop([claim(1, fence=2)])
    assert holdings.seconds(claim(1, fence=2)) == 0.0
