"""Many items, chunk by chunk: the next is checked while the one before it is written."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias
from uuid import UUID

from twofold_producer.submit.chunks import Chunk
from twofold_producer.submit.submission import Answer, JobIds, OnAnswers, Outcome, Submission
from twofold_schema.ledger import submit
from twofold_schema.ledger.new_jobs import Accepted

#: Writes a chunk, for good or inside the caller's transaction; says what came of each of its jobs.
Write: TypeAlias = Callable[[Chunk], Sequence[submit.Answer]]

_MOST_FAULTS = 1000

#: Chunks that are written, or wait to be, while the next is gathered: the server has work while
#: one's answers are looked through.
_UNDER_WAY = 2


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

    def add(self, chunk: Chunk, written: Sequence[submit.Answer]) -> None:
        """Count a chunk that was written."""
        answers, faults = [], list(chunk.invalid)
        for new_job, (position, line), answer in zip(
            chunk.jobs, chunk.places, written, strict=True
        ):
            if isinstance(answer, Accepted):
                job_id, is_new = answer
                self._ids += job_id.bytes
                self.created += is_new
                outcome = Outcome.CREATED if is_new else Outcome.EXISTING
                answers.append(Answer(position, new_job.key, outcome, job_id, None, None, line))
            else:
                fault = (Outcome.INVALID, None, answer.code, answer.message, line)
                faults.append(Answer(position, new_job.key, *fault))
        faults.sort()
        self._items += len(answers) + len(faults)
        self._invalid += len(faults)
        self._faults += faults[: _MOST_FAULTS - len(self._faults)]
        if self._on_answers and (answers or faults):
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


def overlapping(chunks: Iterator[Chunk], write: Write, tally: Tally) -> None:
    """Write chunks in a thread of its own, one after the other, while the next are gathered.

    Whatever ends the items, the chunks under way are written and counted first. After one that
    cannot be written no other is begun.
    """
    chunk = next(chunks)
    if chunk.is_last:
        tally.add(chunk, write(chunk))
        return
    under_way: deque[tuple[Chunk, Future[Sequence[submit.Answer]]]] = deque()
    failed = threading.Event()

    def write_next(chunk: Chunk) -> Sequence[submit.Answer]:
        if failed.is_set():
            return ()
        try:
            return write(chunk)
        except BaseException:
            failed.set()
            raise

    def count(most_left: int) -> None:
        while len(under_way) > most_left:
            written, answers = under_way.popleft()
            try:
                tally.add(written, answers.result())
            except BaseException:
                failed.set()
                under_way.clear()
                raise

    with ThreadPoolExecutor(1, "submit") as writer:
        try:
            while True:
                under_way.append((chunk, writer.submit(write_next, chunk)))
                if chunk.is_last:
                    break
                count(most_left=_UNDER_WAY)
                chunk = next(chunks)
        finally:
            count(most_left=0)
