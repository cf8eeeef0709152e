"""Chunks that are written while the next are gathered."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from twofold_producer.submit.bulk import Tally, overlapping
from twofold_producer.submit.chunks import Chunk
from twofold_schema.errors import QueueFull
from twofold_schema.ledger import submit

_PATIENCE_SECONDS = 10


def _chunks(many: int, gathered: list[int], on_gathered: threading.Event) -> Iterator[Chunk]:
    for number in range(many):
        gathered.append(number)
        if number == 2:
            on_gathered.set()
        yield Chunk(is_first=number == 0, is_last=number == many - 1)


def test_after_a_chunk_that_cannot_be_written_none_is_begun() -> None:
    gathered, ahead, begun = list[int](), threading.Event(), list[Chunk]()

    def write(chunk: Chunk) -> Sequence[submit.Answer]:
        begun.append(chunk)
        assert ahead.wait(_PATIENCE_SECONDS)  # others wait behind this one
        raise QueueFull("full")

    with pytest.raises(QueueFull):
        overlapping(_chunks(6, gathered, ahead), write, Tally())

    assert len(begun) == 1
    assert len(gathered) >= 3


def test_after_answers_that_the_caller_cannot_take_none_is_begun_that_waits() -> None:
    gathered, ahead, taken = list[int](), threading.Event(), threading.Event()
    begun: list[Chunk] = []

    class Refusing(Tally):
        def add(self, chunk: Chunk, written: Sequence[submit.Answer]) -> None:
            taken.set()
            raise ValueError("not like this")

    def write(chunk: Chunk) -> Sequence[submit.Answer]:
        begun.append(chunk)
        if len(begun) == 2:
            assert taken.wait(_PATIENCE_SECONDS)
        return ()

    with pytest.raises(ValueError, match="not like this"):
        overlapping(_chunks(6, gathered, ahead), write, Refusing())

    assert len(begun) <= 3
    assert len(gathered) <= 4


def test_what_ends_the_items_comes_after_all_that_was_gathered_is_counted() -> None:
    counted: list[Chunk] = []

    class Counting(Tally):
        def add(self, chunk: Chunk, written: Sequence[submit.Answer]) -> None:
            counted.append(chunk)

    def items() -> Iterator[Chunk]:
        yield from (Chunk(is_first=number == 0) for number in range(4))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overlapping(items(), lambda _: (), Counting())

    assert len(counted) == 4
