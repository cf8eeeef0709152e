"""Nobody comes in who does not fit, and everybody does in the end."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.house import eventually

from twofold_worker.room import Room


@pytest.mark.parametrize(
    ("jobs", "pixels", "there", "comes"),
    [(2, None, [10, 10], 1), (9, 100, [60], 50), (9, 100, [30, 30], 41), (9, 100, [500], 1)],
    ids=["many", "large", "together", "larger than all"],
)
def test_who_does_not_fit_waits_until_somebody_leaves(
    jobs: int, pixels: int | None, there: list[int], comes: int
) -> None:
    room = Room(jobs=jobs, pixels=pixels)
    for one in there:
        room.take(one)
    came = threading.Thread(target=room.take, args=[comes])
    came.start()
    eventually(lambda: room._changed._waiters)  # type: ignore[attr-defined]  # of the library
    assert came.is_alive()

    room.leave(there[0])

    came.join(30)
    assert not came.is_alive()


def test_one_that_is_larger_than_all_has_it_to_itself() -> None:
    room = Room(jobs=9, pixels=100)
    room.take(101)
    room.leave(101)
    room.take(500)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 150), min_size=1, max_size=30),
    jobs=st.integers(1, 4),
    pixels=st.none() | st.integers(1, 200),
)
def test_it_is_never_overfull_and_everybody_gets_in(
    sizes: list[int], jobs: int, pixels: int | None
) -> None:
    room, lock = Room(jobs=jobs, pixels=pixels), threading.Lock()
    inside: list[int] = []
    seen: list[list[int]] = []

    def visit(size: int) -> None:
        room.take(size)
        with lock:
            inside.append(size)
            seen.append(list(inside))
        with lock:
            inside.remove(size)
        room.leave(size)

    threads = [threading.Thread(target=visit, args=[size]) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(seen) == len(sizes)
    for together in seen:
        assert len(together) <= jobs
        assert len(together) == 1 or pixels is None or sum(together) <= pixels
