"""Chunks that are written while the next are gathered."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from twofold_producer.submit.bulk import Tally, overlapping
from twofold_producer.submit.chunks import Chunk
from twofold_schema.errors import QueueFull
from twofold_schema.ids import new_packed_id
from twofold_schema.job import Parameters
from twofold_schema.ledger.new_jobs import NewJob, Terms, Written

_PATIENCE_SECONDS = 10
_TERMS = Terms(output_prefix="s3://twofold/results", parameters=Parameters(), max_attempts=3)


def chunk(number: int, *keys: str, of: int) -> Chunk:
    jobs = [NewJob(source=f"s3://twofold/{key}.png", terms=_TERMS, seed=1, key=key) for key in keys]
    return Chunk(
        is_first=number == 0,
        is_last=number == of - 1,
        jobs=jobs,
        job_ids=[new_packed_id() for _ in jobs],
        positions=[number] * len(jobs),
        lines=[None] * len(jobs),
    )


def written(one: Chunk, *, limited: bool | None = False) -> Written:
    return Written(job_ids=one.job_ids, created=[True] * len(one.jobs), faults={}, limited=limited)


class Counting(Tally):
    def __init__(self) -> None:
        super().__init__()
        self.counted: list[int] = []

    def add(self, chunk: Chunk, written: Written) -> None:
        self.counted.append(chunk.positions[0])


def in_chunks(*keys: str) -> Iterator[Chunk]:
    return (chunk(number, *one, of=len(keys)) for number, one in enumerate(keys))


def test_chunks_are_written_side_by_side_but_for_the_first_and_the_last() -> None:
    now, together, lock = set[int](), list[set[int]](), threading.Lock()
    meeting = threading.Barrier(3)

    def write(one: Chunk) -> Written:
        (number,) = one.positions
        with lock:
            now.add(number)
            together.append(set(now))
        if number in {1, 2, 3}:
            meeting.wait(_PATIENCE_SECONDS)
        with lock:
            now.remove(number)
        return written(one)

    overlapping(in_chunks("a", "b", "c", "d", "e"), write, Tally())

    assert {1, 2, 3} in together
    assert together[0] == {0}
    assert together[-1] == {4}


@pytest.mark.parametrize(
    "why", ["they share a key", "the tenant is limited", "nobody knows whether it is", "as asked"]
)
def test_chunks_are_written_one_by_one_where_side_by_side_would_tell(why: str) -> None:
    limited = {"the tenant is limited": True, "nobody knows whether it is": None}.get(why, False)
    keys = ("a", "bx", "cx", "dx", "ex") if why == "they share a key" else tuple("abcde")
    gathered = [threading.Event() for _ in keys]
    now, together, lock = set[int](), list[set[int]](), threading.Lock()

    def chunks() -> Iterator[Chunk]:
        for one in in_chunks(*keys):
            gathered[one.positions[0]].set()
            yield one

    def write(one: Chunk) -> Written:
        number = one.positions[0]
        with lock:
            now.add(number)
            together.append(set(now))
        # Were the next one begun, the one after it would be gathered at once.
        if number + 2 < len(keys):
            assert not gathered[number + 2].wait(0.05)
        with lock:
            now.remove(number)
        return written(one, limited=limited)

    overlapping(chunks(), write, Tally(), one_by_one=why == "as asked")

    assert together == [{number} for number in range(5)]


def test_answers_come_in_order_whichever_chunk_is_written_first() -> None:
    overtaken, tally = threading.Event(), Counting()

    def write(one: Chunk) -> Written:
        if one.positions == [1]:
            assert overtaken.wait(_PATIENCE_SECONDS)
        elif one.positions == [2]:
            overtaken.set()
        return written(one)

    overlapping(in_chunks(*"abcde"), write, tally)
    assert tally.counted == list(range(5))


@pytest.fixture
def writes_ended(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released whenever a chunk has ended, and everybody can see that."""
    ended = threading.Semaphore(0)
    for name in ("set_result", "set_exception"):
        settle = getattr(Future, name)

        def settle_and_say(
            future: Future[Any], outcome: object, settle: Callable[..., None] = settle
        ) -> None:
            settle(future, outcome)
            ended.release()

        monkeypatch.setattr(Future, name, settle_and_say)
    return ended


def test_after_a_chunk_that_cannot_be_written_none_is_begun_and_those_that_were_are_counted(
    writes_ended: threading.Semaphore,
) -> None:
    begun, all_begun, first_ended = list[int](), threading.Barrier(3), threading.Event()

    def write(one: Chunk) -> Written:
        (number,) = one.positions
        begun.append(number)
        if number in {1, 2, 3}:
            all_begun.wait(_PATIENCE_SECONDS)
        if number == 1:
            raise QueueFull("full")
        if number == 2:
            # Chunk 0, and then 1.
            assert all(writes_ended.acquire(timeout=_PATIENCE_SECONDS) for _ in range(2))
            first_ended.set()
        if number == 3:
            assert first_ended.wait(_PATIENCE_SECONDS)
        return written(one)

    tally = Counting()
    with pytest.raises(QueueFull):
        overlapping(in_chunks(*"abcdefgh"), write, tally)

    assert sorted(begun) == [0, 1, 2, 3]
    assert tally.counted == [0, 2, 3]


def test_after_answers_that_the_caller_cannot_take_it_is_told_no_more_and_none_is_begun() -> None:
    begun, refused = list[int](), threading.Event()

    class Refusing(Counting):
        def add(self, chunk: Chunk, written: Written) -> None:
            super().add(chunk, written)
            if chunk.positions == [1]:
                refused.set()
                raise ValueError("not like this")

    def write(one: Chunk) -> Written:
        (number,) = one.positions
        begun.append(number)
        if number in {2, 3, 4}:
            assert refused.wait(_PATIENCE_SECONDS)
        return written(one)

    tally = Refusing()
    with pytest.raises(ValueError, match="not like this"):
        overlapping(in_chunks(*"abcdefgh"), write, tally)

    assert not {6, 7} & set(begun)
    assert tally.counted == [0, 1]


def test_a_chunk_that_was_written_is_told_before_the_next_is_begun(
    writes_ended: threading.Semaphore,
) -> None:
    told, tally = list[list[int]](), Counting()

    def chunks() -> Iterator[Chunk]:
        for one in in_chunks("a", "b", "c", "d"):
            yield one
            assert writes_ended.acquire(timeout=_PATIENCE_SECONDS)

    def write(one: Chunk) -> Written:
        told.append(list(tally.counted))
        return written(one)

    overlapping(chunks(), write, tally)
    assert told == [[], [0], [0, 1], [0, 1, 2]]
    assert tally.counted == [0, 1, 2, 3]


def test_what_ends_the_items_comes_after_all_that_was_gathered_is_counted() -> None:
    tally = Counting()

    def items() -> Iterator[Chunk]:
        yield from (chunk(number, str(number), of=9) for number in range(4))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overlapping(items(), written, tally)

    assert tally.counted == list(range(4))
