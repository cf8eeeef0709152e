"""Chunks that are written while the next are gathered."""

import threading
from collections.abc import Iterable, Iterator

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


def written(one: Chunk, *, limited: bool = False) -> Written:
    return Written(job_ids=one.job_ids, created=[True] * len(one.jobs), faults={}, limited=limited)


class Desk:
    """Writes chunks, and knows which were under way together.

    Args:
        limited: Whether the tenant may only have so many jobs waiting.
    """

    def __init__(self, *, limited: bool = False) -> None:
        self.together: list[set[str]] = []
        self.meeting = threading.Barrier(2)
        self.met = False
        self._limited = limited
        self._now: set[str] = set()
        self._lock = threading.Lock()

    def write(self, one: Chunk) -> Written:
        name = str(one.positions[0])
        with self._lock:
            self._now.add(name)
            self.together.append(set(self._now))
        try:
            if not one.is_first and not self.met:
                self._meet()
            return written(one, limited=self._limited)
        finally:
            with self._lock:
                self._now.remove(name)

    def _meet(self) -> None:
        try:
            self.meeting.wait(0.2)
            self.met = True
        except threading.BrokenBarrierError:
            self.meeting.reset()


def in_chunks(*keys: str) -> Iterator[Chunk]:
    return (chunk(number, *one, of=len(keys)) for number, one in enumerate(keys))


def test_chunks_are_written_side_by_side_but_for_the_first_and_the_last() -> None:
    desk = Desk()
    overlapping(in_chunks("a", "b", "c", "d", "e"), desk.write, Tally())

    assert desk.met
    assert desk.together[0] == {"0"}
    assert desk.together[-1] == {"4"}


@pytest.mark.parametrize("why", ["the items share a key", "the tenant is limited", "as asked"])
def test_chunks_are_written_one_by_one_where_side_by_side_would_tell(why: str) -> None:
    keys = ("a", "bx", "cx", "dx", "ex") if why == "the items share a key" else tuple("abcde")
    desk = Desk(limited=why == "the tenant is limited")
    overlapping(in_chunks(*keys), desk.write, Tally(), one_by_one=why == "as asked")

    assert not desk.met
    assert desk.together == [{str(number)} for number in range(5)]


def test_answers_come_in_order_whichever_chunk_is_written_first() -> None:
    counted: list[int] = []
    overtaken = threading.Event()

    class Counting(Tally):
        def add(self, chunk: Chunk, written: Written) -> None:
            counted.append(chunk.positions[0])

    def write(one: Chunk) -> Written:
        if one.positions == [1]:
            assert overtaken.wait(_PATIENCE_SECONDS)
        elif one.positions == [2]:
            overtaken.set()
        return written(one)

    overlapping(in_chunks(*"abcde"), write, Counting())
    assert counted == list(range(5))


def gathered_from(chunks: Iterable[Chunk], gathered: list[int]) -> Iterator[Chunk]:
    for one in chunks:
        gathered.append(one.positions[0])
        yield one


def test_after_a_chunk_that_cannot_be_written_none_is_begun() -> None:
    gathered, begun, ahead = list[int](), list[int](), threading.Event()

    def chunks() -> Iterator[Chunk]:
        for one in in_chunks(*"abcdef"):
            gathered.append(one.positions[0])
            yield one
            ahead.set()

    def write(one: Chunk) -> Written:
        begun.append(one.positions[0])
        assert ahead.wait(_PATIENCE_SECONDS)  # the next one is gathered
        raise QueueFull("full")

    with pytest.raises(QueueFull):
        overlapping(chunks(), write, Tally())

    assert begun == [0]
    assert gathered == [0, 1]


def test_after_answers_that_the_caller_cannot_take_none_is_begun_that_waits() -> None:
    gathered, begun, taken = list[int](), list[int](), threading.Event()

    class Refusing(Tally):
        def add(self, chunk: Chunk, written: Written) -> None:
            taken.set()
            raise ValueError("not like this")

    def write(one: Chunk) -> Written:
        begun.append(one.positions[0])
        return written(one)

    with pytest.raises(ValueError, match="not like this"):
        overlapping(gathered_from(in_chunks(*"abcdef"), gathered), write, Refusing())

    assert taken.is_set()
    assert begun == [0]
    assert gathered == [0, 1]


def test_what_ends_the_items_comes_after_all_that_was_gathered_is_counted() -> None:
    counted: list[int] = []

    class Counting(Tally):
        def add(self, chunk: Chunk, written: Written) -> None:
            counted.append(chunk.positions[0])

    def items() -> Iterator[Chunk]:
        yield from (chunk(number, str(number), of=9) for number in range(4))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overlapping(items(), written, Counting())

    assert counted == list(range(4))
