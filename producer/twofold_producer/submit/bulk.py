"""Many items, chunk by chunk: while some are written the next are checked."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import compress
from typing import TypeAlias
from uuid import UUID

from twofold_producer.submit.chunks import Chunk
from twofold_producer.submit.submission import Answer, JobIds, OnAnswers, Outcome, Submission
from twofold_schema.ledger.new_jobs import Written

#: Writes a chunk, for good or inside the caller's transaction; says what came of each of its jobs.
Write: TypeAlias = Callable[[Chunk], Written]

_MOST_FAULTS = 1000
_OUTCOMES = (Outcome.EXISTING, Outcome.CREATED)

#: Chunks that are written side by side: while the server works for one, the interpreter does for
#: another. And how many are written or wait to be while the next is gathered.
_WRITERS, _UNDER_WAY = 3, 5


class Tally:
    """Counts what came of items.

    Args:
        on_answers: Told as well.

    Attributes:
        created: How many items are new jobs.
    """

    def __init__(self, on_answers: OnAnswers | None = None) -> None:
        self.created = 0
        self._on_answers = on_answers
        self._items = self._invalid = 0
        self._ids = bytearray()
        self._faults: list[Answer] = []

    def add(self, chunk: Chunk, written: Written) -> None:
        """Count a chunk that was written."""
        faults = [
            Answer(
                position=chunk.positions[at],
                key=chunk.jobs[at].key,
                outcome=Outcome.INVALID,
                code=fault.code,
                message=fault.message,
                line=chunk.lines[at],
            )
            for at, fault in written.faults.items()
        ]
        faults = sorted([*chunk.invalid, *faults])
        accepted = bytearray(b"\1" * len(chunk.jobs))
        for at in written.faults:
            accepted[at] = False
        self._ids += b"".join(compress(written.job_ids, accepted))
        self.created += sum(written.created)
        self._items += chunk.items
        self._invalid += len(faults)
        self._faults += faults[: _MOST_FAULTS - len(self._faults)]
        if self._on_answers and chunk.items:
            answers = [
                Answer(position, new_job.key, _OUTCOMES[created], UUID(bytes=job_id), line=line)
                for position, new_job, created, job_id, line in compress(
                    zip(
                        chunk.positions,
                        chunk.jobs,
                        written.created,
                        written.job_ids,
                        chunk.lines,
                        strict=True,
                    ),
                    accepted,
                )
            ]
            self._on_answers(sorted(answers + faults) if faults else answers)

    def submission(self, submission_id: UUID) -> Submission:
        """All that was counted."""
        return Submission(
            id=submission_id,
            created=self.created,
            existing=self._items - self.created - self._invalid,
            invalid=self._invalid,
            job_ids=JobIds(self._ids),
            faults=tuple(self._faults),
        )


def in_turn(chunks: Iterator[Chunk], write: Write, tally: Tally) -> None:
    """Write each chunk before the next is gathered."""
    for chunk in chunks:
        tally.add(chunk, write(chunk))


def overlapping(
    chunks: Iterator[Chunk], write: Write, tally: Tally, *, one_by_one: bool = False
) -> None:
    """Write chunks in threads of their own while the next are gathered; count them in order.

    Side by side, but for the first, which begins the submission, the last, which seals it, those
    that share a key with another, so that the first to name it has it, and those of a tenant that
    may only have so many jobs waiting, or of which that is not known. Whatever ends the items, the
    chunks under way are written and counted first. After one that cannot be written no other is
    begun; those that were are counted.

    Args:
        chunks: The last says so.
        write: Called in any thread.
        tally: Told in the thread that calls.
        one_by_one: None side by side.
    """
    first = next(chunks)
    if first.is_last:
        tally.add(first, write(first))
        return
    with ThreadPoolExecutor(_WRITERS, "submit") as writers:
        under_way = _UnderWay(writers, write, tally)
        under_way.begin(first)
        try:
            for chunk in chunks:
                alone = one_by_one or chunk.is_last or under_way.must_end_before(chunk)
                under_way.count(most_left=0 if alone else _UNDER_WAY - 1)
                under_way.begin(chunk)
        finally:
            under_way.count(most_left=0)


class _UnderWay:
    """Chunks that are written or wait to be."""

    def __init__(self, writers: Executor, write: Write, tally: Tally) -> None:
        self._writers = writers
        self._write = write
        self._tally = tally
        self._failed = threading.Event()
        self._chunks: deque[tuple[Chunk, Future[Written | None]]] = deque()
        self._limited = True

    def must_end_before(self, chunk: Chunk) -> bool:
        """Whether this chunk can only be written when all of them are."""
        return any(
            self._limited or other.is_first or not other.keys.isdisjoint(chunk.keys)
            for other, _ in self._chunks
        )

    def begin(self, chunk: Chunk) -> None:
        """Write a chunk as soon as a thread is free."""
        self._chunks.append((chunk, self._writers.submit(self._write_next, chunk)))

    def count(self, *, most_left: int) -> None:
        """Wait until no more are under way, and count those that have ended.

        Raises:
            BaseException: One could not be written; all others have ended and are counted. Or the
                tally cannot take one; then it is told of no other.
        """
        failure: BaseException | None = None
        while self._chunks and (len(self._chunks) > most_left or self._has_news()):
            chunk, ended = self._chunks[0]
            problem = ended.exception()  # whoever interrupts this wait finds the chunk where it was
            self._chunks.popleft()
            if problem is not None:
                failure = failure or problem
            elif (written := ended.result()) is not None:
                if written.limited is not None:
                    self._limited = written.limited
                self._tell(chunk, written)
        if failure is not None:
            raise failure

    def _has_news(self) -> bool:
        """Whether the first has ended, or none is begun any more."""
        return self._chunks[0][1].done() or self._failed.is_set()

    def _tell(self, chunk: Chunk, written: Written) -> None:
        try:
            self._tally.add(chunk, written)
        except BaseException:
            self._failed.set()
            self._chunks.clear()
            raise

    def _write_next(self, chunk: Chunk) -> Written | None:
        if self._failed.is_set():
            return None
        try:
            return self._write(chunk)
        except BaseException:
            self._failed.set()
            raise
